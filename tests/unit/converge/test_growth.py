"""The work of a run grows with its hosts, and not with their square."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType

import pytest

from fiefdom.converge import look
from fiefdom.converge.snapshot import Snapshot
from fiefdom.converge.waves import waves
from helpers import crowd
from helpers.simulated import answer

BARE = answer(Snapshot(0, "debian", "trixie", client="192.0.2.7", hostname="old", static_hostname="old"))


class Bare:
    """Hosts on which there is nothing yet."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def snapshot_lines(self, queries: dict[str, str]) -> dict[str, list[str]]:
        return dict.fromkeys(queries, BARE)


def frames_of(work: Callable[[], object]) -> Counter[str]:
    """How many times a function, or what goes through something for it, was entered, by its file and name."""
    entered: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            entered[f"{frame.f_code.co_filename} {frame.f_code.co_name}"] += 1

    before = sys.getprofile()
    # What other tests left to the collector is none of this work.
    gc.collect()
    gc.disable()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return entered


def work_of(hosts: int, changes: dict[str, object]) -> Counter[str]:
    """What a run does for that many bare hosts: states, questions, plan, and the order of all its steps."""
    known = crowd.known(hosts, **changes)
    names = tuple(known.cluster.hosts)

    def work() -> None:
        wanted = look.see(known, names, Bare(names)).plan()  # type: ignore[arg-type]
        assert len(wanted.hosts) == hosts and wanted.hash
        assert len(waves(wanted, known.cluster)) > 1

    return frames_of(work)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes", [{}, {"gateway": {}}, {"time_servers": ["10.1.0.2"], "registry": {"server": "registry.example.org"}}]
)
def test_each_further_host_costs_what_the_one_before_it_did(changes: dict[str, object]) -> None:
    """Counted and not timed: from 10 hosts to 20, and from 20 to 40. What is once for all costs the same of each."""
    work_of(4, changes)  # what is read and compiled once
    few, more, most = (work_of(hosts, changes) for hosts in (10, 20, 40))
    grown = {
        name: (more[name] - few[name], most[name] - more[name])
        for name in most
        # Python's own sort addresses, which is a little more than that.
        if "/ipaddress.py " not in name and most[name] - more[name] > 2.1 * (more[name] - few[name]) + 20
    }
    assert not grown, grown
    assert most.total() - more.total() <= 2.02 * (more.total() - few.total())
