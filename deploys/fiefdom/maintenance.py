"""Taking a host out of service on purpose: a rolling reboot, and a host that leaves for good."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fiefdom import apply, converge, ledger, plan, release, rollout, snapshot, status
from fiefdom.desired import HostState
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.wording import printable

if TYPE_CHECKING:
    from fiefdom.engine import Session

BOOT_TIMEOUT_S = 600
LEAVE_TIMEOUT_S = 30
LOOK_S = 0.5
AGENT = "serf-agent.service"

# What lets the operator in and the host be found stays when Fiefdom goes.
_STAYS = ("/etc/ssh/", "/etc/systemd/network/", "/etc/hosts", "/etc/resolv.conf", "/etc/systemd/timesyncd")

Say = Callable[[str, str], None]


def reboot(
    known: converge.Known,
    hosts: Session,
    names: Sequence[str],
    *,
    upgrade: bool,
    force: bool,
    take_over: bool,
    say: Say,
) -> None:
    """Reboot hosts one after the other, each when the one before it serves again, with Debian's upgrades if asked.

    The host drains by itself when it shuts down; an upgrade, which may restart anything, waits until it has left.

    Raises FiefdomError for a cluster that is degraded, unless ``force``, and where a host does not come back.
    """
    cluster = known.cluster
    _require_fit(known, hosts, names, force)
    gateways, who = cluster.gateways, ledger.operator()
    why = f"reboot of {', '.join(names)}{' with upgrades' if upgrade else ''}"
    with (
        ledger.hold(hosts, gateways, who, why, warn=lambda text: say("ledger", text), take_over=take_over) as held,
        held.recorded("reboot", names=names),
    ):
        for name in names:
            held.beat()
            if not force:
                _require_stand_in(cluster, hosts, name)
            if upgrade:
                _upgrade(known, hosts, name, say)
            began_s = _reboot(hosts, name, say)
            say(name, "join")
            await_serving(cluster, hosts, name)
            for line in _delays(hosts, name, began_s):
                say(name, line)
            say(name, converge.DONE)


def _require_fit(known: converge.Known, hosts: Session, names: Collection[str], force: bool) -> None:
    cluster = known.cluster
    if not force and len(cluster.gateways) == 1 and cluster.gateways[0] in names:
        raise FiefdomError(
            f"{cluster.gateways[0]}: no other gateway takes its clients meanwhile; "
            "leave it out with --limit app_hosts, or say --force"
        )
    if not force and (reasons := release.degraded(status.read(cluster, known.secrets, hosts))):
        raise FiefdomError(f"the cluster is degraded: {reasons[0]}; mend it, or say --force")
    if not force:
        release.require_others(cluster, cluster.services, [[name] for name in names])


def _require_stand_in(cluster: Cluster, hosts: Session, name: str) -> None:
    """Raise FiefdomError where, by now, nobody serves in a host's place: who did may have died since the last look."""
    others = [gateway for gateway in cluster.gateways if gateway != name]
    views = rollout.views_of(hosts, others if name in cluster.gateways else cluster.gateways)
    reason = release.alone(views, cluster, [name], if_up=True)
    if name in cluster.gateways and not any(isinstance(view, dict) for view in views.values()):
        reason = "no other gateway answers, that would take its clients meanwhile"
    if reason:
        raise FiefdomError(
            f"{name}: {reason}; it was left alone, and so were the hosts after it; mend that, or say --force"
        )


def _upgrade(known: converge.Known, hosts: Session, name: str, say: Say) -> None:
    agents = [AGENT] if known.cluster.instances(name) else []
    steps = [("say", "drain"), ("containers", "stop", *agents)] if agents else []
    heard = rollout.Heard(name, lambda host, stage, began=None: None if began else say(host, stage))
    rollout.take_turn(hosts, name, [*steps, ("say", "upgrade"), ("upgrade", *agents)], heard)
    if heard.failure:
        if agents:
            rollout.take_turn(hosts, name, [("containers", "start", *agents)], rollout.Heard(name, lambda *_: None))
        raise FiefdomError(f"{name}: {heard.failure.unit}: {heard.failure.reason}")


def _reboot(hosts: Session, name: str, say: Say) -> str:
    """Reboot a host and wait until it answers again; when that began, in seconds since 1970 by its own clock."""
    boot = _boot(hosts, name)
    if not boot:
        raise FiefdomError(f"{name}: does not answer; it was not rebooted")
    began_s = _script(hosts, name, "date +%s").strip()
    say(name, "reboot")
    with suppress(FiefdomError):  # the connection may end before the answer
        _script(hosts, name, "systemctl reboot")
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    reason: str | None = "it has not gone down"
    while True:
        time.sleep(LOOK_S)
        reason = hosts.connect_anew(name)
        if reason is None and _boot(hosts, name) not in ("", boot):
            return began_s
        if time.monotonic() > deadline:
            raise FiefdomError(
                f"{name}: not back {BOOT_TIMEOUT_S} s after its reboot: {reason or 'it did not go down'}; "
                "the other hosts were left alone"
            )


