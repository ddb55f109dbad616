"""The cluster's secrets: where they come from, and how they are made."""

from __future__ import annotations

import base64
import binascii
import functools
import os
import secrets
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from fiefdom.errors import FiefdomError
from fiefdom.inventory import certificates, files, vault
from fiefdom.model import ENV_MAX_BYTES, Cluster, Secrets, SecretSource
from fiefdom.model.mounts import require_size
from fiefdom.wording import KeyPath, dotted, from_here, printable

VARIABLE = "FIEFDOM_GOSSIP_KEY"
NEXT_VARIABLE = "FIEFDOM_NEXT_GOSSIP_KEY"
"""Holds the key that is to come, where the present one comes from no file."""
KEY_BYTES = 32
"""Serf takes 16, 24 or 32 bytes and chooses AES-128, 192 or 256 by them."""
COMMAND_TIMEOUT_S = 30
_MAKE = "`fiefdom keygen INVENTORY` makes one"
_KEY = ("serf", "key")


def load(cluster: Cluster, environ: Mapping[str, str] | None = None, *, certified: bool = True) -> Secrets:
    """The secrets of ``cluster``, each asked for once: an environment variable is read, a command run, a file opened.

    The gossip key comes from the environment variable FIEFDOM_GOSSIP_KEY, else from `serf.key` or `serf.key_file`.
    What no host of the cluster uses is not asked for, nor are certificates and their keys where nothing is to be
    ``certified``: who touches no gateway's configuration needs none, and one that is bad is not to be in the way.

    Raises:
        FiefdomError: one is missing or cannot be used; names its key in the inventory. No secret is ever told.
    """
    environ = os.environ if environ is None else environ
    opened = functools.cache(lambda: vault.read(cluster, environ))
    raw: dict[SecretSource, bytes] = {}
    values: dict[SecretSource, str] = {}
    contents: dict[str | SecretSource, bytes] = {}
    contents.update(files.contents(cluster))
    if certified:
        contents.update(certificates.contents(cluster))
    for key, source in cluster.secret_sources():
        is_tls = key[:2] == ("gateway", "tls")
        if (key == _KEY and VARIABLE in environ) or (is_tls and not certified):
            continue
        if source not in raw:
            raw[source] = _raw(source, dotted(key), Path(cluster.base_dir), environ, opened)
        where = f"{dotted(key)}: {source}"
        if is_tls or key[2:3] == ("files",):
            contents[source] = require_content(raw[source], where)
        elif source not in values:
            values[source] = _line(source, raw[source], where)
    if certified:
        certificates.require_good(cluster, contents)
    return Secrets(_gossip_key(cluster, environ, values), values, contents)


def require_content(content: bytes, where: str) -> bytes:
    """``content``, which a file can hold; FiefdomError, which begins with ``where``, if not."""
    if not content:
        raise FiefdomError(f"{where} is empty; give it a value")
    try:
        require_size(len(content))
    except ValueError as error:
        raise FiefdomError(f"{where} {error}") from error
    return content


def given(data: bytes, where: str) -> str:
    """A secret that somebody gives on standard input, for the encrypted file: one line, or the lines of a file.

    Raises:
        FiefdomError: it cannot be used; begins with ``where``, and never tells it.
    """
    line = decoded(data, where)
    if "\n" not in line:
        return require_one_line(line, where)
    # The line break at its end is a part of a file.
    return _utf8(require_content(data, where), where)


