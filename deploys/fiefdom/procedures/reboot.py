"""Taking a host out of service on purpose: a rolling reboot, and a host that leaves for good."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from fiefdom.cluster import ledger, status, views
from fiefdom.cluster.views import alone, await_serving, views_of
from fiefdom.converge import carry_out, plan, run, snapshot, steps
from fiefdom.converge.run import Hosts, Say
from fiefdom.desired.state import HostState
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster
from fiefdom.procedures import release, turn
from fiefdom.waiting import looks, pause
from fiefdom.wording import printable

BOOT_TIMEOUT_S = 600
LEAVE_TIMEOUT_S = 30
AGENT = "serf-agent.service"

# What lets the operator in and the host be found stays when Fiefdom goes.
_STAYS = ("/etc/ssh/", "/etc/systemd/network/", "/etc/hosts", "/etc/resolv.conf", "/etc/systemd/timesyncd")


def reboot(
    known: run.Known,
    hosts: Hosts,
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
            say(name, carry_out.DONE)


def _require_fit(known: run.Known, hosts: Hosts, names: Collection[str], force: bool) -> None:
    cluster = known.cluster
    if not force and len(cluster.gateways) == 1 and cluster.gateways[0] in names:
        raise FiefdomError(
            f"{cluster.gateways[0]}: no other gateway takes its clients meanwhile; "
            "leave it out with --limit app_hosts, or say --force"
        )
    if not force and (reasons := status.degraded(status.read(cluster, known.secrets, hosts))):
        raise FiefdomError(f"the cluster is degraded: {reasons[0]}; mend it, or say --force")
    if not force:
        release.require_others(cluster, cluster.services, [[name] for name in names])


def _require_stand_in(cluster: Cluster, hosts: Hosts, name: str) -> None:
    """Raise FiefdomError where, by now, nobody serves in a host's place: who did may have died since the last look."""
    others = [gateway for gateway in cluster.gateways if gateway != name]
    views = views_of(hosts, others if name in cluster.gateways else cluster.gateways)
    reason = alone(views, cluster, [name], if_up=True)
    if name in cluster.gateways and not any(isinstance(view, dict) for view in views.values()):
        reason = "no other gateway answers, that would take its clients meanwhile"
    if reason:
        raise FiefdomError(
            f"{name}: {reason}; it was left alone, and so were the hosts after it; mend that, or say --force"
        )


def _upgrade(known: run.Known, hosts: Hosts, name: str, say: Say) -> None:
    agents = [AGENT] if known.cluster.instances(name) else []
    steps = [("say", "drain"), ("containers", "stop", *agents)] if agents else []
    heard = turn.Heard(name, lambda host, stage, began=None: None if began else say(host, stage))
    turn.take_turn(hosts, name, [*steps, ("say", "upgrade"), ("upgrade", *agents)], heard)
    if heard.failure:
        if agents:
            turn.take_turn(hosts, name, [("containers", "start", *agents)], turn.Heard(name, lambda *_: None))
        raise FiefdomError(f"{name}: {heard.failure.unit}: {heard.failure.reason}")


def _reboot(hosts: Hosts, name: str, say: Say) -> str:
    """Reboot a host and wait until it answers again; when that began, in seconds since 1970 by its own clock."""
    boot = _boot(hosts, name)
    if not boot:
        raise FiefdomError(f"{name}: does not answer; it was not rebooted")
    began_s = _script(hosts, name, "date +%s").strip()
    say(name, "reboot")
    with suppress(FiefdomError):  # the connection may end before the answer
        _script(hosts, name, "systemctl reboot")
    pause()
    for late in looks(BOOT_TIMEOUT_S):
        reason = hosts.connect_anew(name)
        if reason is None and _boot(hosts, name) not in ("", boot):
            break
        if late:
            raise FiefdomError(
                f"{name}: not back {BOOT_TIMEOUT_S} s after its reboot: {reason or 'it did not go down'}; "
                "the other hosts were left alone"
            )
    return began_s


def _delays(hosts: Hosts, name: str, since_s: str) -> list[str]:
    """What a host's drain or join went on without, by its journal; of a drain nothing where that is in memory alone."""
    text = 'journalctl -q -o cat -u "$1" --since "@$2" | grep \'^going on after \' || :'
    try:
        return [printable(line) for line in _script(hosts, name, text, AGENT, since_s).splitlines()]
    except FiefdomError:  # it serves, whatever it has to tell
        return []


def _boot(hosts: Hosts, name: str) -> str:
    try:
        return _script(hosts, name, "cat /proc/sys/kernel/random/boot_id").strip()
    except FiefdomError:
        return ""


def _script(hosts: Hosts, name: str, text: str, *arguments: str) -> str:
    """Output of a script. Raises FiefdomError where the connection breaks off."""
    return hosts.on_all(lambda name: hosts.script(name, text, arguments)[1], [name])[name]


def retire(known: run.Known, hosts: Hosts, name: str, *, force: bool, take_over: bool, say: Say) -> None:
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
        hosts.on_all(lambda name: turn.await_turn(hosts, name))
        alone = None if force else views.alone(views.views_of(hosts, remaining), cluster, [name])
        if alone:
            raise FiefdomError(f"{name}: {alone}; mend the others first, or say --force")
        found = snapshot.parse(name, hosts.snapshot_lines({name: snapshot.query([HostState()])})[name])
        plan.require_supported(name, found)
        gone = plan.of_host(name, HostState(), found, {})
        with held.recorded("retire", plan=plan.merge([gone]).hash, names=[name]):
            _let_go(hosts, remaining, gone, say)


def _let_go(hosts: Hosts, remaining: Sequence[str], gone: plan.HostPlan, say: Say) -> None:
    """A host's last turn, and what its going leaves to be done by the others."""
    name = gone.host
    heard = turn.Heard(name, lambda host, stage, began=None: None if began else say(host, stage))
    turn.take_turn(hosts, name, steps.farewell(gone, _STAYS), heard)
    if heard.failure:
        raise FiefdomError(f"{name}: {heard.failure.unit}: {heard.failure.reason}; run it again")
    say(name, "forget")
    _forget(hosts, remaining, name)
    say(name, carry_out.DONE)


def _forget(hosts: Hosts, gateways: Sequence[str], name: str) -> None:
    """Let the members drop a name that they would otherwise list as left for a day."""
    command = ("docker", "exec", "gateway", "serf", "force-leave", "-prune", name)
    for late in looks(LEAVE_TIMEOUT_S):
        hosts.on_all(lambda gateway: hosts.shell(gateway, command), gateways[:1])
        views = views_of(hosts, gateways)
        lists = [gateway for gateway, view in views.items() if _may_list(view, name)]
        if not lists:
            return
        if late:
            raise FiefdomError(
                f"{name}: is out of service, but {', '.join(lists)} may still list it; members forget it within a day"
            )


def _may_list(view: Any, name: str) -> bool:
    """Whether a gateway knows a host. One that does not answer has not said that it forgot it."""
    if not isinstance(view, dict):
        return True
    members = {str(m.get("name")) for m in view.get("members", []) if isinstance(m, dict)}
    servers = {str(s.get("name")).rpartition("-")[0] for s in view.get("servers", []) if isinstance(s, dict)}
    return name in members | servers
