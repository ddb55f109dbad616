"""Authorities and certificates of tests, made when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

_SIGNS = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, and how both are written."""

    certificate: x509.Certificate
    private: CertificateIssuerPrivateKeyTypes

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        """Its key, without passphrase."""
        return self.key_with(serialization.NoEncryption())

    def key_with(self, encryption: serialization.KeySerializationEncryption) -> bytes:
        """Its key, as OpenSSL writes one."""
        return self.private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def issued(
    name: str,
    by: Issued | None = None,
    *,
    names: Sequence[str] | None = None,
    days: float = 90,
    since_days: float = 1,
    authority: bool = False,
    private: CertificateIssuerPrivateKeyTypes | None = None,
) -> Issued:
    """A certificate for ``name`` that is valid for ``days`` from now on, signed by ``by`` or by itself."""
    private = private or ec.generate_private_key(ec.SECP256R1())
    signer = by.private if by else private
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=since_days))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        # What Python's own clients ask for from 3.13 on.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if authority:
        builder = builder.add_extension(_SIGNS, critical=True)
    hosts = [name] if names is None else names
    if hosts and not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), critical=False)
    return Issued(builder.sign(signer, hashes.SHA256()), private)


@cache
def authority() -> Issued:
    """An authority that the tests believe."""
    return issued("Fiefdom's tests", authority=True, days=3650)


@cache
def intermediate() -> Issued:
    """An authority between that one and certificates."""
    return issued("Between", authority(), authority=True, days=3000)


@cache
def unchanging(name: str, number: int) -> Issued:
    """A certificate that signs itself, the same to the byte whenever it is made: for files that are expected."""
    private = ec.derive_private_key(number, ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(number)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=timezone.utc))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=timezone.utc))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return Issued(builder.sign(private, hashes.SHA256(), ecdsa_deterministic=True), private)
