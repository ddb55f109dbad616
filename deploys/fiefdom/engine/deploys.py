"""What pyinfra's own command runs of Fiefdom: the fact, the operations, and how a host is converged by them."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from pyinfra import context
from pyinfra.api import FactBase, FunctionCommand, Inventory, State, StringCommand, operation
from pyinfra.api.exceptions import DeployError
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta

from fiefdom.cluster import keys
from fiefdom.converge import arrivals, diffs, guard, look, plan, snapshot
from fiefdom.converge.doctor import require_none_refused
from fiefdom.converge.run import Known
from fiefdom.converge.steps import PHASES, Phase, phases
from fiefdom.converge.steps_script import Step, steps_text
from fiefdom.converge.waves import takes_turns
from fiefdom.desired.concerns import ALL, states_of
from fiefdom.desired.state import Codename, HostState
from fiefdom.engine.line import guarded
from fiefdom.engine.session import fail, session_of, ship, take
from fiefdom.engine.shells import as_root, shown, text_of
from fiefdom.engine.whose import require_ssh, whose
from fiefdom.errors import FiefdomError
from fiefdom.images import build, docker
from fiefdom.inventory import secret
from fiefdom.model import Cluster, Secrets
from fiefdom.wording import dotted


class HostSnapshot(FactBase[list[str]]):
    """Lines of `snapshot.sh`; the query goes in as `_stdin`, so that it never stands in a process list."""

    name = "fiefdom.HostSnapshot"

    def command(self) -> StringCommand:
        """The script, as root."""
        return as_root(snapshot.SCRIPT)

    def process(self, output: list[str]) -> list[str]:
        """The host's own lines."""
        return shown("\n".join(output)).split("\n")


@operation()
def commit(cluster: Cluster, steps: tuple[Step, ...], kept: guard.Backup | None) -> Generator[FunctionCommand]:
    """Let the host take steps that could lock the operator out, and confirm them over a new connection: `guard`."""
    if steps and kept is not None:
        yield FunctionCommand(_commit, [cluster, steps, kept], {})


def _commit(state: State, host: Host, cluster: Cluster, steps: tuple[Step, ...], kept: guard.Backup) -> None:
    run = _run_of(state)
    # pyinfra goes on with the next host of a serial operation, whatever became of the first.
    if run.locked_out:
        fail(host, f"left alone, for {run.locked_out} took such a change back")
    try:
        guarded(host, cluster, steps, kept)
    except FiefdomError as error:
        run.locked_out = host.name
        fail(host, str(error).removeprefix(f"{host.name}: "))


@dataclass(frozen=True)
class Changes:
    """What became of a host, as of one of pyinfra's operations; answers once the operations have run."""

    operations: tuple[OperationMeta, ...]

    def did_change(self) -> bool:
        """Whether anything changed; for `_if=` of operations that follow."""
        return any(done.did_change() for done in self.operations)

    def did_not_change(self) -> bool:
        """The opposite."""
        return not self.did_change()

    @property
    def will_change(self) -> bool:
        """Whether there is anything to change, as far as it is known before."""
        return any(to_do.will_change for to_do in self.operations)


def converge(concerns: tuple[str, ...] = ALL, defaults: Any = None) -> Changes:
    """Converge the host that pyinfra is at, wholly or in some concerns; ``defaults`` are of a deploy's data_defaults.

    Every host gets the same operations in the same order, empty where there is nothing to do, so that pyinfra's own
    counts and JSON tell changes from none.

    Raises:
        DeployError: one sentence, which pyinfra prints, and nothing was changed.
    """
    host, state = context.host, context.state
    known, wanted = planned(state, host, concerns, defaults, to_change=True)
    cluster = known.cluster
    if state.config.DIFF:
        _log_diffs(host, wanted)
    for pending in plan.merge([wanted]).pending:
        host.log(f"release pending: {pending}; `fiefdom rollout` makes it")
    own = {phase.name: phase for phase in phases(wanted.due, cluster.ssh.confirm_s)}
    nothing = Phase("nothing")
    pulled = {image.pulled for image in build.wanted(cluster)}
    interrupts = takes_turns(plan.merge([wanted]))
    done = []
    for name in PHASES:
        phase = own.get(name, nothing)
        if name == "access":
            # One host after the other: none of them may be risked before the one ahead of it is confirmed.
            done.append(
                commit(
                    name=name,
                    cluster=cluster,
                    steps=phase.steps,
                    kept=phase.guarded,
                    _sudo=False,
                    _serial=True,
                )
            )
            continue
        if name == "images" and False in pulled:
            done.append(ship(name="images sent", cluster=cluster, refs=phase.images, _sudo=False))
        if name != "images" or True in pulled:
            # Hosts take turns where one may serve less for a while.
            done.append(
                take(
                    name=name,
                    steps=steps_text(phase.steps),
                    detached=phase.interrupts,
                    # Asked before the first change, when it is carried out: a dry run is nobody's business.
                    unlocked=cluster if interrupts and name == PHASES[0] else None,
                    _sudo=False,
                    _serial=name == "containers",
                )
            )
    return Changes(tuple(done))


