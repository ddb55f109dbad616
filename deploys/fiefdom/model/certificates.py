"""Certificates and private keys: what is in a PEM, and what is wrong with one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from fiefdom.wording import printable

if TYPE_CHECKING:
    from cryptography import x509

SOON_DAYS = 21
"""Days before its end from which on a certificate is warned of: enough for a holiday and a slow authority."""
_LEAST_RSA_BITS = 2048
"""What OpenSSL takes at the level that Debian sets, and so HAProxy."""
_LEAST_EC_BITS = 224
_WEAK_HASHES = ("md5", "sha1")


@dataclass(frozen=True)
class Facts:
    """What a certificate says: the names that it is for, and from when to when all of its chain is valid."""

    names: tuple[str, ...]
    begins: datetime
    ends: datetime

    def covers(self, host: str) -> bool:
        """Whether it is for ``host``; a wildcard stands for one label, as browsers have it."""
        wanted = host.lower().rstrip(".")
        return any(wanted == name or wanted.partition(".")[2] == name.removeprefix("*.") != name for name in self.names)

    def days_left(self, now_s: float) -> int:
        """Whole days until its end; below 0 where that is over."""
        return days_left(self.ends, now_s)


@lru_cache(maxsize=256)  # of all hosts and plans of a run the same
def facts_of(chain: bytes) -> Facts:
    """What the certificates of a PEM say. Raises ValueError, in words that follow the name of the file."""
    certificates = _certificates(chain)
    for n, (lower, upper) in enumerate(pairwise(certificates), start=1):
        _require_issued_by(lower, upper, n)
    for n, certificate in enumerate(certificates, start=1):
        _require_strong(certificate, n, signed=certificate.issuer != certificate.subject)
    names = _names(certificates[0])
    if not names:
        raise ValueError("names no host (subjectAltName), which is all that clients look at; ask for one with names")
    return Facts(
        names,
        max(certificate.not_valid_before_utc for certificate in certificates),
        min(certificate.not_valid_after_utc for certificate in certificates),
    )


@lru_cache(maxsize=256)
def require_key_of(chain: bytes, key: bytes) -> None:
    """Raise ValueError where ``key`` is no private key without passphrase, or not that of the chain's first one."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization  # paramiko's, which pyinfra brings

    try:
        found = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise ValueError("has a passphrase, which nobody could type at a gateway; take it out: openssl pkey") from None
    except (ValueError, UnsupportedAlgorithm):
        # `from None`: whatever the library says may be a part of the key.
        raise ValueError("holds no private key in PEM; name the one that the certificate was made with") from None
    if _public(found.public_key()) != _public(_certificates(chain)[0].public_key()):
        raise ValueError("is not the key of that certificate; name the one that it was made with")


@lru_cache(maxsize=256)
def served(chain: bytes, key: bytes) -> bytes:
    """A chain and its key, both good, as a gateway has them: written anew, for what is read here OpenSSL may not read.

    It takes no indented line, and of a key's file the first key, whatever stands before it.
    """
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return served_chain(chain) + private


@lru_cache(maxsize=256)
def served_chain(chain: bytes) -> bytes:
    """The certificates alone of what is served."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in _certificates(chain))


def _public(key: object) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _certificates(chain: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    if b"PRIVATE KEY-----" in chain:
        raise ValueError("holds a private key as well; write that into a file of its own, and name it as `key`")
    begun = len(re.findall(rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----", chain))
    if not begun:
        raise ValueError("holds no certificate in PEM; it begins with -----BEGIN CERTIFICATE-----")
    try:
        found = x509.load_pem_x509_certificates(chain)
    except ValueError:
        found = []
    # One that is cut off is passed over in silence.
    if len(found) != begun:
        raise ValueError("holds a certificate that cannot be read; get it anew")
    return found


def _require_issued_by(lower: x509.Certificate, upper: x509.Certificate, n: int) -> None:
    from cryptography.exceptions import InvalidSignature

    try:
        lower.verify_directly_issued_by(upper)
    except (ValueError, TypeError, InvalidSignature):
        raise ValueError(
            f"is out of order: its certificate {n + 1} ({_subject(upper)}) did not sign the one before "
            f"({_subject(lower)}); put the host's own first, then who signed it, and so on"
        ) from None


def _require_strong(certificate: x509.Certificate, n: int, *, signed: bool) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    which = "its certificate" if n == 1 else f"its certificate {n}"
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < _LEAST_RSA_BITS:
            raise ValueError(f"is too weak: {which} has an RSA key of {key.key_size} bits; make one of 2048 or more")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        if key.key_size < _LEAST_EC_BITS:
            raise ValueError(f"is too weak: {which} has an EC key of {key.key_size} bits; make one of 256 or more")
    else:
        raise ValueError(f"is of a kind that browsers do not take: {which} has neither an RSA nor an EC key")
    try:
        hashed = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        hashed = None
    if signed and hashed is not None and hashed.name in _WEAK_HASHES:
        raise ValueError(f"is too weak: {which} is signed with {hashed.name.upper()}; get one signed with SHA-256")


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    found = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return tuple(name.lower() for name in found)


def _subject(certificate: x509.Certificate) -> str:
    return printable(certificate.subject.rfc4514_string())[:80] or "without a name"


def days_left(ends: datetime, now_s: float) -> int:
    """Whole days from ``now_s``, of time.time(), until ``ends``; below 0 where that is over."""
    return (ends - datetime.fromtimestamp(now_s, timezone.utc)).days


def lasts(ends: datetime, days: int) -> str:
    """How long it is valid yet, as a person would say it."""
    if days < 0:
        return f"has expired on {ends:%Y-%m-%d}"
    return f"expires on {ends:%Y-%m-%d}, {'today' if days == 0 else f'in {days} day' + 's' * (days != 1)}"


def uncovered(host: str, of: Iterable[Facts]) -> bool:
    """Whether none of these certificates is for ``host``."""
    return not any(facts.covers(host) for facts in of)
