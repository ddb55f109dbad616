"""One `docker save` for all hosts that lack the same layers; each host takes it at its own pace."""

from __future__ import annotations

import os
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from fiefdom.errors import FiefdomError
from fiefdom.images import docker, layers

AT_ONCE = 32
"""Hosts that are fed at the same time: as many as are behind links of their own take no longer than one of them.

One process enciphers what one or two hosts on a fast link take; the others are for those behind slow links.
"""


class Fanout:
    """The saves of one run: each begins for the first host that wants it, and is kept for those that come later.

    dockerd writes all of an image to its disk before the first byte of a save comes, also where one layer is to travel.
    So a save is made once for each set of missing layers, not once for each host. What comes of it is kept in a file,
    since hosts get to their images minutes apart, as their packages are installed, and the slowest is behind the
    fastest by more than memory should hold; in step, all would wait for it. The file holds only what travels, has no
    name and is nobody else's, so that it goes away with this process, however that ends.

    Any thread or greenlet may use it.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self._turns = threading.BoundedSemaphore(at_once)
        self._lock = threading.Lock()
        self._closed = False
        self._saves: dict[tuple[frozenset[str], frozenset[str]], _Save] = {}

    @contextmanager
    def archive(self, names: Iterable[str], dropped: frozenset[str] = frozenset()) -> Iterator[Iterator[bytes]]:
        """An archive of images but for some of its files, in pieces, when it is this host's turn.

        The turn ends when all is taken, for then the host is busy with itself. Taking a piece raises FiefdomError where
        Docker failed or there is no room for the file, at every host alike; the next that comes tries again.
        """
        with ExitStack() as turn:
            turn.enter_context(self._turns)

            def pieces() -> Iterator[bytes]:
                yield from self._save(frozenset(names), dropped).pieces()
                turn.close()

            yield pieces()

    def close(self) -> None:
        """End what is under way, and forget all: whoever still takes pieces hears of it."""
        with self._lock:
            self._closed = True
            saves = list(self._saves.values())
            self._saves.clear()
        for save in saves:
            save.close()

    def _save(self, names: frozenset[str], dropped: frozenset[str]) -> _Save:
        with self._lock:
            if self._closed:
                raise FiefdomError(_INTERRUPTED)
            known = self._saves.get((names, dropped))
            if known is None or known.failure:
                if known is not None:
                    known.close()
                known = self._saves[names, dropped] = _Save(sorted(names), dropped)
            return known


_INTERRUPTED = "sending images was interrupted"


class _Save:
    """What one `docker save` says, kept in a file. Whoever has taken all that is in it asks Docker for more."""

    failure = ""

    def __init__(self, names: list[str], dropped: frozenset[str]) -> None:
        self._names = names
        self._folder = _folder()
        self._kept = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 -- closed by close()
        self._size = 0
        self._complete = False
        self._asked = False  # whether somebody waits for Docker
        self._changed = threading.Condition()
        self._process = docker.save(names)
        assert self._process.stdout is not None  # noqa: S101 -- a pipe
        said = self._process.stdout
        # Without those that are empty, as the padding of a file is that needs none.
        self._pieces = filter(None, layers.without(said, dropped) if dropped else docker.chunks(said))

    def pieces(self) -> Iterator[bytes]:
        taken = 0
        while taken < self._size or self._ask(taken):
            piece = self._read(taken)
            taken += len(piece)
            yield piece

    def close(self) -> None:
        self._process.kill()
        with self._changed:
            self._changed.wait_for(lambda: not self._asked)
            self.failure = self.failure or _INTERRUPTED
            docker.leave(self._process)
            self._kept.close()

    def _read(self, taken: int) -> bytes:
        with self._changed:  # a file closed meanwhile could be another one's number by now
            if self._kept.closed:
                raise FiefdomError(self.failure)
            return os.pread(self._kept.fileno(), min(docker.CHUNK, self._size - taken), taken)

    def _ask(self, taken: int) -> bool:
        """Whether there is more than ``taken``, from Docker if no other host asks for it already."""
        with self._changed:
            self._changed.wait_for(lambda: taken < self._size or not self._asked)
            if self.failure:
                raise FiefdomError(self.failure)
            if taken < self._size or self._complete:
                return taken < self._size
            self._asked = True
        piece, failure = b"", _INTERRUPTED  # else what follows an interrupt would look like the end
        try:
            piece = self._next()
            self._keep(piece)
            failure = ""
        except FiefdomError as error:
            failure = str(error)
            raise
        finally:
            with self._changed:
                self._asked, self._complete, self.failure = False, not piece, failure
                self._size += 0 if failure else len(piece)
                self._changed.notify_all()
            if failure:
                docker.leave(self._process)
        return bool(piece)

    def _next(self) -> bytes:
        try:
            piece = next(self._pieces, b"")
        except tarfile.TarError:
            docker.require_ended(self._process, self._names)
            raise FiefdomError(f"docker save {' '.join(self._names)} broke off; is dockerd well?") from None
        if not piece:
            docker.require_ended(self._process, self._names)
        return piece

    def _keep(self, piece: bytes) -> None:
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._kept.write(rest) :]
        except OSError as error:
            raise FiefdomError(
                f"{self._folder} on this machine cannot keep the images on their way: {error.strerror}; "
                "make room there, or name another folder in TMPDIR"
            ) from None


def _folder() -> str:
    # What is large belongs there: /tmp is in memory, on Debian 13 for one.
    return "/var/tmp" if "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108
