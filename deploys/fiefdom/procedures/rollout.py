"""Releases: prepared, then carried out under the cluster's lock and into its audit, from their hooks to their end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fiefdom.cluster import ledger, locking, shares, status
from fiefdom.cluster.lock import CANARY, Lock, quorum, refusal
from fiefdom.converge import arrivals, carry_out, doctor, look, made_by, plan, run, steps
from fiefdom.converge.run import HERE, Hosts, Known, Say
from fiefdom.converge.steps import Phase
from fiefdom.desired.state import Image
from fiefdom.errors import FiefdomError
from fiefdom.grouping import grouped
from fiefdom.images import build
from fiefdom.model import Cluster
from fiefdom.procedures import hooks, release, release_command
from fiefdom.procedures.batches import Rollout, RolloutError
from fiefdom.procedures.release import Order, Release
from fiefdom.procedures.tidy import tidy
from fiefdom.procedures.turn import await_turns
from fiefdom.waiting import now_s
from fiefdom.wording import Tell

IMAGE = "image"
"""What a host is at while it gets the release's image, as `Say` hears it."""


@dataclass(frozen=True)
class Wish:
    """What a person asked for, beside the inventory."""

    what: str = "rollout"
    service: str = ""
    """The one service that was asked for; empty for all."""
    order: Order = field(default_factory=Order)
    resume: bool = False
    """After a canary."""
    keep: bool = False
    force: bool = False
    take_over: bool = False


@dataclass
class Report:
    """What became of a release. ``stages`` are seconds by host and stage."""

    release: Release
    wish: Wish = field(default_factory=Wish)
    seconds: float = 0.0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    error: RolloutError | None = None
    begun: bool = False
    """Whether any host began its turn."""

    @property
    def on_new_version(self) -> tuple[str, ...]:
        """Every host that runs the new version of a service now, from this release or from before it."""
        done = self.release.hosts if self.error is None else self.error.released
        if not self.begun:
            done = ()
        return tuple(dict.fromkeys((*self.release.already, *done)))

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        error = self.error
        return {
            "outcome": "failed" if error else "ok",
            "services": {
                name: {"from": ", ".join(old), "to": new} for name, (old, new) in self.release.services.items()
            },
            "released": [n for n in self.release.hosts if error is None or n in error.released],
            "on_new_version": list(self.on_new_version),
            "waiting": list(self.release.left),
            "put_back": list(error.undone) if error else [],
            "failures": [asdict(failure) for failure in error.failures] if error else [],
            "seconds": round(self.seconds, 3),
            "stages": self.stages,
        }


def perform(known: run.Known, hosts: Hosts, wanted: Release, wish: Wish, say: Say) -> Report:
    """Carry a prepared release out, under the cluster's lock and into its audit.

    Everything that can be done beforehand is: the lock is taken, every host has its image, and the release commands of
    a rollout ended well, before the first host changes. The operator's hooks run around all of it.
    """
    services = {name: (tuple(before), after) for name, (before, after) in wanted.services.items()}
    with hooks.around(known, hooks.Act(wish.what, wanted.hosts, services, wanted.left), say) as around:
        report = _perform(known, hosts, wanted, wish, say, around)
        around.error = report.error
    return report


def _perform(known: run.Known, hosts: Hosts, wanted: Release, wish: Wish, say: Say, around: hooks.Around) -> Report:
    (gateways, witnesses), who = quorum(known.cluster, known.without), ledger.operator()

    def warn(text: str) -> None:
        say("ledger", text)

    began, turns = now_s(), plan.merge(wanted.turns.values())
    canary = wish.order.canary
    why = f"{wish.what} {wanted}" + (f", canary {canary}" if canary else "")
    report = Report(wanted, wish)

    def lifts(lock: Lock) -> bool:
        return _ends_canary(wish) and lock.waits

    watchful = not (wish.force or wish.order.all_at_once)
    # A canary's release is not over: who is left out misses nothing that the others have.
    without = () if wanted.left else known.without
    about: dict[str, Any] = {"take_over": wish.take_over, "witnesses": witnesses, "without": without}
    try:
        build_images(known, wanted, say)
        with locking.hold(hosts, gateways, who, why, warn=warn, in_place_of=lifts, **about) as held:
            # Before the hook, which is for a release that nothing else is in the way of; and what that forbids is no
            # word about the version, as a failure in the audit would be.
            _require_unchanged(known, hosts, wanted, wish)
            with (
                around.begun(held.beat),
                held.recorded(wish.what, plan=turns.hash, names=wanted.hosts, services=_done(wanted)),
            ):
                ship(hosts, wanted, say)

                if wish.what == "rollout" and (
                    failure := release_command.run_due(known, hosts, wanted, held, say, report.stages)
                ):
                    raise RolloutError([failure], (), ())

                def begin() -> None:
                    report.begun = True
                    held.settle()
                    if wish.what == "rollout" and not canary:
                        # The fewer old servers are left, the more of the rest would each of them get.
                        shares.end(hosts, gateways, wanted.services, warn)

                Rollout(known, hosts, wanted, say, held.beat, report.stages, watchful=watchful, begin=begin).run(
                    wish.keep
                )
                if wish.what == "rollback":
                    shares.end(hosts, gateways, wanted.services, warn)
            # Once its end is in the audit, which tells what a rollback could want.
            tidy(known, hosts, say, lambda text: say("images", text))
    except RolloutError as error:
        report.error = error
    else:
        if canary and wanted.left:
            try:
                locking.lock(hosts, gateways, who, f"{CANARY}{wanted} on {canary}", warn, "canary", witnesses)
            except FiefdomError as error:
                warn(f"the cluster is not locked after the canary: {error}")
    report.seconds = now_s() - began
    return report