def values_of(
    cluster: Cluster, sources: Mapping[str, tuple[KeyPath, SecretSource]], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The values of secrets by a name of the caller's, whose keys in the inventory ``sources`` tell; of no other ones.

    Raises:
        FiefdomError: one is missing or cannot be used; names its key in the inventory. No secret is ever told.
    """
    environ = os.environ if environ is None else environ
    opened = functools.cache(lambda: vault.read(cluster, environ))
    values: dict[SecretSource, str] = {}
    for key, source in sources.values():
        if source not in values:
            found = _raw(source, dotted(key), Path(cluster.base_dir), environ, opened)
            values[source] = _line(source, found, f"{dotted(key)}: {source}")
    return {name: values[source] for name, (_, source) in sources.items()}


def _line(source: SecretSource, found: bytes, where: str) -> str:
    text = decoded(found, where) if source.command is not None else _utf8(found, where)
    return require_one_line(text, where)


def require_one_line(text: str, where: str) -> str:
    """``text``, which a host can be given as it is; FiefdomError, which begins with ``where``, if not."""
    if not text:
        raise FiefdomError(f"{where} is empty; give it a value")
    if any(c in text for c in "\0\r\n"):
        raise FiefdomError(f"{where} holds a line break or a NUL byte; it must be one line, in base64 if need be")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise FiefdomError(f"{where} is not UTF-8 text; put it in base64") from None
    if size > ENV_MAX_BYTES:
        raise FiefdomError(f"{where} has {size} bytes, and {ENV_MAX_BYTES} are possible; put it into the image")
    return text


def gossip_key_in(path: Path) -> str:
    """The gossip key in a file, which is its owner's alone; FiefdomError where it is none, or others may read it."""
    return require_gossip_key(_private_text(path), str(path))


def _gossip_key(cluster: Cluster, environ: Mapping[str, str], values: Mapping[SecretSource, str]) -> str:
    if VARIABLE in environ:
        return require_gossip_key(environ[VARIABLE], VARIABLE)
    if cluster.serf.key is not None:
        return require_gossip_key(values[cluster.serf.key], f"{dotted(_KEY)}: {cluster.serf.key}")
    if cluster.serf.key_file is None:
        raise FiefdomError(
            f"serf.key_file: there is no gossip key; name a file in the inventory ({_MAKE} there) or set {VARIABLE}"
        )
    path = cluster.path_here(cluster.serf.key_file)
    return gossip_key_in(path)


def _raw(
    source: SecretSource,
    key: str,
    folder: Path,
    environ: Mapping[str, str],
    opened: Callable[[], vault.Entries],
) -> bytes:
    where = f"{key}: {source}"
    if source.env is not None:
        if source.env not in environ:
            raise FiefdomError(f"{where} is not set; set it where Fiefdom runs")
        return _encoded(environ[source.env], where)
    if source.command is not None:
        return _printed(source.command, where, folder)
    try:
        entries = opened()
    except FiefdomError as error:
        raise FiefdomError(f"{key}: {error}") from error
    name = source.secret or ""
    if name not in entries:
        raise FiefdomError(f"{where} is not in secrets.file; `fiefdom secret set INVENTORY {name}` puts it there")
    return _encoded(entries[name], where)


def _encoded(text: str, where: str) -> bytes:
    """The bytes of an environment variable as the operator's shell gave them, or of an entry."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise FiefdomError(f"{where} is not UTF-8 text; put it in base64") from None


def _utf8(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FiefdomError(f"{where} is not UTF-8 text; put it in base64") from None


def _printed(command: tuple[str, ...], where: str, folder: Path) -> bytes:
    """What ``command`` prints."""
    # No input, for the operator's is an answer to another question; who asks for a passphrase has the terminal.
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        # Not `subprocess.run`: gevent's waits beyond the time limit for the end of what the command has started.
        with subprocess.Popen(command, cwd=folder, stdin=nothing, stdout=pipe, stderr=pipe) as process:
            try:
                output, errors = process.communicate(timeout=COMMAND_TIMEOUT_S)
            finally:
                process.kill()
    except subprocess.TimeoutExpired:
        # `from None`: the exception holds what was printed so far.
        raise FiefdomError(f"{where} has not ended after {COMMAND_TIMEOUT_S} s; try it by hand") from None
    except FileNotFoundError as error:
        raise FiefdomError(f"{where} cannot be run: {error.filename} is not here; install it, or mend it") from error
    except OSError as error:
        raise FiefdomError(f"{where} cannot be run ({error.strerror}); try it by hand") from error
    if process.returncode:
        words = errors.decode(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
        failed = f"failed with exit code {process.returncode}"
        raise FiefdomError(printable(f"{where} {failed} ({words[0]}); try it by hand"))
    return output


def decoded(data: bytes, where: str) -> str:
    """Text as a command prints it, less the line break at its end; FiefdomError where it is not UTF-8."""
    return _utf8(data, where).removesuffix("\n").removesuffix("\r")


def new_key() -> str:
    """A gossip key that nobody has."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def generate(path: Path) -> None:
    """Write a new gossip key to ``path``, readable by its owner alone; whole or not at all.

    A missing folder is made for the owner alone.

    Raises:
        FiefdomError: the file exists, which is never overwritten, or cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(f"{new_key()}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            _publish(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        raise FiefdomError(f"{path}: the gossip key cannot be written ({error.strerror}); check the folder") from error


def _publish(draft: Path, path: Path) -> None:
    try:
        # Unlike a rename, a link never replaces what is there.
        path.hardlink_to(draft)
    except FileExistsError as error:
        raise FiefdomError(
            f"{path}: exists already and stays as it is; a new key cuts off every member that has the old one, "
            "so remove the file yourself if you want that"
        ) from error


def _private_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            if mode & 0o077:
                raise FiefdomError(f"{path}: others may read this gossip key (mode {mode:04o}); type: chmod 600 {path}")
            return file.read(4096).decode("ascii", errors="replace")
    except FileNotFoundError as error:
        raise FiefdomError(f"{path}: there is no gossip key; {_MAKE}, or set {VARIABLE}") from error
    except OSError as error:
        raise FiefdomError(
            f"{path}: the gossip key cannot be read ({error.strerror}); check serf.key_file, owner and mode"
        ) from error


def require_gossip_key(text: str, where: str) -> str:
    """``text`` as a gossip key; FiefdomError, which begins with ``where`` and never tells it, if it is none."""
    key = text.strip()
    try:
        raw = base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FiefdomError(f"{where}: the gossip key is not base64; {_MAKE}") from error
    if len(raw) != KEY_BYTES:
        raise FiefdomError(f"{where}: the gossip key has {len(raw)} bytes and needs {KEY_BYTES}; {_MAKE}")
    return key


# --- The key that is to come


def next_key(cluster: Cluster, *, make: bool, environ: Mapping[str, str] | None = None) -> str:
    """The key that takes the present one's place: from a file beside that one's, written first if ``make`` says so.

    Where the present one comes from no file, the environment variable FIEFDOM_NEXT_GOSSIP_KEY has it.

    Raises:
        FiefdomError: there is none, or it is no key. The key itself is never told.
    """
    environ = os.environ if environ is None else environ
    path = _key_path(cluster, environ)
    if path is None:
        if NEXT_VARIABLE not in environ:
            raise FiefdomError(
                f"{NEXT_VARIABLE}: is not set; the present key comes from {_source(cluster, environ)}, so the new one "
                "must be given: `openssl rand -base64 32` makes one"
            )
        return require_gossip_key(environ[NEXT_VARIABLE], NEXT_VARIABLE)
    following = _next_path(path)
    if make and not vault.is_there(following):
        generate(following)
    if not vault.is_there(following):
        raise FiefdomError(f"{following}: is missing, though hosts have it already; bring it from where it was made")
    return require_gossip_key(_private_text(following), str(following))


def adopt_next(cluster: Cluster, environ: Mapping[str, str] | None = None) -> list[str]:
    """Let the next key take the present one's place, whole or not at all; what the operator has to do, if that is it.

    The old one is not kept: it opens nothing any more.

    Raises:
        FiefdomError: the file cannot be replaced.
    """
    environ = os.environ if environ is None else environ
    path = _key_path(cluster, environ)
    if path is None:
        source = _source(cluster, environ)
        return [f"Give {source} the key of {NEXT_VARIABLE} now; `fiefdom apply` refuses the old one."]
    try:
        _next_path(path).replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise FiefdomError(
            f"{path}: cannot be replaced by {_next_path(path).name} ({error.strerror}), which every member has now"
        ) from error
    return []


def _key_path(cluster: Cluster, environ: Mapping[str, str]) -> Path | None:
    if VARIABLE in environ or cluster.serf.key is not None or cluster.serf.key_file is None:
        return None
    # Where a link leads to: the link itself is to stay one.
    return from_here(os.path.realpath(cluster.path(cluster.serf.key_file)))


def _next_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.next")


def _source(cluster: Cluster, environ: Mapping[str, str]) -> str:
    return VARIABLE if VARIABLE in environ else f"{dotted(_KEY)}: {cluster.serf.key}"
