"""A host's certificate, as OpenSSH's PROTOCOL.certkeys has it: whether a CA that is trusted signed it for this host."""

from __future__ import annotations

import base64
import time
from collections.abc import Collection
from fnmatch import fnmatchcase

from paramiko import ECDSAKey, Ed25519Key, Message, PKey, RSAKey, SSHException

KINDS = [
    "ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com",
    "rsa-sha2-256-cert-v01@openssh.com",
]
"""Types of certificates that are asked for where a CA is known, the best first."""

_OF_A_HOST = 2
# How many fields of its own the key in a certificate has.
_KEY_FIELDS = {"ssh-ed25519": 1, "ssh-rsa": 2, "ecdsa-sha2-nistp256": 2, "ecdsa-sha2-nistp384": 2}
_KEY_FIELDS["ecdsa-sha2-nistp521"] = 2
_SIGNATURES = {"ssh-rsa": {"rsa-sha2-256", "rsa-sha2-512"}}


def judge(blob: bytes, authorities: Collection[str], name: str) -> str | None:
    """Why the certificate in ``blob`` is no word for the host ``name``; None where it is.

    ``authorities`` are the trusted CAs' keys in base64, and ``name`` is as known_hosts has it.
    """
    try:
        return _judge(blob, authorities, _bare(name))
    except (SSHException, ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        return f"SSH host key error: the certificate of {name} cannot be read: {error}"


def _judge(blob: bytes, authorities: Collection[str], name: str) -> str | None:
    text = Message(blob)
    kind = text.get_text().removesuffix("-cert-v01@openssh.com")
    text.get_binary()  # nonce
    for _ in range(_KEY_FIELDS[kind]):
        text.get_binary()
    text.get_int64()  # serial
    for_what = text.get_int()
    identity = text.get_text()
    principals = _list(text.get_binary())
    after_s, before_s = text.get_int64(), text.get_int64()
    options = text.get_binary()
    text.get_binary()  # extensions
    text.get_binary()  # reserved
    authority = text.get_binary()
    signed = blob[: len(blob) - len(text.get_remainder())]
    signature = text.get_binary()
    rest = text.get_remainder()

    known = base64.b64encode(authority).decode() in authorities
    checks = (
        (known, "is of a CA that known_hosts does not have as @cert-authority"),
        (known and not rest and _signed(authority, signed, signature), "is not signed by the CA that it names"),
        (for_what == _OF_A_HOST, "is a user's"),
        (not options, "has a critical option, which a host's cannot have"),
        (after_s <= time.time() < before_s, "is not valid at this time; look at the clock, or have it signed anew"),
        (
            any(fnmatchcase(name, principal) for principal in principals),
            f"is for {', '.join(principals) or 'nobody'}; have one signed for {name}, or write ssh.address",
        ),
    )
    said = f"SSH host key error: the certificate {identity!r} of {name}"
    return next((f"{said} {words}" for holds, words in checks if not holds), None)


def _list(blob: bytes) -> list[str]:
    text, found = Message(blob), []
    while text.get_remainder():
        found.append(text.get_text())
    return found


def _signed(authority: bytes, signed: bytes, signature: bytes) -> bool:
    kind = Message(authority).get_text()
    algorithm = Message(signature).get_text()
    if algorithm not in _SIGNATURES.get(kind, {kind}):
        return False
    return bool(_key(kind, authority).verify_ssh_sig(signed, Message(signature)))


def _key(kind: str, blob: bytes) -> PKey:
    if kind == "ssh-ed25519":
        return Ed25519Key(data=blob)
    if kind == "ssh-rsa":
        return RSAKey(data=blob)
    return ECDSAKey(data=blob)


def _bare(name: str) -> str:
    """Without the port that known_hosts may have with it: `[app1]:2222` is app1."""
    return name[1:].rpartition("]:")[0] if name.startswith("[") else name
