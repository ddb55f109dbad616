"""Releases, host by host: out of rotation, replaced, healthy, back in, watched; the first failure undoes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fiefdom.cluster import answering, ledger, locking, shares, status
from fiefdom.cluster import views as views_module
from fiefdom.cluster.lock import CANARY, Lock, quorum, refusal
from fiefdom.cluster.views import Counts, Views, alone, counts, erring, verdict, views_of
from fiefdom.converge import arrivals, carry_out, doctor, look, made_by, plan, run, steps, turn_steps
from fiefdom.converge.run import Hosts, Known, Say
from fiefdom.converge.steps import Phase
from fiefdom.converge.steps_script import Step
from fiefdom.desired.containers import FAILED
from fiefdom.desired.state import Container, Image
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.images import build
from fiefdom.model import Cluster
from fiefdom.procedures import hooks, release, release_command
from fiefdom.procedures.release import Order, Release
from fiefdom.procedures.tidy import tidy
from fiefdom.procedures.turn import Failure, Heard, await_turns, take_turn
from fiefdom.waiting import looks, now_s
from fiefdom.wording import Tell, printable

IMAGE = "image"
"""What a host is at while it gets the release's image, as `Say` hears it."""
_WORDS_MAX = 400

# Names of containers that a failed turn may have kept aside; tells which are there, and the last words of the first.
_KEPT = r"""
words=''
for name; do
    docker inspect --type container "$name" >/dev/null 2>&1 || continue
    printf 'kept\t%s\n' "$name"
    [ -n "$words" ] || words=$(docker logs --tail 10 "$name" 2>&1)
done
printf '%s\n' "$words" | sed 's/^/log\t/'
"""


class RolloutError(FiefdomError):
    """A release that ended early; ``failures`` say where and why, ``undone`` which hosts went back."""

    def __init__(self, failures: Iterable[Failure], undone: Iterable[str], released: Iterable[str]) -> None:
        self.failures, self.undone, self.released = tuple(failures), tuple(undone), tuple(released)
        super().__init__("; ".join(f"{f.host}: {f.unit}: {f.reason}" for f in self.failures))


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
    lacking: dict[str, list[str]] = {}
    for name in wanted.hosts:
        for change in wanted.turns[name].of("image"):
            if isinstance(change.resource, Image) and change.resource.pull:
                continue
            lacking.setdefault(change.name, []).append(name)
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
    build.ensure(known.cluster, refs, lambda text: say("here", text))
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


