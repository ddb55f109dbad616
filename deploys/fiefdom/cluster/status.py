"""The state of a cluster as its hosts and gateways tell it: hosts, members, instances, versions, rotation."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fiefdom.cluster import jobs, maintenance, shares
from fiefdom.cluster.jobs import JobStatus
from fiefdom.cluster.members import of_stranger
from fiefdom.cluster.views import SUMMARY, Config, View, Views, gateway_view, views_of
from fiefdom.converge import made_by, moving, plan, snapshot
from fiefdom.converge.run import Hosts, ask_each
from fiefdom.desired import concerns, docker, gateway, offers, serf
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster, Secrets
from fiefdom.model.certificates import SOON_DAYS, days_left, lasts
from fiefdom.waiting import looks


def degraded(found: Status, but: str = "") -> list[str]:
    """Why no host may be taken out of a cluster now: others do not serve already.

    ``but`` is a host of which nothing is asked, for it is the one that is to be taken out, or was.
    """
    found = _without(found, but)
    reasons = list(found.problems)
    reasons += [f"{o.service} at {o.host} is {o.state}: {o.why}" for o in found.offers if o.state != OFFERED][:3]
    down = [i for i in found.instances if not i.is_up]
    for i in down[:3]:
        states = [f"{s} at {g}" for g, s in zip(found.gateways, i.servers, strict=True) if s != NOT_ROUTED]
        reasons.append(f"{i.service} at {i.host}:{i.port} is {', '.join((i.container, *states))}")
    if len(down) > 3:
        reasons.append(f"{len(down) - 3} more instances are not up")
    return reasons


def _without(found: Status, host: str) -> Status:
    """A cluster as others than one host have it."""
    if not host:
        return found
    others = [(at, name) for at, name in enumerate(found.gateways) if name != host]
    return dataclasses.replace(
        found,
        gateways=tuple(name for _, name in others),
        problems=tuple(words for words in found.problems if not words.startswith(f"{host}: ")),
        offers=tuple(o for o in found.offers if o.host != host and not o.why.startswith(f"{host}: ")),
        instances=tuple(
            dataclasses.replace(i, servers=tuple(i.servers[at] for at, _ in others) or (NOT_ROUTED,))
            for i in found.instances
            if i.host != host
        ),
    )


def await_fit(cluster: Cluster, secrets: Secrets, hosts: Hosts, but: str, within_s: float) -> None:
    """Wait until all hosts but one serve as the inventory says.

    Raises FiefdomError where they do not within ``within_s`` seconds, which names the first reason.
    """
    for late in looks(within_s):
        reasons = degraded(read(cluster, secrets, hosts), but)
        if not reasons:
            return
        if late:
            raise FiefdomError(f"{_degraded(reasons)}; mend it, or say --force")


def _degraded(reasons: Sequence[str]) -> str:
    return f"the cluster is degraded: {reasons[0]}"


def require_fit(
    cluster: Cluster,
    secrets: Secrets,
    hosts: Hosts,
    more: Sequence[str] = (),
    words: Callable[[Sequence[str]], str] = _degraded,
) -> None:
    """Raise FiefdomError where no host may be taken out of the cluster now, in ``words`` made of the reasons.

    ``more`` are reasons of the caller's, beside those of `degraded`.
    """
    if reasons := [*degraded(read(cluster, secrets, hosts)), *more]:
        raise FiefdomError(f"{words(reasons)}; mend it, or say --force")


LOOK_S = 0.2
LOOK_AGAIN_S = 2
OFFERED, UNKNOWN, NOT_ROUTED = "offered", "unknown", "-"


@dataclass(frozen=True)
class HostStatus:
    """A host: what it runs, and how the cluster sees it."""

    name: str
    address: str
    release: str
    """Debian's codename, under the name that the JSON document has for it."""
    role: str
    member: str
    running: int
    wanted: int
    gateway: str
    silence: str = ""
    """Why it could not be looked at; empty where it could."""
    disk: snapshot.Disk | None = None
    """The file system where Docker keeps images; None where the host could not tell."""
    fiefdom: str = ""
    """Version of the Fiefdom that made it what it is; empty where none did, or it could not be looked at."""


@dataclass(frozen=True)
class InstanceStatus:
    """An instance: its container, and its server in the rotation of each gateway; `-` where none is to have it."""

    service: str
    host: str
    port: int
    version: str
    container: str
    servers: tuple[str, ...]

    @property
    def is_up(self) -> bool:
        """Whether it runs, and every gateway that is to have it has it up."""
        return self.container == "running" and set(self.servers) in ({"up"}, {NOT_ROUTED})


