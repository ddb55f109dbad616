"""A release on its way: out of rotation, replaced, healthy, back in, watched; the first failure undoes it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fiefdom.cluster import answering
from fiefdom.cluster import views as views_module
from fiefdom.cluster.views import Counts, Views, alone, counts, erring, verdict, views_of
from fiefdom.converge import carry_out, turn_steps
from fiefdom.converge.run import HERE, Hosts, Known, Say
from fiefdom.converge.steps_script import Step
from fiefdom.desired.containers import FAILED
from fiefdom.desired.state import Container
from fiefdom.errors import FiefdomError, Unreachable
from fiefdom.procedures import release
from fiefdom.procedures.release import Release
from fiefdom.procedures.turn import Failure, Heard, await_turns, take_turn
from fiefdom.waiting import looks, now_s
from fiefdom.wording import printable

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


@dataclass
class Rollout:
    """One release, batch after batch. ``say(host, what)`` hears of every stage; ``stages`` keeps how long each took."""

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
            await_turns(self.hosts, [name], lambda text: self.say(HERE, text))
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
