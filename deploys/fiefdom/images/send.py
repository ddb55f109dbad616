"""Images on their way to a host: only the layers that it lacks travel."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from fiefdom.errors import FiefdomError
from fiefdom.images import layers
from fiefdom.images.docker import inspect, layout_of, names_files_by_layer
from fiefdom.images.fanout import Fanout

# Runs a script as root on a host, its input in pieces, and returns what it printed; FiefdomError where it failed, and
# TimeoutError where the host says or takes nothing for too long.
Shell = Callable[[str, Iterable[bytes]], str]


@dataclass(frozen=True)
class Parcel:
    """What brings some images to one host.

    ``names`` are all of them, each with its id on the host; ``sent`` those it lacks, by their id on this machine;
    ``dropped`` the files of their archive that it can do without.
    """

    names: tuple[tuple[str, str], ...]
    sent: tuple[str, ...]
    dropped: frozenset[str]


def held(shell: Shell) -> layers.Held:
    """What a host has already. One that cannot say counts as having nothing: what fails there next tells why."""
    try:
        return layers.held(shell(layers.HELD, ()).splitlines())
    except FiefdomError:
        return layers.Held()


def parcel(refs: Sequence[str], there: layers.Held) -> Parcel | None:
    """What must travel to a host that has what ``there`` says; None where only the whole will do."""
    here = inspect(list(refs))
    if not there.ids or not here.keys() >= set(refs):
        return None
    missing = list(dict.fromkeys(found for found in here.values() if found.id not in there.ids))
    layouts = []
    if any(found.layers[:1] in there.chains for found in missing):
        named_so = names_files_by_layer()
        layouts = [layers.by_digest(f.id, f.layers) if named_so else layout_of(f.local_id) for f in missing]
    known = [found for found in layouts if found is not None]
    return Parcel(
        tuple((ref, here[ref].id) for ref in refs),
        tuple(found.local_id for found in missing),
        layers.superfluous(known, there) if len(known) == len(layouts) else frozenset(),
    )


def send(refs: Sequence[str], packed: Parcel | None, shell: Shell, fanout: Fanout) -> int:
    """Bring images to a host, and return how many bytes of archive travelled.

    The host tags what came by the id that it must have, which fails unless it is there with all its layers. Whatever
    was wrong with the parcel, the whole is sent then. Raises FiefdomError where that fails, too, and at once what
    ``shell`` raises else.
    """
    travelled = 0

    def counted(pieces: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal travelled
        for piece in pieces:
            travelled += len(piece)
            yield piece

    def load(names: Iterable[str], dropped: frozenset[str], *then: str) -> None:
        with fanout.archive(names, dropped) as pieces:
            shell(" && ".join(["docker load --quiet", *then]), counted(pieces))

    if packed is not None:
        tags = [shlex.join(["docker", "tag", image, ref]) for ref, image in packed.names]
        try:
            if packed.sent:
                load(packed.sent, packed.dropped, *tags)
            else:
                shell(" && ".join(tags), ())
        except FiefdomError:  # an image may have left the host since it was asked
            pass
        else:
            return travelled
    load(refs, frozenset())
    return travelled