@dataclass(frozen=True)
class OfferStatus:
    """One service on one host: whether the host offers it to the gateways, and whether they take it up.

    ``state`` is offered; withdrawn, where somebody stopped it; waiting, until an instance answers; refused, where a
    gateway does not believe it; unheard, where it has not come to a gateway; or unknown, where the host could not be
    looked at. ``why`` tells more.
    """

    service: str
    host: str
    version: str
    state: str
    why: str = ""


@dataclass(frozen=True)
class CertificateStatus:
    """A certificate as a gateway serves with it; ``ends`` is in UTC, and ``days`` until then are below 0 afterwards."""

    gateway: str
    name: str
    hosts: tuple[str, ...]
    ends: str
    days: int


@dataclass(frozen=True)
class AddressStatus:
    """The address of all gateways together, and who has it: one gateway, where all is well."""

    address: str
    holders: tuple[str, ...]


@dataclass(frozen=True)
class Status:
    """A cluster at one moment."""

    gateways: tuple[str, ...]
    hosts: tuple[HostStatus, ...]
    offers: tuple[OfferStatus, ...]
    instances: tuple[InstanceStatus, ...]
    problems: tuple[str, ...]
    notices: tuple[str, ...] = ()
    """What a person should look at, though it keeps no host from being taken out of the cluster."""
    certificates: tuple[CertificateStatus, ...] = ()
    jobs: tuple[JobStatus, ...] = ()
    missing_certificates: tuple[str, ...] = ()
    """Gateway and host name, for which it could get none yet from the authority, or none in time."""
    address: AddressStatus | None = None
    """None where the inventory has none, or no gateway was looked at."""
    maintenance: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """By service that an operator switched to maintenance, the gateways that say so."""

    @property
    def silent(self) -> dict[str, str]:
        """Hosts that could not be looked at, and why."""
        return {host.name: host.silence for host in self.hosts if host.silence}

    @property
    def serving(self) -> bool:
        """Whether all hosts answer, every instance is in every gateway's rotation, and no certificate is over."""
        return (
            bool(self.gateways)
            and not self.problems
            and not self.silent
            and all(certificate.days >= 0 for certificate in self.certificates)
            and not self.missing_certificates
            and all(offer.state == OFFERED for offer in self.offers)
            and all(i.is_up for i in self.instances)
        )

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**dataclasses.asdict(self), "serving": self.serving}


def read(cluster: Cluster, secrets: Secrets, hosts: Hosts) -> Status:
    """Ask every host of the session once, and every gateway for its view; one that does not answer is told of as such.

    Raises FiefdomError for a host that answers and is none that Fiefdom could converge.
    """
    queries = {
        name: snapshot.query(
            concerns.states_of(cluster, name, secrets, ("services", "serf", "offers", "gateway", "address")).values(),
            str(cluster.docker.daemon.get("data-root", docker.DATA_ROOT)),
        )
        for name in hosts.names
    }

    def ask(name: str) -> snapshot.Snapshot:
        return snapshot.parse(name, hosts.snapshot_lines({name: queries[name]})[name])

    found, silent = ask_each(hosts, ask, hosts.names)
    for name, host in found.items():
        plan.require_supported(name, host)
    gateways = tuple(name for name in cluster.gateways if name in hosts.names)
    return combine(cluster, hosts.names, found, views_of(hosts, gateways), silent, time.time())


def await_well(look: Callable[[], Status], within_s: float, again: Callable[[Status], None]) -> Status:
    """Look until all serves as the inventory says, or ``within_s`` seconds are over; what was seen last.

    ``again`` hears of every look that is not the last one.
    """
    for late in looks(within_s, LOOK_AGAIN_S):
        found = look()
        if late or found.serving:
            break
        again(found)
    return found


def await_gateways(applied: plan.Plan, hosts: Hosts, timeout_s: float = 30.0) -> None:
    """Wait until the gateways whose settings ``applied`` changed run them.

    Raises FiefdomError for one that refuses its new configuration for good and keeps the last good one, and after
    ``timeout_s`` with what the gateway says until then.
    """
    for host in applied.hosts:
        if any(c.name.startswith(f"{gateway.CONFIG_DIR}/") for c in host.of("file", "+", "~")):
            digest = host.state.file(gateway.HAPROXY_CONFIG).digest
            _await_gateway(host.host, digest, hosts, timeout_s)