def planned(
    state: State, host: Host, concerns: tuple[str, ...], defaults: Any, *, to_change: bool = False
) -> tuple[Known, plan.HostPlan]:
    """What is known of a host's cluster, and the plan of the host; ``to_change`` where that will be carried out.

    Raises:
        DeployError: as `converge`.
    """
    try:
        run = _run_of(state)
        known = run.known(state.inventory, host, concerns, defaults)
        cluster = known.cluster
        if to_change:
            if len(cluster.hosts) > 1:
                # One broken host must not leave the others half way through a fleet-wide change.
                state.config.FAIL_PERCENT = 0
            failed = sorted(h.name for h in state.failed_hosts if h.name in cluster.hosts)
            if failed:
                raise FiefdomError(f"{', '.join(failed)}: no answer; nothing was changed")
        states = states_of(cluster, host.name, known.secrets, concerns)
        # Not even at -vvv: digests that cover secrets are in the answer, and a weak secret could be guessed from one.
        state.print_fact_output = False
        wanted = _look(host, known, concerns, states)
        look.require_settled(wanted)
        require_none_refused(host.name, wanted.findings)
        if to_change:
            _require_same_key(state, run, known, wanted)
    except FiefdomError as error:
        raise DeployError(str(error)) from error
    return known, wanted


def _look(host: Host, known: Known, concerns: tuple[str, ...], states: Mapping[Codename, HostState]) -> plan.HostPlan:
    lines = host.get_fact(HostSnapshot, _stdin=snapshot.query_of(states), _sudo=False)
    if lines is None:
        raise FiefdomError(f"{host.name}: the snapshot failed; its words are above")
    return arrivals.judged(known, [look.plan_of(known, host.name, lines, concerns, states=states)])[host.name]


@dataclass
class _Run:
    """What is found out once for a run of pyinfra's own command, whichever host it is at."""

    found: dict[Hashable, Known] = field(default_factory=dict)
    clusters: dict[Hashable, Cluster] = field(default_factory=dict)
    same_key: set[str] = field(default_factory=set)
    """Clusters whose hosts were found to speak with this machine's gossip key."""
    locked_out: str = ""
    """The host that took a change of sshd, firewall or network back."""

    def known(self, inventory: Inventory, host: Host, concerns: tuple[str, ...], defaults: Any) -> Known:
        """What a run of ``concerns`` has to know of the host's cluster; no secret that they do not want."""
        require_ssh(host)
        which, make = whose(inventory, host, concerns, defaults)
        if which not in self.clusters:
            self.clusters[which] = make()
        cluster = self.clusters[which]
        key = (which, tuple(concerns))
        if key not in self.found:
            images = not _WITHOUT_IMAGES.issuperset(concerns)
            self.found[key] = Known(
                cluster,
                secret.load(cluster) if images else _secrets(cluster, concerns),
                build.identities(cluster) if images else {},
                local=docker.describe,
            )
        return self.found[key]


_WITHOUT_IMAGES = frozenset({"network", "firewall", "docker", "address", "monitoring", "sshd"})
"""Concerns that want no image, and no secret but a registry's password."""


def _secrets(cluster: Cluster, concerns: tuple[str, ...]) -> Secrets:
    if "docker" not in concerns:
        return Secrets("")
    passwords = {dotted(key): (key, source) for key, source in cluster.secret_sources() if key[-1] == "password"}
    values = secret.values_of(cluster, passwords)
    return Secrets("", {passwords[name][1]: value for name, value in values.items()})


# Each lives exactly as long as pyinfra's own object of the run.
_runs: WeakKeyDictionary[State, _Run] = WeakKeyDictionary()


def _run_of(state: State) -> _Run:
    return _runs.setdefault(state, _Run())


def _require_same_key(state: State, run: _Run, known: Known, wanted: plan.HostPlan) -> None:
    """As `keys.require_same_key`, of the hosts that pyinfra is connected to; once for a run."""
    if keys.touches_keys([wanted.due]) and known.cluster.cluster not in run.same_key:
        keys.require_same_key(known, session_of(state, known.cluster))
        run.same_key.add(known.cluster.cluster)


def _log_diffs(host: Host, wanted: plan.HostPlan) -> None:
    for (_, path), text in diffs.of_plan(plan.merge([wanted]), lambda _, path: text_of(host, path)).items():
        host.log(f"{path}\n{text}")
