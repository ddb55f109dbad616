"""Taking a host out of service on purpose: a rolling reboot, and a host that leaves for good."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from fiefdom.cluster import answering, gossip, ledger, locking, status
from fiefdom.cluster.answering import await_answering
from fiefdom.cluster.views import alone, await_serving, up, views_of
from fiefdom.converge import carry_out, run
from fiefdom.converge.run import Hosts, Say
from fiefdom.desired import address, offers, serf
from fiefdom.errors import FiefdomError, HostError, Unreachable
from fiefdom.model import Cluster
from fiefdom.procedures import hooks, release, turn
from fiefdom.waiting import looks, pause
from fiefdom.wording import printable

BOOT_TIMEOUT_S = 600


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
    if not force:
        require_fit(known, hosts, names)
    gateways, who = cluster.gateways, ledger.operator()
    why = f"reboot of {', '.join(names)}{' with upgrades' if upgrade else ''}"
    with (
        hooks.around(known, hooks.Act("reboot", tuple(names)), say) as around,
        locking.hold(hosts, gateways, who, why, warn=lambda text: say("ledger", text), take_over=take_over) as held,
        around.begun(held.beat),
        held.recorded("reboot", names=names),
    ):
        for name in names:
            held.beat()
            if not force:
                _require_stand_in(cluster, hosts, name)
            for service in pausing(cluster, name):
                say(name, f"{service} pauses until the host is back: its one instance is here")
            # What was sick before may be so afterwards: with --force, that is nobody's concern here.
            served = up(views_of(hosts, cluster.gateways), cluster, name) if force else cluster.routed(name)
            if upgrade:
                _upgrade(known, hosts, name, say)
            began_s = _reboot(hosts, name, say)
            say(name, "join")
            await_serving(cluster, hosts, name, instances=served)
            if not force:
                await_answering(cluster, hosts, name)
                gossip.require(cluster, hosts, [name], cluster.gateways)
            for line in _delays(known, hosts, name, began_s):
                say(name, line)
            say(name, carry_out.DONE)


def pausing(cluster: Cluster, name: str) -> tuple[str, ...]:
    """Services that nobody else has while a host is away, and that are not refused for it."""
    return tuple(service for service in cluster.services if cluster.pauses(service) and cluster.count(name, service))


def require_fit(known: run.Known, hosts: Hosts, names: Collection[str]) -> None:
    """Raise FiefdomError where the reboot of some hosts would be noticed: by now, not only once it is their turn."""
    cluster = known.cluster
    if len(cluster.gateways) == 1 and cluster.gateways[0] in names:
        raise FiefdomError(
            f"{cluster.gateways[0]}: no other gateway takes its clients meanwhile; "
            "leave it out with --limit app_hosts, or say --force"
        )
    status.require_fit(cluster, known.secrets, hosts)
    # What has one instance pauses, whichever host it is on: refused, it would only be forced, and all else with it.
    others = [service for service in cluster.services if not cluster.pauses(service)]
    release.require_others(cluster, others, [[name] for name in names])


def _require_stand_in(cluster: Cluster, hosts: Hosts, name: str) -> None:
    """Raise FiefdomError where, by now, nobody serves in a host's place: who did may have died since the last look."""
    others = [gateway for gateway in cluster.gateways if gateway != name]
    views = views_of(hosts, others if name in cluster.gateways else cluster.gateways)
    reason = alone(views, cluster, [name], if_up=True) or answering.alone(cluster, hosts, [name], if_up=True)
    if name in cluster.gateways and all(view.silence is not None for view in views.values()):
        reason = "no other gateway answers, that would take its clients meanwhile"
    if reason:
        raise FiefdomError(
            f"{name}: {reason}; it was left alone, and so were the hosts after it; mend that, or say --force"
        )


def _upgrade(known: run.Known, hosts: Hosts, name: str, say: Say) -> None:
    agents = [serf.UNIT] if name in known.cluster.app_hosts else []
    gateways = known.cluster.gateways
    if name in gateways and len(gateways) > 1 and known.cluster.gateway.address is not None:
        # Before keepalived may be restarted, nobody is to be connected by an address that then moves.
        agents = [address.GATEWAY]
    steps = [("say", "drain"), ("containers", "stop", *agents)] if agents else []
    heard = turn.Heard(name, lambda host, stage, began=None: None if began else say(host, stage))
    turn.take_turn(hosts, name, [*steps, ("say", "upgrade"), ("upgrade", *agents)], heard)
    if heard.failure:
        if agents:
            turn.take_turn(hosts, name, [("containers", "start", *agents)], turn.Heard(name, lambda *_: None))
        raise HostError(name, f"{heard.failure.unit}: {heard.failure.reason}", heard.failure.log)


def _reboot(hosts: Hosts, name: str, say: Say) -> str:
    """Reboot a host and wait until it answers again; when that began, in seconds since 1970 by its own clock."""
    boot = _boot(hosts, name)
    if not boot:
        raise FiefdomError(f"{name}: does not answer; it was not rebooted")
    began_s = _output(hosts, name, "date +%s").strip()
    say(name, "reboot")
    with suppress(Unreachable):  # the connection may end before the answer
        _output(hosts, name, "systemctl reboot")
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


def _delays(known: run.Known, hosts: Hosts, name: str, since_s: str) -> list[str]:
    """What a host's drain or join went on without, by its journal; of a drain nothing where that is in memory alone."""
    units = [serf.UNIT, *(offers.unit_of(service) for service in {i.service for i in known.cluster.routed(name)})]
    text = """
    since=$1
    shift
    for unit; do set -- "$@" -u "$unit"; shift; done
    journalctl -q -o cat --since "@$since" "$@" | grep '^going on after ' || :
    """
    try:
        return [printable(line) for line in _output(hosts, name, text, since_s, *sorted(units)).splitlines()]
    except Unreachable:  # it serves, whatever it has to tell
        return []


def _boot(hosts: Hosts, name: str) -> str:
    try:
        return _output(hosts, name, "cat /proc/sys/kernel/random/boot_id").strip()
    except Unreachable:
        return ""


def _output(hosts: Hosts, name: str, text: str, *arguments: str) -> str:
    return hosts.script(name, text, arguments)[1]
