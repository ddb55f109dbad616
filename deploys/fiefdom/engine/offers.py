"""Keys that the operator has, in the order in which they are offered to a host."""

from __future__ import annotations

import base64
import getpass
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gevent.lock import BoundedSemaphore, RLock
from paramiko import (
    AuthenticationException,
    BadAuthenticationType,
    Message,
    PKey,
    SSHException,
    Transport,
)
from paramiko.agent import Agent, AgentKey
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.connectors.ssh_util import load_key_with_certificate

from fiefdom.engine.places import DEFAULT_KEYS, Place
from fiefdom.wording import from_here

MANY = 2
"""Of more keys than these, all other hosts are offered first the one that the first host took."""
AUTH_S = 30
_OPENSSH = b"openssh-key-v1\0"


class _Agent(Agent):
    """One for many hosts: paramiko's own would mix up the answers to two that ask at once."""

    def __init__(self) -> None:
        self._asks = RLock()
        super().__init__()

    def _send_message(self, msg: object) -> object:
        with self._asks:
            return super()._send_message(msg)  # type: ignore[misc] # the stub leaves it out


@dataclass
class Keys:
    """The keys of one run: what is asked of the agent or of a person, is asked once for all hosts."""

    _agents: dict[str, tuple[AgentKey, ...]] = field(default_factory=dict)
    _files: dict[str, PKey | str] = field(default_factory=dict)
    _taken: dict[str, bytes] = field(default_factory=dict)
    turn: RLock = field(default_factory=RLock)
    """Held by who finds out which of many keys is the right one."""
    _asking: BoundedSemaphore = field(default_factory=BoundedSemaphore)

    def offers(self, place: Place) -> list[Offer]:
        """What ``place`` is offered: the keys that are named for it, else the agent's and the usual files.

        A named file may be a public key, whose private one the agent has.
        """
        held = self._held(place.agent)
        found = [Offer(file, self._public(file, held)) for file in place.keys]
        if not place.only_keys:
            found += [Offer("", key) for key in held]
            # Those that want to be asked for come last.
            files = [file for file in DEFAULT_KEYS if Path(file).expanduser().exists()]
            found += sorted((Offer(f, self._public(f, held)) for f in files), key=lambda o: o.key is None)
        return self.ordered(place, found)

    def ordered(self, place: Place, offers: list[Offer]) -> list[Offer]:
        """Each once, and first the one that another host took."""
        single = list({_blob(o.key) if o.key else o.file: o for o in reversed(offers)}.values())[::-1]
        taken = self._taken.get(place.user)
        return sorted(single, key=lambda offer: offer.key is None or taken is None or _blob(offer.key) != taken)

    def log_in(self, place: Place, offers: list[Offer], transport: Transport) -> bool:
        """Log in by one of ``offers``, which get fewer by each that is refused.

        False where the host ends the connection before it has seen all of them: it takes the rest over another one.
        Raises ConnectError where none is left.
        """
        transport.auth_timeout = AUTH_S
        why: list[str] = []
        while offers:
            offer = offers.pop(0)
            asks = offer.key is None and offer.file not in self._files
            try:
                key = offer.key or self._read(offer.file)
            except ConnectError as error:
                why.append(str(error))
                continue
            if asks and not transport.is_active():  # a person takes longer than a host waits
                offers.insert(0, offer)
                return False
            try:
                further = transport.auth_publickey(place.user, key)
            except BadAuthenticationType as error:
                raise ConnectError(f"{_said(place)}: it takes no keys, but {', '.join(error.allowed_types)}") from error
            except (SSHException, EOFError, OSError) as error:
                if transport.is_active() or isinstance(error, AuthenticationException):
                    why.append("")
                if not transport.is_active() and offers:
                    return False
                continue
            if further:
                raise ConnectError(f"{_said(place)}: it takes a key only with {', '.join(further)} besides")
            self._taken[place.user] = _blob(key)
            return True
        told = "; ".join(dict.fromkeys(filter(None, why)))
        raise ConnectError(f"{_said(place)}: {told or 'no key of yours is let in'}")

    def _held(self, socket: str | None) -> tuple[AgentKey, ...]:
        """Keys of the agent at ``socket``."""
        place = os.environ.get("SSH_AUTH_SOCK", "") if socket in (None, "SSH_AUTH_SOCK") else str(socket)
        if place.lower() in ("", "none"):
            return ()
        if place not in self._agents:
            before = os.environ.get("SSH_AUTH_SOCK")
            # paramiko has no other way to be told.
            os.environ["SSH_AUTH_SOCK"] = str(Path(place).expanduser())
            try:
                self._agents[place] = tuple(_Agent().get_keys())
            except SSHException:
                self._agents[place] = ()
            finally:
                if before is None:
                    del os.environ["SSH_AUTH_SOCK"]
                else:
                    os.environ["SSH_AUTH_SOCK"] = before
        return self._agents[place]

    def _public(self, file: str, held: tuple[AgentKey, ...]) -> PKey | None:
        """The agent's copy of the key in ``file``, or the key itself where nobody needs to be asked for it."""
        public = public_blob(file)
        for key in held:
            if public is not None and _blob(key) == public:
                return key
        with suppress(ConnectError):
            return self._read(file, ask=False)
        return None

    def _read(self, file: str, ask: bool = True) -> PKey:
        """The private key in ``file``. Raises ConnectError."""
        with self._asking:
            found = self._files.get(file)
            if found is None:
                try:
                    found = self._files[file] = _load(file, ask)
                except ConnectError as error:
                    if ask:
                        self._files[file] = str(error)
                    raise
        if isinstance(found, str):
            raise ConnectError(found)
        return found


