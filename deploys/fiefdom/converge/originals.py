"""What a host held where Fiefdom's own is now: its plan names it, the host keeps it, and gets it back.

The host's half is originals.sh.
"""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.converge.snapshot import FoundFile, Snapshot
from fiefdom.desired.concerns import CUTTING
from fiefdom.desired.state import File, HostState

DIR = "/var/lib/fiefdom/originals"
"""Where they are kept, by their paths; for root alone."""
CHANGED = f"{DIR}.changed"
"""Where what somebody wrote later is kept, once the original is back."""
UNITS = f"{DIR}.units"
"""What other people's units were, as long as Fiefdom has them otherwise."""
HOSTNAME = "/etc/hostname"

DROPPED = "no longer in the inventory"
"""Why something goes, where its plan has no other reason."""


def replaced(state: HostState, now: Snapshot) -> frozenset[tuple[str, str]]:
    """What is the host's own where Fiefdom's is to be, as (kind, name) of a manifest; it is Fiefdom's from then on."""
    paths = {f.path for f in state.files if (found := now.files.get(f.path)) and not _is_same(f, found)}
    if state.hostname and now.static_hostname not in ("", state.hostname):
        paths.add(HOSTNAME)
    return frozenset(("file", path) for path in paths) - now.made


def of_content(file: File, found: FoundFile, now: Snapshot) -> list[str]:
    """How the content of a file changes, in words; nothing where it is right."""
    if _is_same(file, found):
        return []
    return ["content"] if ("file", file.path) in now.made else [f"found there, replaced (kept in {DIR})"]


def _is_same(file: File, found: FoundFile) -> bool:
    return found.digest == file.digest and found.kind.startswith("regular")


def of_removal(kind: str, name: str, now: Snapshot, why: str = DROPPED) -> str:
    """Why something goes that Fiefdom made, and what comes back in its place or keeps it there."""
    if kind == "directory":
        return f"{why}; stays if others have something in it"
    if kind != "file" or name not in now.originals:
        return why
    return f"{why}, what was there before comes back" + (f"; {_BY_HAND}" if now.originals[name] else "")


def of_whole(path: str, now: Snapshot) -> str:
    """Why a file that an earlier Fiefdom had whole gets a block in its place."""
    why = "was the whole file, is a block of it now"
    if path not in now.originals:
        return why
    return f"{why}, what was there before comes back" + (f"; {_BY_HAND}" if now.originals[path] else "")


_BY_HAND = f"it was changed by hand since, which is kept in {CHANGED}"


def kept_path(path: str) -> str:
    """Where the original of ``path`` is kept."""
    return f"{DIR}{path}"


def kept_for(names: list[str], state: HostState, now: Snapshot) -> Iterator[str]:
    """Files beside those at ``names`` that change with them: what a change that is taken back has to put back."""
    own = replaced(state, now)
    yield from (kept_path(name) for name in names if ("file", name) in own or name in now.originals)
    if now.units_before:
        yield UNITS


def given_back(now: Snapshot) -> frozenset[str]:
    """Paths that get back what they held when Fiefdom leaves the host: all but those of the operator's way in."""
    return frozenset(path for path in now.originals if not _lets_in(path))


def units_given_back(now: Snapshot) -> list[str]:
    """Units that are turned on or off again then."""
    return sorted(name for name in now.units_before if not any(name in c.units for c in CUTTING.values()))


def _lets_in(path: str) -> bool:
    return any(cutting.has_path(path) for cutting in CUTTING.values())


def parting_words(now: Snapshot, stays: tuple[str, ...]) -> Iterator[str]:
    """What an operator should know of the originals before Fiefdom leaves, where its files at ``stays`` stay."""
    for path, by_hand in sorted(now.originals.items()):
        if path.startswith(stays) and path not in given_back(now):
            yield f"{path} stays as it is, for it lets you in; what was there before is {kept_path(path)}"
        elif by_hand:
            yield f"{path}: what was there before Fiefdom comes back; {_BY_HAND}"
