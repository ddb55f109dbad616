"""What pyinfra's own command runs: the fact, the operations and the deploy of the files in deploys/."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from pyinfra import context
from pyinfra.api import FactBase, FunctionCommand, Inventory, State, StringCommand, operation
from pyinfra.api.exceptions import DeployError
from pyinfra.api.host import Host

from fiefdom.cluster import keys
from fiefdom.converge import arrivals, diffs, guard, look, plan, snapshot
from fiefdom.converge.doctor import require_none_refused
from fiefdom.converge.run import Known
from fiefdom.converge.steps import PHASES, Phase, Step, phases, steps_text
from fiefdom.converge.waves import takes_turns
from fiefdom.desired.concerns import ALL, states_of
from fiefdom.engine.line import guarded
from fiefdom.engine.session import fail, session_of, ship, take
from fiefdom.engine.shells import as_root, shown, text_of
from fiefdom.errors import FiefdomError
from fiefdom.images import build, docker
from fiefdom.inventory import read, secret
from fiefdom.model import Cluster


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


def deploy(*concerns: str) -> None:
    """Converge the host that pyinfra is at, wholly or in some concerns: what the files in deploys/ call.

    Every host gets the same operations in the same order, empty where there is nothing to do, so that pyinfra's own
    counts and JSON tell changes from none.
    """
    host, state = context.host, context.state
    # One broken host must not leave the others half way through a fleet-wide change.
    state.config.FAIL_PERCENT = 0
    try:
        if state.failed_hosts:
            raise FiefdomError(
                f"{', '.join(sorted(h.name for h in state.failed_hosts))}: no answer; nothing was changed"
            )
        run = _run_of(state)
        known = run.known
        chosen = concerns or ALL
        states = states_of(known.cluster, host.name, known.secrets, chosen)
        # Not even at -vvv: digests that cover secrets are in the answer, and a weak secret could be guessed from one.
        state.print_fact_output = False
        lines = host.get_fact(HostSnapshot, _stdin=snapshot.query_of(states), _sudo=False)
        if lines is None:
            raise FiefdomError(f"{host.name}: the snapshot failed; its words are above")
        wanted = arrivals.judged(known, [look.plan_of(known, host.name, lines, chosen, states=states)])[host.name]
        look.require_settled(wanted)
        require_none_refused(host.name, wanted.findings)
        _require_same_key(state, run, wanted)
    except FiefdomError as error:
        raise DeployError(str(error)) from error
    if state.config.DIFF:
        _log_diffs(host, wanted)
    for pending in plan.merge([wanted]).pending:
        host.log(f"release pending: {pending}; `fiefdom rollout` makes it")
    own = {phase.name: phase for phase in phases(wanted.due, known.cluster.ssh.confirm_s)}
    nothing = Phase("nothing")
    pulled = {image.pulled for image in build.wanted(known.cluster)}
    interrupts = takes_turns(plan.merge([wanted]))
    for name in PHASES:
        phase = own.get(name, nothing)
        if name == "access":
            # One host after the other: none of them may be risked before the one ahead of it is confirmed.
            commit(
                name="Fiefdom: access",
                cluster=known.cluster,
                steps=phase.steps,
                kept=phase.guarded,
                _sudo=False,
                _serial=True,
            )
            continue
        if name == "images" and False in pulled:
            ship(name="Fiefdom: images", cluster=known.cluster, refs=phase.images, _sudo=False)
        if name != "images" or True in pulled:
            # Hosts take turns where one may serve less for a while.
            take(
                name=f"Fiefdom: {name}",
                steps=steps_text(phase.steps),
                detached=phase.interrupts,
                # Asked before the first change, when it is carried out: a dry run is nobody's business.
                unlocked=known.cluster if interrupts and name == PHASES[0] else None,
                _sudo=False,
                _serial=name == "containers",
            )


@dataclass
class _Run:
    """What is found out once for a run of pyinfra's own command, whichever host it is at."""

    known: Known
    same_key: bool = False
    """Whether the hosts were found to speak with this machine's gossip key."""
    locked_out: str = ""
    """The host that took a change of sshd, firewall or network back."""


# Each lives exactly as long as pyinfra's own object of the run.
_runs: WeakKeyDictionary[State, _Run] = WeakKeyDictionary()


def _run_of(state: State) -> _Run:
    if state not in _runs:
        cluster = cluster_of(state.inventory)
        _runs.setdefault(
            state, _Run(Known(cluster, secret.load(cluster), build.identities(cluster), local=docker.describe))
        )
    return _runs[state]


def cluster_of(found: Inventory) -> Cluster:
    """As `read.cluster_of`, of an inventory that pyinfra has loaded."""
    hosts = {host.name: (list(host.groups), found.get_host_data(host.name)) for host in found}
    return read.cluster_of(hosts, found.group_data, found.data)


def _require_same_key(state: State, run: _Run, wanted: plan.HostPlan) -> None:
    """As `keys.require_same_key`, of the hosts that pyinfra is connected to; once for a run."""
    if keys.touches_keys([wanted.due]) and not run.same_key:
        keys.require_same_key(run.known, session_of(state, run.known.cluster))
        run.same_key = True


def _log_diffs(host: Host, wanted: plan.HostPlan) -> None:
    for (_, path), text in diffs.of_plan(plan.merge([wanted]), lambda _, path: text_of(host, path)).items():
        host.log(f"{path}\n{text}")
