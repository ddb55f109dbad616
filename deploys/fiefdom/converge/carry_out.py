"""A plan carried out: wave by wave, the first error ends it, and the next run finishes the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from fiefdom.converge import arrivals, effect, plan
from fiefdom.converge.run import Hosts, Say
from fiefdom.converge.waves import Wave, waves
from fiefdom.errors import FiefdomError, Sick
from fiefdom.model import Cluster

DONE = "done"
"""What `carry_out` says last of a host that it changed."""
LEFT = "not finished"
"""What it says last of one that the error of another one kept from its end."""


def carry_out(
    wanted: plan.Plan,
    hosts: Hosts,
    cluster: Cluster,
    say: Say,
    gate: Callable[[str], None] = lambda _: None,
    beat: Callable[[], None] = lambda: None,
    fit: Callable[[str], None] = lambda _: None,
    *,
    turns: bool = True,
    sick: list[Sick] | None = None,
) -> None:
    """Change hosts as ``wanted`` says, in the order of `waves`; ``say(host, text)`` hears of every phase.

    The first error ends the run: what was done stays, hosts are named that have something left to do, and the next run
    finishes the rest. ``gate`` is called between
    two turns and raises FiefdomError where the host of the first does not serve again; ``beat`` before each turn, and
    raises it where the lock that this run held is another's by now. ``fit`` is called with the host whose turn it is,
    and raises FiefdomError where it is not to be taken out now. Without ``turns``, all is done but what is done in
    them. A service that does not come up on a host ends nothing where ``sick`` is there to be told of it.
    """
    require_space(wanted.due)
    for host in wanted.hosts:
        effect.require(host.host, host.state, host.snapshot)

    found = waves(wanted, cluster, turns=turns)
    left = Counter(name for wave in found for name, own in wave.phases.items() for _ in own)
    failed = set()

    def go_through(wave: Wave, name: str) -> None:
        for phase in wave.phases[name]:
            say(name, phase.name)
            try:
                hosts.run(name, phase)
            except FiefdomError as error:
                if sick is None or not isinstance(error, Sick):
                    failed.add(name)
                    raise
                sick.append(error)
                _tell_sick(error, say)
            left[name] -= 1
        if name in wave.done:
            say(name, DONE)

    try:
        for wave in found:
            if wave.after:
                gate(wave.after)
            if wave.kind == "turn":
                beat()
            if wave.kind == "together":
                hosts.on_all(partial(go_through, wave), wave.phases)
            else:
                for name in wave.phases:
                    if wave.kind == "turn":
                        fit(name)
                    go_through(wave, name)
    except FiefdomError:
        for name in sorted(+left):
            if name not in failed:
                say(name, LEFT)
        raise


def _tell_sick(error: Sick, say: Say) -> None:
    for found in error.units:
        say(error.host, f"{found.unit} does not come up: {found.reason}")
        for line in found.log:
            say(error.host, f"  {line}")


def require_space(wanted: plan.Plan) -> None:
    """Raise FiefdomError where a host's disk would not hold what it gets."""
    # Files are small, and of images `arrivals` says more.
    for host in wanted.hosts:
        free = host.snapshot.free_kib
        needed = arrivals.PACKAGES_KIB if host.of("package") else 1024 if host.changes else 0
        if free is not None and free < needed:
            raise FiefdomError(
                f"{host.host}: /var/lib has {free // 1024} MiB free of about {needed // 1024} that it needs; make room"
            )
