"""Which Fiefdom made a host what it is: told by the labels of its own containers, which change last of all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from fiefdom import RELEASE
from fiefdom.converge.doctor import Finding
from fiefdom.converge.snapshot import Snapshot
from fiefdom.grouping import grouped

WHAT = "fiefdom"
"""The kind of the finding that another Fiefdom was here."""
OWN_ROLES = ("agent", "gateway")

# What the version specification of Python packages (PEP 440) calls public, in its normal form, which builds write.
_VERSION = re.compile(
    r"([0-9]{1,9}(?:\.[0-9]{1,9})*)(?:(a|b|rc)([0-9]{1,9}))?(?:\.post([0-9]{1,9}))?(?:\.dev([0-9]{1,9}))?"
)
_STAGES = ("a", "b", "rc", None)
"""What stands behind the numbers, in its order; None is the release."""
_SHOWN = re.compile(r"[A-Za-z0-9_.+-]{1,64}")


def version_of(found: Snapshot) -> str:
    """Version of the Fiefdom whose gateway or Serf agent runs on a host; empty where neither is there yet.

    Of two, as a gateway has while one hands over to the next, the older: the host is not through with its turn.
    """
    return min(_own(found), key=_order, default="")


def is_newer(version: str, than: str = RELEASE) -> bool:
    """Whether one version comes after another, as pip has it; what begins with no number comes after nothing."""
    return _order(version) > _order(than)


def findings(found: Snapshot) -> Iterator[Finding]:
    """That the host is of another Fiefdom. A newer one's is refused: this one may not know what that has made."""
    oldest, newest = version_of(found), max(_own(found), key=_order, default="")
    if is_newer(newest):
        mend = f"install Fiefdom {newest} on your machine"
        yield Finding("refused", WHAT, _says(newest), "it would be taken back", mend)
    elif oldest not in ("", RELEASE):
        yield Finding("warning", WHAT, _says(oldest), mend="`fiefdom upgrade` brings it there")


def _own(found: Snapshot) -> list[str]:
    containers = (c for c in found.containers.values() if c.ours and c.role in OWN_ROLES)
    return [c.version for c in containers if _SHOWN.fullmatch(c.version)]


def _says(version: str) -> str:
    return f"it is of Fiefdom {version}, and this is {RELEASE}"


def others(found: Mapping[str, Snapshot]) -> Iterator[str]:
    """Of hosts that another Fiefdom made, a sentence for each version."""
    for version, names in grouped((version_of(host), name) for name, host in found.items()).items():
        if version not in ("", RELEASE):
            mend = f"install {version}" if is_newer(version) else "`fiefdom upgrade` brings it there"
            yield f"{', '.join(names)}: of Fiefdom {version}, and this is {RELEASE}; {mend}"


def _order(version: str) -> tuple[float | tuple[int, ...], ...]:
    found = _VERSION.match(version)
    if found is None:
        return ()
    numbers, stage, count, post, dev = found.groups()
    release = [int(number) for number in numbers.split(".")]
    while release and release[-1] == 0:  # 1.2 is 1.2.0
        release.pop()
    # What is developed towards a release comes before its first candidate, and towards anything else right before that.
    is_before_all = dev is not None and stage is None and post is None
    return (
        tuple(release),
        -1 if is_before_all else _STAGES.index(stage),
        int(count or 0),
        -1 if post is None else int(post),
        math.inf if dev is None else int(dev),
    )
