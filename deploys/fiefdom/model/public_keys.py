"""Public keys in an inventory: whether a line that looks like a key is one, whole."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator

from fiefdom.model.text import Matches
from fiefdom.wording import shown

# How many fields the key of a type has, its type's name among them: RFC 4253, RFC 5656, RFC 8709 and OpenSSH's
# PROTOCOL.u2f. Not ssh-dss, which no sshd of Debian 12 or 13 takes.
_FIELDS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
_ED25519_BYTES = 32
# sshd's RequiredRSASize.
_RSA_MIN_BITS = 1024
_COPY = "copy the line of the file that ends in .pub anew"


def _ssh_key(line: str) -> str:
    kind, text = line.split()[:2]
    if kind not in _FIELDS:
        raise ValueError(f"{shown(kind)} is no type of key that sshd takes; known are {', '.join(_FIELDS)}")
    try:
        fields = _fields(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise ValueError(f"{shown(text)} is no whole key; {_COPY}") from None
    if fields[0] != kind.encode():
        other = fields[0].decode("ascii", errors="replace")
        raise ValueError(f"{shown(text)} is a key of the type {shown(other)}, not {kind}; {_COPY}")
    if len(fields) != _FIELDS[kind] or (kind == "ssh-ed25519" and len(fields[1]) != _ED25519_BYTES):
        raise ValueError(f"{shown(text)} is no whole key; {_COPY}")
    if kind == "ssh-rsa" and (bits := int.from_bytes(fields[2], "big").bit_length()) < _RSA_MIN_BITS:
        raise ValueError(f"{shown(text)} has {bits} bits, and sshd takes none below {_RSA_MIN_BITS}; make a new one")
    return line


def _fields(blob: bytes) -> list[bytes]:
    """The fields of a key, each behind its length in four bytes; ValueError where they do not end with the key."""
    fields = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        fields.append(blob[4 : 4 + size])
        if len(blob) < 4 + size:
            raise ValueError("cut off")
        blob = blob[4 + size :]
    if not fields:
        raise ValueError("empty")
    return fields


def _recipient(line: str) -> str:
    if not line.startswith("age1"):
        return _ssh_key(line)
    import pyrage  # type: ignore[import-untyped] # deferred: most inventories have no encrypted file

    try:
        pyrage.x25519.Recipient.from_str(line)
    except pyrage.RecipientError:
        raise ValueError(f"{shown(line)} is no whole age key; copy it anew") from None
    return line


SshPublicKey = Annotated[
    str,
    Matches(
        "(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [ -~]*)?",
        "a public key line such as 'ssh-ed25519 AAAA... name'",
    ),
    AfterValidator(_ssh_key),
]
Recipient = Annotated[
    str,
    # Not ECDSA keys nor keys in hardware, which age cannot encrypt to.
    Matches(
        "age1[a-z0-9]{58}|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( [ -~]*)?",
        "an age key (age1...) or an SSH public key line of type ssh-ed25519 or ssh-rsa",
    ),
    AfterValidator(_recipient),
]