def _await_gateway(name: str, digest: str, hosts: Hosts, timeout_s: float) -> None:
    for late in looks(timeout_s, LOOK_S):
        config = gateway_view(hosts, name, SUMMARY).config
        if config.ok and config.digest == digest:
            return
        if config.error and (late or _is_final(config, digest)):
            raise FiefdomError(f"{name}: HAProxy keeps its last good configuration: {config.error}")
        if late:
            raise FiefdomError(f"{name}: the gateway has not taken its new configuration up; see `fiefdom status`")


def _is_final(config: Config, digest: str) -> bool:
    """Whether an error of a gateway's configuration is its last word on the one with ``digest``.

    It may be about the one before, which the gateway has not looked beyond yet, or about what it will try again.
    """
    if config.refused is None:
        return True  # an older gateway does not say what its error is about
    return config.refused == digest and not config.retries


def combine(
    cluster: Cluster,
    names: Sequence[str],
    found: Mapping[str, snapshot.Snapshot],
    views: Views,
    silent: Mapping[str, str] | None = None,
    now_s: float = 0.0,
) -> Status:
    """One picture from the hosts' snapshots and the gateways' views; ``silent`` says why hosts have none. Pure.

    ``now_s`` is of time.time().
    """
    silent = silent or {}
    members = _members(views)
    mute = {name: view.silence for name, view in views.items() if view.silence is not None}
    problems = [f"{name}: does not answer: {why}" for name, why in silent.items()]
    # Of a host that says nothing there is nothing to be said of its gateway.
    problems += [f"{name}: the gateway does not answer: {why}" for name, why in mute.items() if name not in silent]
    for name, view in views.items():
        if name not in mute:
            problems += _complaints(name, view)
    address = _address(cluster, found)
    if address is not None:
        problems += moving.complaints(cluster, found)
    states = [_states_of(view) for view in views.values()]
    instances = [
        InstanceStatus(
            service=i.service,
            host=name,
            port=i.port,
            version=(c.version if (c := _containers(found, name).get(i.container)) else "-"),
            container=UNKNOWN if name in silent else _container(found[name], i.container),
            servers=tuple(
                of.get((i.service, f"{name}-{i.port}"), absent) if cluster.is_routed(i.service) else NOT_ROUTED
                for of, absent in states
            ),
        )
        for name in names
        for i in cluster.instances(name)
    ]
    running = Counter(i.host for i in instances if i.container == "running")
    hosts = [
        HostStatus(
            name=name,
            address=cluster.hosts[name].address,
            release=found[name].codename if name in found else "-",
            role=", ".join(g.removesuffix("s").replace("_", " ") for g in cluster.hosts[name].groups),
            member=members.get(name, "unknown" if views else "-"),
            running=running[name],
            wanted=len(cluster.instances(name)),
            gateway="-" if name not in views else "down" if name in mute else "serving",
            silence=silent.get(name, ""),
            disk=found[name].disk if name in found else None,
            fiefdom=made_by.version_of(found[name]) if name in found else "",
        )
        for name in names
    ]
    offered = [
        OfferStatus(service, name, "-", UNKNOWN, "the host does not answer")
        if name in silent
        else _offer(views, name, service, found[name])
        for name in names
        if name in cluster.app_hosts
        for service in dict.fromkeys(i.service for i in cluster.routed(name))
    ]
    ending = [
        CertificateStatus(name, c.name, c.hosts, f"{c.ends:%Y-%m-%dT%H:%M:%SZ}", days_left(c.ends, now_s))
        for name, view in views.items()
        for c in view.certificates
    ]
    got = [(name, one) for name, view in views.items() for one in view.obtained]
    own = {(name, one.name) for name, one in got}
    soon = [_of_ending(views, c) for c in ending if c.days < SOON_DAYS and (c.gateway, c.name) not in own]
    soon += [f"{name}: {says}" for name, one in got if (says := one.complaint(now_s)) is not None]
    missing = tuple(f"{name}: {one.name}" for name, one in got if not one.is_served(now_s))
    clock = tuple(jobs.read(cluster, names, found, members))
    told = (*maintenance.notices(cluster, views), *shares.notices(cluster, views), *jobs.complaints(clock))
    notices = (*_strangers(cluster, views), *_other_versions(cluster, instances), *made_by.others(found), *told, *soon)
    return Status(
        tuple(views),
        tuple(hosts),
        tuple(offered),
        tuple(instances),
        tuple(problems),
        notices,
        tuple(ending),
        jobs=clock,
        missing_certificates=missing,
        address=address,
        maintenance={name: at for name in cluster.services if (at := maintenance.closed_at(views, name))},
    )