def _delays(hosts: Session, name: str, since_s: str) -> list[str]:
    """What a host's drain or join went on without, by its journal; of a drain nothing where that is in memory alone."""
    text = 'journalctl -q -o cat -u "$1" --since "@$2" | grep \'^going on after \' || :'
    try:
        return [printable(line) for line in _script(hosts, name, text, AGENT, since_s).splitlines()]
    except FiefdomError:  # it serves, whatever it has to tell
        return []


def _boot(hosts: Session, name: str) -> str:
    try:
        return _script(hosts, name, "cat /proc/sys/kernel/random/boot_id").strip()
    except FiefdomError:
        return ""


def _script(hosts: Session, name: str, text: str, *arguments: str) -> str:
    """Output of a script. Raises FiefdomError where the connection breaks off."""
    return hosts.on_all(lambda name: hosts.script(name, text, arguments)[1], [name])[name]


def await_serving(cluster: Cluster, hosts: Session, name: str, gateways: Collection[str] | None = None) -> None:
    """Wait until all gateways, or these, have a host's servers up. Raises FiefdomError where that takes long."""
    instances = cluster.instances(name)
    start_s = sum(cluster.services[i.service].health.start_timeout_s for i in instances)
    deadline = time.monotonic() + start_s + cluster.serf.join_timeout_s + 60
    while missing := release.not_up(_views(cluster, hosts, gateways), cluster, name):
        if time.monotonic() > deadline:
            raise FiefdomError(f"{name}: does not serve again: {missing}; the other hosts were left alone")
        time.sleep(LOOK_S)


def _views(cluster: Cluster, hosts: Session, gateways: Collection[str] | None = None) -> dict[str, Any]:
    asked = cluster.gateways if gateways is None else gateways
    return hosts.on_all(lambda name: status.gateway_view(hosts, name), asked)


def retire(known: converge.Known, hosts: Session, name: str, *, force: bool, take_over: bool, say: Say) -> None:
    """Take a host out of the cluster for good: drained, what Fiefdom made removed, and forgotten by all members.

    What lets the operator in stays: sshd's settings, addresses, names. Packages stay as well.

    Raises FiefdomError for a host that the cluster cannot do without, unless ``force``.
    """
    cluster = known.cluster
    if name not in cluster.hosts:
        raise FiefdomError(f"{printable(name)!r} is no host of this inventory; it has {', '.join(cluster.hosts)}")
    remaining = tuple(gateway for gateway in cluster.gateways if gateway != name)
    if not remaining:
        raise FiefdomError(f"{name}: is the only gateway; add another one first")
    if not force:
        release.require_others(cluster, cluster.services, [[name]])
    who = ledger.operator()
    with ledger.hold(
        hosts, remaining, who, f"retire {name}", warn=lambda text: say("ledger", text), take_over=take_over
    ) as held:
        # A host may be at a turn that lost its operator, and serve in a moment what nobody else does now.
        hosts.on_all(lambda name: rollout.await_turn(hosts, name))
        alone = None if force else release.alone(rollout.views_of(hosts, remaining), cluster, [name])
        if alone:
            raise FiefdomError(f"{name}: {alone}; mend the others first, or say --force")
        found = snapshot.parse(name, hosts.snapshot_lines({name: snapshot.query([HostState()])})[name])
        plan.require_supported(name, found)
        gone = plan.of_host(name, HostState(), found, {})
        with held.recorded("retire", plan=plan.merge([gone]).hash, names=[name]):
            _let_go(hosts, remaining, gone, say)


def _let_go(hosts: Session, remaining: Sequence[str], gone: plan.HostPlan, say: Say) -> None:
    """A host's last turn, and what its going leaves to be done by the others."""
    name = gone.host
    heard = rollout.Heard(name, lambda host, stage, began=None: None if began else say(host, stage))
    rollout.take_turn(hosts, name, apply.farewell(gone, _STAYS), heard)
    if heard.failure:
        raise FiefdomError(f"{name}: {heard.failure.unit}: {heard.failure.reason}; run it again")
    say(name, "forget")
    _forget(hosts, remaining, name)
    say(name, converge.DONE)


def _forget(hosts: Session, gateways: Sequence[str], name: str) -> None:
    """Let the members drop a name that they would otherwise list as left for a day."""
    command = ("docker", "exec", "gateway", "serf", "force-leave", "-prune", name)
    deadline = time.monotonic() + LEAVE_TIMEOUT_S
    while True:
        hosts.on_all(lambda gateway: hosts.shell(gateway, command), gateways[:1])
        views = rollout.views_of(hosts, gateways)
        lists = [gateway for gateway, view in views.items() if _may_list(view, name)]
        if not lists:
            return
        if time.monotonic() > deadline:
            raise FiefdomError(
                f"{name}: is out of service, but {', '.join(lists)} may still list it; members forget it within a day"
            )
        time.sleep(LOOK_S)


def _may_list(view: Any, name: str) -> bool:
    """Whether a gateway knows a host. One that does not answer has not said that it forgot it."""
    if not isinstance(view, dict):
        return True
    members = {str(m.get("name")) for m in view.get("members", []) if isinstance(m, dict)}
    servers = {str(s.get("name")).rpartition("-")[0] for s in view.get("servers", []) if isinstance(s, dict)}
    return name in members | servers