@dataclass(frozen=True)
class Offer:
    """A key, or the file that it is read from when its turn comes."""

    file: str
    key: PKey | None


def _load(file: str, ask: bool) -> PKey:
    here = from_here(file)
    try:
        return load_key_with_certificate(file, allow_prompt=False)
    except PyinfraError as error:
        text = _text(file)
        if text is None:
            raise ConnectError(f"{here}: no such key file, or it cannot be read") from error
        if _is_public(text):
            raise ConnectError(f"{here}: is a public key, and the agent has no such key: `ssh-add` it") from error
        if b"sk-" in (public_blob(file) or b"")[:30]:
            raise ConnectError(
                f"{here}: is a key in a security key, which only an agent can use: `ssh-add {here}`"
            ) from error
        if "encrypted" not in str(error):
            raise ConnectError(f"{here}: is no private key that paramiko reads: {error}") from error
    if not (ask and sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConnectError(f"{here}: is encrypted, and there is no terminal to ask on: `ssh-add {here}` first")
    words = getpass.getpass(f"Passphrase of {here}: ", stream=sys.stderr)
    try:
        return load_key_with_certificate(file, key_password=words, allow_prompt=False)
    except (PyinfraError, SSHException, ValueError) as error:
        raise ConnectError(f"{here}: that is not its passphrase") from error


def public_blob(file: str) -> bytes | None:
    """The public part of the key in ``file``: of a public key, of one beside it, or what OpenSSH's format shows."""
    for path in (file, f"{file}.pub"):
        text = _text(path)
        if text is None:
            continue
        if _is_public(text):
            with suppress(ValueError):
                return base64.b64decode(text.split()[1], validate=True)
    body = _armoured(_text(file) or "")
    if not body.startswith(_OPENSSH):
        return None
    private = Message(body[len(_OPENSSH) :])
    for _ in range(3):  # cipher, key derivation, its options
        private.get_binary()
    return private.get_binary() if private.get_int() == 1 else None


def _is_public(text: str) -> bool:
    return len(text.split()) > 1 and text.startswith(("ssh-", "ecdsa-", "sk-"))


def _armoured(text: str) -> bytes:
    lines = [line for line in text.splitlines() if not line.startswith("-----")]
    try:
        return base64.b64decode("".join(lines))
    except ValueError:
        return b""


def _text(file: str) -> str | None:
    try:
        return Path(file).expanduser().read_text(errors="replace")
    except OSError:
        return None


def _blob(key: PKey) -> bytes:
    return key.blob if isinstance(key, AgentKey) else key.asbytes()


def _said(place: Place) -> str:
    # `guard` knows such a refusal by its first word.
    return f"Authentication error as {place.user} at {place.where}"