@dataclass
class Rollout:
    """One release on its way. ``say(host, what)`` hears of every stage; ``stages`` keeps how long each took."""

    known: Known
    hosts: Hosts
    release: Release
    say: Say
    beat: Callable[[], None] = lambda: None
    """Raises where somebody took the cluster's lock over."""
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    released: list[str] = field(default_factory=list)
    watchful: bool = True
    """Whether no batch begins that would take down what it serves alone by now."""
    begin: Callable[[], None] = lambda: None
    """Called before each batch begins its turn."""

    def run(self, keep: bool = False) -> None:
        """Release to every batch in turn. The first failure ends it and undoes it, unless it may ``keep`` what is done.

        Raises RolloutError.
        """
        for batch in self.release.batches:
            self.beat()
            views = self._views()
            if failures := self._forbidden(views, batch):
                raise self._undo(failures, keep)
            self.begin()
            before = counts(views, batch, self.release.services)
            failures = self._replace(batch)
            well = [name for name in batch if name not in {f.host for f in failures}]
            failures += [f for name in well if (f := self._await_up(name, before))]
            if not failures:
                failures = self._soak(batch, before)
            if failures:
                raise self._undo(failures, keep)
            self.released += batch
            for name in batch:
                self.say(name, carry_out.DONE)

    # --- The stages

    def _forbidden(self, views: Views, batch: Collection[str]) -> list[Failure]:
        """Who was to serve meanwhile may have died since the release was found fit to begin."""
        out = [service for service, _, _ in self._released(batch)]
        reason = self._alone(views, batch, out) if self.watchful else None
        words = f"the turn was not begun: {reason}; --force begins it all the same"
        return [Failure(name, "the gateways", words, begun=False) for name in batch] if reason else []

    def _alone(self, views: Views, names: Collection[str], services: Collection[str]) -> str | None:
        """What nobody would serve while these hosts replace ``services``; or None."""
        about: dict[str, Any] = {"if_up": True, "services": services}
        return alone(views, self.known.cluster, names, **about) or answering.alone(
            self.known.cluster, self.hosts, names, **about
        )

    def _released(self, names: Iterable[str]) -> list[tuple[str, str, str]]:
        """What these hosts' turns replace, as `release.versions_of` tells it."""
        return [found for name in names for found in release.versions_of(self.release.turns[name])]

    def _replace(self, batch: Iterable[str]) -> list[Failure]:
        """Let hosts take their turns, side by side. A host whose turn fails has put back what it had."""
        found = self.hosts.on_all(self._turn, batch)
        return [failure for failure in found.values() if failure]

    def _turn(self, name: str) -> Failure | None:
        heard = Heard(name, self._stage)
        for service in dict.fromkeys(service for service, _, _ in self._released([name])):
            if service in self.release.pauses:
                self.say(name, f"{service} pauses: its one instance stops before the next one starts")
        try:
            take_turn(self.hosts, name, turn_steps.turn(self.release.turns[name]), heard)
        except Unreachable as error:
            # The host goes on alone, and how far it comes cannot be heard.
            return Failure(name, "its turn", str(error))
        return heard.failure

    def _await_up(self, name: str, before: Counts) -> Failure | None:
        """Wait until every gateway has all that was released there up, as the host itself did.

        What gateways do not have, the host is asked once more.
        """
        services = {service for service, _, _ in self._released([name])}
        instances = [i for i in self.known.cluster.routed(name) if i.service in services]
        unrouted = answering.unrouted(self.known.cluster, name, services)
        for late in looks(self.known.cluster.serf.join_timeout_s):
            views = self._views()
            missing = views_module.missing(views, self.known.cluster, name, instances)
            missing = missing or answering.missing(self.hosts, name, unrouted)
            if missing is None:
                return None
            # Servers that answer with errors are taken out again and again, so that all are hardly ever up at once.
            if failure := self._judged(views, name, before):
                return failure
            if late:
                break
        return Failure(name, missing.unit, missing.reason) if missing else None

    def _judged(self, views: Views, name: str, before: Counts) -> Failure | None:
        """What the gateways count against a host since its turn began; its servers count anew when they come back."""
        now = counts(views, [name], self.release.services)
        reason = verdict(before, now, self.known.cluster.rollout.most_errors)
        return Failure(name, self._units(name, erring(before, now)), reason) if reason else None

    def _units(self, name: str, servers: Collection[str]) -> str:
        """Units of a host's servers, a few by name."""
        found = [i.unit for i in self.known.cluster.instances(name) if f"{name}-{i.port}" in servers]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        return ", ".join(found[:3]) + more

    def _soak(self, batch: tuple[str, ...], before: Counts) -> list[Failure]:
        """Watch what the gateways count against the new version for a while."""
        soak_s = self.known.cluster.rollout.soak_s
        if not soak_s:
            return []
        for name in batch:
            self._stage(name, "soak")
        began_s = now_s()
        for over in looks(soak_s):
            views = self._views()
            failures = [failure for name in batch if (failure := self._judged(views, name, before))]
            if failures or over:
                break
        # A version may do well for a moment only, and die before a request finds out.
        failures = failures or [f for name in batch if (f := self._await_up(name, before))]
        self._end_stage(batch, "soak", began_s)
        return failures

    def _undo(self, failures: list[Failure], keep: bool) -> RolloutError:
        """Bring back the hosts that failed, and those that were done unless they are to keep the release."""
        failed = {f.host: f for f in failures}
        batch = next(b for b in self.release.batches if set(b) & set(failed))
        siblings = [name for name in batch if name not in failed]
        undone = [name for name, f in failed.items() if f.restored]
        for name, failure in failed.items():
            if failure.begun and not failure.restored:
                undone += self._back(name, aside=True)
        for name in [] if keep else [*siblings, *reversed(self.released)]:
            # A host that failed and is gone must not take with it the one that serves in its place.
            out = [service for service, _, _ in self._released([name])]
            if reason := self._alone(self._views(), [name], out):
                self.say(name, f"not put back: {reason}")
            else:
                undone += self._back(name, aside=False)
        self.released += siblings
        left = [name for name in self.released if name not in undone]
        seen = [self._with_last_words(replace(f, restored=True)) if f.host in undone else f for f in failures]
        return RolloutError(seen, undone, left)

    def _back(self, name: str, aside: bool) -> list[str]:
        try:
            heard = self._take_back(name, turn_steps.turn_back(self.release.turns[name], aside))
        except FiefdomError as error:
            self.say(name, f"not put back: {error}")
            return []
        if heard.failure or not heard.restored:
            self.say(name, f"not put back: {heard.failure.reason if heard.failure else 'it does not say why'}")
            return []
        self.say(name, "put back")
        return [name]

    def _take_back(self, name: str, steps: Sequence[Step]) -> Heard:
        """Let a host take steps; over another connection where the one there was has dropped."""
        heard = Heard(name, self._stage)
        try:
            take_turn(self.hosts, name, steps, heard)
        except Unreachable as error:
            if reason := self.hosts.connect_anew(name):
                raise FiefdomError(f"{error}; and no other one opens: {reason}") from error
            # It may be at the turn still in which its connection dropped.
            await_turns(self.hosts, [name], lambda text: self.say("here", text))
            heard = Heard(name, self._stage)
            take_turn(self.hosts, name, steps, heard)
        return heard

    def _with_last_words(self, failure: Failure) -> Failure:
        """A failure with what its host keeps aside and, where nobody told why it failed, what that said last."""
        instances = [
            c.resource
            for c in self.release.turns[failure.host].of("container", "-/+")
            if isinstance(c.resource, Container) and c.resource.role == "instance"
        ]
        # The one to blame comes first.
        names = [f"{c.name}{FAILED}" for c in sorted(instances, key=lambda c: c.unit not in failure.unit)]
        try:
            _, output, _ = self.hosts.script(failure.host, _KEPT, names)
        except Unreachable:  # it is only told less then
            return failure
        lines = [line.partition("\t") for line in output.splitlines()]
        kept = tuple(text for kind, _, text in lines if kind == "kept")
        words = tuple(printable(text)[:_WORDS_MAX] for kind, _, text in lines if kind == "log" and text.strip())
        return replace(failure, kept=kept, log=failure.log or words[-10:])

    # --- Looking and telling

    def _views(self) -> Views:
        return views_of(self.hosts, self.known.gateways)

    def _stage(self, name: str, stage: str, began: float | None = None) -> None:
        if began is None:
            self.say(name, stage)
        else:
            self.stages.setdefault(name, {})[stage] = round(now_s() - began, 3)

    def _end_stage(self, batch: Iterable[str], stage: str, began: float) -> None:
        for name in batch:
            self._stage(name, stage, began)