def _address(cluster: Cluster, found: Mapping[str, snapshot.Snapshot]) -> AddressStatus | None:
    asked = any(name in found for name in cluster.gateways)
    if cluster.gateway.address is None or not asked:
        return None
    return AddressStatus(cluster.gateway.address, moving.holders(cluster, found))


def _of_ending(views: Views, certificate: CertificateStatus) -> str:
    """What is to be said of a certificate that is over, or soon will be."""
    ends = next(c.ends for c in views[certificate.gateway].certificates if c.name == certificate.name)
    says = f"{certificate.gateway}: the certificate {certificate.name} {lasts(ends, certificate.days)}"
    return f"{says}; give a new one to gateway.tls.certificates.{certificate.name}, and `fiefdom apply`"


def _offer(views: Views, host: str, service: str, found: snapshot.Snapshot) -> OfferStatus:
    unit, word = found.units.get(offers.unit_of(service), snapshot.FoundUnit()), found.offers.get(service)
    version = "-" if word is None else word.partition(";")[0]
    if word is None:
        state = "withdrawn" if unit.active == "inactive" and not unit.queued else "waiting"
        why = unit.says if state == "waiting" else f"{offers.unit_of(service)} is stopped"
        now = "waits for its instances to start" if unit.queued else f"is {unit.active}"
        return OfferStatus(service, host, version, state, why or f"{offers.unit_of(service)} {now}")
    agent = found.units.get(serf.UNIT)
    if agent is not None and agent.active in ("inactive", "failed") and not agent.queued:
        # Gateways still list what it said before it left.
        why = f"{serf.UNIT} {'has failed' if agent.active == 'failed' else 'is stopped'}; `fiefdom apply` starts it"
        return OfferStatus(service, host, version, "unheard", why)
    for gateway_name, view in views.items():
        if view.silence is None and service not in view.offers_of(host):
            doubts = [r.reason for r in view.rejected if r.member == host and f"offers {service} " in f"{r.reason} "]
            why = doubts[0] if doubts else "does not list it"
            return OfferStatus(service, host, version, "refused" if doubts else "unheard", f"{gateway_name}: {why}")
    partial = unit.says.removeprefix("offered: ")
    whole = partial.partition(" of ")[0] == partial.partition(" of ")[2].partition(" ")[0]
    return OfferStatus(service, host, version, OFFERED, "" if whole else partial)


def _members(views: Views) -> dict[str, str]:
    members: dict[str, str] = {}
    for view in views.values():
        for member in view.members:
            members.setdefault(member.name, member.status)
    return members


def _strangers(cluster: Cluster, views: Views) -> list[str]:
    """Of living members that no gateway refuses; a refusal is told already."""
    own = {*cluster.gateways, *cluster.app_hosts}
    alive = {member.name: member.address for v in views.values() for member in v.members if member.status == "alive"}
    return [of_stranger(cluster, f"{name} ({alive[name]})") for name in sorted(alive.keys() - own)]


def _other_versions(cluster: Cluster, instances: Sequence[InstanceStatus]) -> list[str]:
    """Of instances whose release waits: for its rollout, or for the apply that brings it to a host that missed it."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for i in instances:
        if i.container == "running" and i.version != cluster.services[i.service].version:
            found.setdefault((i.service, i.version), {})[i.host] = None
    return [
        f"{service} {version or 'of no version'} runs on {', '.join(names)}, and the inventory says "
        f"{cluster.services[service].version}; `fiefdom plan` shows what brings it"
        for (service, version), names in found.items()
    ]


def _complaints(name: str, view: View) -> list[str]:
    words = []
    if not view.serf.ok:
        words.append(f"{name}: its Serf agent does not answer: {view.serf.error}")
    if not view.config.ok:
        words.append(f"{name}: HAProxy keeps its last good configuration: {view.config.error}")
    words += [f"{name}: refuses member {refused.member}: {refused.reason}" for refused in view.rejected]
    return words


def _containers(found: Mapping[str, snapshot.Snapshot], name: str) -> Mapping[str, snapshot.FoundContainer]:
    return found[name].containers if name in found else {}


def _container(found: snapshot.Snapshot, name: str) -> str:
    container = found.containers.get(name)
    return "missing" if container is None else "running" if container.running else "stopped"


def _states_of(view: View) -> tuple[dict[tuple[str, str], str], str]:
    """Of each server, by service and name, its state; and what is to be said of one that is not among them."""
    if view.silence is not None:
        return {}, UNKNOWN
    return {(s.service, s.name): s.state for s in view.servers}, "out"
