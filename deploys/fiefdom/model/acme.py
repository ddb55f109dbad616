"""Certificates that gateways get themselves from an authority (ACME): what is asked for, and the account's key."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from fiefdom.model.secrets import FileOrSource
from fiefdom.model.text import HOST_NAME, FilePath, HostName, Many, Matches, Model, of_a_port
from fiefdom.wording import shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384"}
"""Of account keys: what the client takes, and every authority (RFC 7518, 6.2.1.1)."""
_LEAST_RSA_BITS, _MOST_RSA_BITS = 2048, 4096
"""What Let's Encrypt takes for an account."""
MAKE = "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes one"


def _without_login(value: str) -> str:
    if "@" in value.partition("://")[2].partition("/")[0]:
        raise ValueError("holds a login, of which an authority knows nothing: the account's key is what it asks for")
    return value


def _no_wildcard(value: object) -> object:
    if isinstance(value, str) and value.startswith("*"):
        raise ValueError(
            f"{shown(value)} is a wildcard, and no certificate for one can be obtained by http-01, the only challenge "
            "that gateways answer; write the names one by one, or give a certificate of your own in "
            "gateway.tls.certificates"
        )
    return value


# Before, for to a host name's pattern it is only what is none.
_Obtained = Annotated[HostName, BeforeValidator(_no_wildcard)]


class Acme(Model):
    """An authority from which each gateway gets certificates of its own (RFC 8555, http-01)."""

    directory: Annotated[
        str,
        # First, so that no error repeats a password.
        AfterValidator(_without_login),
        Matches(
            rf"https://{HOST_NAME}(:[0-9]{{1,5}})?(/[A-Za-z0-9._~:/&=%@+-]*)?(\?[A-Za-z0-9._~:/?&=%@+-]*)?",
            "the address of an authority's directory, such as https://acme.example.org/directory",
        ),
        AfterValidator(of_a_port),
    ] = Field(description="Address of the authority's directory. Who writes it agrees to the authority's terms.")
    account_key: FileOrSource = Field(
        description="PEM of the account's private key, one for all gateways, RSA or EC of P-256 or P-384: a file that "
        "its owner alone may read, relative to the inventory, or where the secret comes from."
    )
    email: (
        Annotated[
            str,
            # It goes into an argument, JSON and a mailto: address as it stands.
            Matches(
                rf"[A-Za-z0-9_][A-Za-z0-9_.+'=-]{{0,63}}@{HOST_NAME}", "an address of e-mail such as ops@example.org"
            ),
        ]
        | None
    ) = Field(None, description="Where the authority may write to.")
    names: Many[_Obtained] = Field(
        (),
        description="Host names to get a certificate for, one each; when empty, every one of the routes that are "
        "reached over TLS, but wildcards and addresses.",
    )
    ca_file: FilePath | None = Field(
        None,
        description="PEM of who signed the authority's own certificate, relative to the inventory; when absent, those "
        "that Debian trusts.",
    )


@lru_cache(maxsize=16)
def account_key(content: bytes) -> bytes:
    """An account's key, written anew for the client. Raises ValueError, in words that follow the name of its file."""
    from cryptography.hazmat.primitives import serialization

    return _account_key(content).private_bytes(  # type: ignore[attr-defined,no-any-return]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@lru_cache(maxsize=16)
def thumbprint(content: bytes) -> str:
    """What a gateway answers an authority with, behind its token: of the account's public key (RFC 7638).

    Raises ValueError as `account_key` does.
    """
    return thumbprint_of(_account_key(content).public_key())  # type: ignore[attr-defined]


def thumbprint_of(public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> str:
    """The thumbprint of a public key."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        jwk = {"e": _number(numbers.e), "kty": "RSA", "n": _number(numbers.n)}
    else:
        point, size = public.public_numbers(), (public.curve.key_size + 7) // 8
        jwk = {
            **{"crv": _CURVES[public.curve.name], "kty": "EC"},
            **{"x": _number(point.x, size), "y": _number(point.y, size)},
        }
    return _base64(hashlib.sha256(json.dumps(jwk, sort_keys=True, separators=(",", ":")).encode()).digest())


def _account_key(content: bytes) -> object:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError:
        raise ValueError("has a passphrase, which nobody could type at a gateway; take it out: openssl pkey") from None
    except (ValueError, UnsupportedAlgorithm):
        # `from None`: whatever the library says may be a part of the key.
        raise ValueError(f"holds no private key in PEM; {MAKE}") from None
    if isinstance(key, rsa.RSAPrivateKey) and not _LEAST_RSA_BITS <= key.key_size <= _MOST_RSA_BITS:
        raise ValueError(f"is an RSA key of {key.key_size} bits, and an account's has 2048 to 4096; {MAKE}")
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in _CURVES:
        raise ValueError(f"is an EC key of {key.curve.name}, and an account's is of P-256 or P-384; {MAKE}")
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise ValueError(f"is neither an RSA nor an EC key, and no account's; {MAKE}")
    return key


def authorities(content: bytes) -> bytes:
    """The certificates of a `ca_file`. Raises ValueError, in words that follow the name of the file."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ValueError("holds no certificate in PEM; name the one that the authority's own is signed with") from None
    return b"".join(one.public_bytes(Encoding.PEM) for one in found)


def _number(value: int, size: int | None = None) -> str:
    return _base64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