def end_canary(known: Known, hosts: Hosts, wish: Wish, warn: Callable[[str], None]) -> bool:
    """Unlock a cluster that waits after a canary, where ``wish`` goes on or back and finds nothing left to release."""
    gateways, witnesses = quorum(known.cluster, known.without)
    locks = ledger.read(hosts, (*gateways, *witnesses), 0).locks if _ends_canary(wish) else ()
    if not locks or not all(lock.waits for lock in locks):
        return False
    others = tuple(name for name in hosts.names if name not in gateways)
    locking.unlock(hosts, gateways, ledger.operator(), warn, witnesses=others)
    return True


def _require_unchanged(known: run.Known, hosts: Hosts, wanted: Release, wish: Wish) -> None:
    # Another run may have held the lock between our look at the hosts and now.
    now = _release(look.see(known, hosts.names, hosts), wanted.asked, wish)
    if plan.merge(now.turns.values()).hash != plan.merge(wanted.turns.values()).hash:
        raise FiefdomError("the hosts changed since this run looked at them; run it again")


def _ends_canary(wish: Wish) -> bool:
    return wish.resume or wish.what == "rollback"


def _done(wanted: Release) -> dict[str, tuple[str, str]]:
    return {name: (before[0], after) for name, (before, after) in wanted.services.items()}


def prepare(
    known: run.Known, hosts: Hosts, services: Collection[str], wish: Wish, tell: Tell = lambda _: None
) -> Release:
    """The release that the inventory asks for, from one look at every host; nothing is changed. ``tell`` hears of hosts
    that are waited for.

    Raises FiefdomError for a cluster that is not fit for a release, unless forced.
    """
    await_turns(hosts, hosts.names, tell)
    seen = look.see(known, hosts.names, hosts)
    found = _release(seen, services, wish)
    # Who goes back is in trouble already.
    if not wish.force and wish.what != "rollback" and found.turns:
        unapplied = release.unapplied(seen.plan(), found.turns)
        status.require_fit(known.cluster, known.secrets, hosts, unapplied, _unfit)
    for name, turn in found.turns.items():
        doctor.require_none_refused(name, (one for one in turn.findings if one.what in (doctor.FOLDER, made_by.WHAT)))
    turns = plan.merge(found.turns.values())
    carry_out.require_space(turns)
    require_images(known.cluster, found, wish)
    arrivals.require_fit(known, turns)
    return found


def _unfit(reasons: Sequence[str]) -> str:
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return f"the cluster is not fit for a release: {reasons[0]}{more}"


def require_images(cluster: Cluster, wanted: Release, wish: Wish) -> None:
    """Raise FiefdomError for an image that hosts lack and nobody has. What a registry has is only known by pulling."""
    lacking = grouped(
        (change.name, name)
        for name in wanted.hosts
        for change in wanted.turns[name].of("image")
        if not (isinstance(change.resource, Image) and change.resource.pull)
    )
    here = build.identities(cluster) if lacking else {}
    for ref, names in lacking.items():
        if ref not in here:
            key, mend = "", "name a version that is somewhere, or bring its image here"
            if wish.what != "rollback":
                key = "".join(f"{w.key}: " for w in build.wanted(cluster) if w.ref == ref)
                mend = "build or pull it here, give the service a `build` folder, or name a `registry`"
            raise FiefdomError(f"{key}{ref} is not on this machine, and {', '.join(names)} lack it as well; {mend}")


def _release(seen: look.Seen, services: Collection[str], wish: Wish) -> Release:
    cluster = seen.known.cluster
    wanted = seen.plan(hold=set(cluster.services) - set(services))
    return release.of_plan(cluster, wanted, services, wish.order, seen.known.without)


def require_free(known: Known, hosts: Hosts, wish: Wish) -> None:
    """Raise FiefdomError for a locked cluster, before `prepare` waits for the turn of the run that locked it."""
    gateways, witnesses = quorum(known.cluster, known.without)
    for found in ledger.read(hosts, (*gateways, *witnesses), 0).locks:
        if not (_ends_canary(wish) and found.waits) and (reason := refusal(found, wish.take_over)):
            raise FiefdomError(f"{found.gateway}: {reason}")


def build_images(known: run.Known, wanted: Release, say: Say) -> None:
    """Build what hosts lack and this machine as well. Raises FiefdomError where it does not fit there, or run."""
    turns = _bringing(wanted)
    refs = {c.name for turn in turns.values() for c in turn.of("image")}
    build.ensure(known.cluster, refs, lambda text: say(HERE, text))
    arrivals.require_fit(known, plan.merge(turns.values()))


def ship(hosts: Hosts, wanted: Release, say: Say) -> None:
    """Bring every host's image to it, all hosts at once, before the first one changes."""
    turns = _bringing(wanted)

    def send(name: str) -> None:
        say(name, IMAGE)
        if noted := steps.brought(turns[name]):
            hosts.run(name, Phase("record", noted))
        hosts.run(name, steps.images_phase(turns[name]))

    hosts.on_all(send, turns)


def _bringing(wanted: Release) -> dict[str, plan.HostPlan]:
    return {name: turn for name, turn in wanted.turns.items() if turn.of("image") and name in wanted.hosts}
