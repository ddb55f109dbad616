"""What the page in a browser shows, as one document: a pure function of what the gateway knows at a moment.

It stays small for a browser, whatever the cluster's size: of instances and hosts there are as many as fit a page, those
first that are not well, and how many were left out; who asks `of` a service or host gets these. Strangers' texts stand
in it as they were read: a browser is to take none of it for anything but text.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone

from fiefdom_gateway import troubles
from fiefdom_gateway.figures import Figures, Key, Rate
from fiefdom_gateway.ledger import Act, Ledger
from fiefdom_gateway.members import APP_ROLE, Member
from fiefdom_gateway.settings import Inventory, Service
from fiefdom_gateway.status import Look, config_part

FORMAT = 1
INSTANCES_MAX = 200
HOSTS_MAX = 200
REFUSED_MAX = 100
GATEWAY_ROLE = "gateway"
_ORDER = {"down": 0, "drain": 1, "maint": 2, "up": 3}


@dataclass(frozen=True)
class Known:
    """All that a document is made from. `at_s` is of time.time(), `now_s` of time.monotonic().

    `certificates` and `obtained` are rows as the status document has them.
    """

    cluster: str
    look: Look
    inventory: Inventory
    at_s: float
    now_s: float
    figures: Mapping[Key, Figures] = field(default_factory=dict)
    rates: Mapping[Key, Rate] = field(default_factory=dict)
    window_s: float | None = None
    haproxy: Mapping[str, object] = field(default_factory=dict)
    haproxy_error: str | None = None
    certificates: tuple[Mapping[str, object], ...] = ()
    obtained: tuple[Mapping[str, object], ...] = ()
    ledger: Ledger = field(default_factory=Ledger)


Row = dict[str, object]


@dataclass(frozen=True)
class Instance:
    """A server that HAProxy has. `service` is one of Fiefdom's, `host` what its name says."""

    service: str
    host: str
    port: str
    version: str | None
    figures: Figures
    rate: Rate | None

    @property
    def up(self) -> bool:
        return self.figures.state == "up"


@dataclass(frozen=True)
class Base:
    """A document without its longest parts, and these."""

    document: Row
    instances: tuple[Instance, ...]
    hosts: tuple[Row, ...]

    def of(self, wanted: str = "") -> Row:
        """Return the document with those instances and hosts in whose service or name a text stands."""
        text = wanted.casefold()
        instances = [i for i in self.instances if text in i.service.casefold() or text in i.host.casefold()]
        hosts = [host for host in self.hosts if text in str(host["name"]).casefold() or _offers(host, text)]
        return self.document | {
            "of": wanted,
            "instances": [_instance_row(instance) for instance in instances[:INSTANCES_MAX]],
            "instances_more": max(len(instances) - INSTANCES_MAX, 0),
            "hosts": hosts[:HOSTS_MAX],
            "hosts_more": max(len(hosts) - HOSTS_MAX, 0),
        }


def base(known: Known) -> Base:
    """Return what there is to show."""
    look = known.look
    instances = instances_of(known)
    by_service = _grouped(instances, lambda instance: instance.service)
    by_host = _grouped(instances, lambda instance: instance.host)
    services = [
        _service_row(known, service, by_service.get(name, [])) for name, service in sorted(look.services.items())
    ]
    hosts = _host_rows(known, by_host)
    certificates = _certificate_rows(known)
    found = troubles.found(known, services, hosts, certificates, by_service)
    document: Row = {
        "format": FORMAT,
        "at": as_time(known.at_s),
        "cluster": known.cluster,
        "node": look.node,
        "well": look.ready and known.haproxy_error is None,
        "window_s": None if known.window_s is None else round(known.window_s, 1),
        "haproxy": {**known.haproxy, "error": known.haproxy_error},
        "serf": {"ok": look.serf_error is None, "error": look.serf_error},
        "config": config_part(look, known.now_s),
        "reconciled_s_ago": None if look.reconciled_at_s is None else round(known.now_s - look.reconciled_at_s, 1),
        "problems": [asdict(trouble) for trouble in found[: troubles.MAX]],
        "problems_more": max(len(found) - troubles.MAX, 0),
        "gateways": _gateway_rows(known),
        "services": services,
        "totals": {
            "services": len(services),
            "hosts": len(hosts),
            "instances": len(instances),
            "up": sum(instance.up for instance in instances),
            **_summed([known.rates.get((service.backend, "BACKEND")) for service in look.services.values()]),
        },
        "certificates": certificates,
        "refused": [asdict(rejection) for rejection in look.rejected[:REFUSED_MAX]],
        "refused_more": max(len(look.rejected) - REFUSED_MAX, 0),
        "at_work": at_work(known, by_service),
        "audit": [_act_row(act, known.ledger) for act in known.ledger.acts],
        "audit_error": known.ledger.error,
    }
    worst = sorted(instances, key=lambda i: (_ORDER.get(i.figures.state, 0), i.service, i.host, i.port))
    return Base(document, tuple(worst), tuple(hosts))


def as_time(at_s: float) -> str:
    """Return seconds since 1970 as text, UTC."""
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def instances_of(known: Known) -> list[Instance]:
    """Return the servers that HAProxy has of the services, in the order of its own list."""
    look = known.look
    service_of = {service.backend: service.name for service in look.services.values()}
    version_of = {(server.service, server.name): server.version for server in look.wanted}
    found: list[Instance] = []
    for (backend, name), figures in known.figures.items():
        service = service_of.get(backend)
        if service is None or name == "BACKEND":
            continue
        version = version_of.get((service, name))
        if version is None and figures.state == "maint" and not figures.sessions:
            continue  # it is as good as gone
        host, _, port = name.rpartition("-")
        found.append(Instance(service, host, port, version, figures, known.rates.get((backend, name))))
    return found


def _grouped(instances: Iterable[Instance], key: Callable[[Instance], str]) -> dict[str, list[Instance]]:
    found: dict[str, list[Instance]] = {}
    for instance in instances:
        found.setdefault(key(instance), []).append(instance)
    return found


def _summed(rates: Iterable[Rate | None]) -> Row:
    """Return rates of one second together; None where there are none yet."""
    there = [rate for rate in rates if rate is not None]
    if not there:
        return {"requests_s": None, "errors_4xx_s": None, "errors_5xx_s": None, "failures_s": None, "retries_s": None}
    requests, bad, worse, failures, retries = (round(sum(column), 2) for column in zip(*there, strict=True))
    return {
        "requests_s": requests,
        "errors_4xx_s": bad,
        "errors_5xx_s": worse,
        "failures_s": failures,
        "retries_s": retries,
    }


def _service_row(known: Known, service: Service, instances: list[Instance]) -> Row:
    whole = known.figures.get((service.backend, "BACKEND"))
    share = next((share for share in known.look.shares or () if share.service == service.name), None)
    versions: dict[str, list[Instance]] = {}
    for instance in instances:
        if instance.version is not None:
            versions.setdefault(instance.version, []).append(instance)
    return {
        "name": service.name,
        "kind": "tcp" if service.is_tcp else "http",
        "closed": service.name in (known.look.closed or ()),
        "hosts": len({instance.host for instance in instances}),
        "instances": len(instances),
        **_states(instances),
        "versions": [
            {
                "version": version,
                "instances": len(of),
                "up": sum(instance.up for instance in of),
                "hosts": len({instance.host for instance in of}),
                "share": share.percent if share is not None and share.version == version else None,
                **_summed([instance.rate for instance in of]),
            }
            for version, of in sorted(versions.items())
        ],
        "sessions": 0 if whole is None else whole.sessions,
        "queued": 0 if whole is None else whole.queued,
        "total_ms": None if whole is None else whole.total_ms,
        **_summed([known.rates.get((service.backend, "BACKEND"))]),
    }


def _states(instances: Iterable[Instance]) -> dict[str, int]:
    counted = dict.fromkeys(_ORDER, 0)
    for instance in instances:
        counted[instance.figures.state] += 1
    return counted


def _host_rows(known: Known, by_host: Mapping[str, list[Instance]]) -> list[Row]:
    members = {member.name: member for member in known.look.members if member.role != GATEWAY_ROLE}
    gateways = {member.name for member in known.look.members if member.role == GATEWAY_ROLE} | {known.look.node}
    asked = {name for name, host in known.inventory.hosts.items() if host.services}
    names = sorted((members.keys() | asked | by_host.keys()) - gateways)
    rows = [_host_row(known, name, members.get(name), by_host.get(name, [])) for name in names]
    return sorted(rows, key=lambda row: (row["status"] == "alive" and row["up"] == row["instances"], row["name"]))


def _host_row(known: Known, name: str, member: Member | None, instances: list[Instance]) -> Row:
    asked = known.inventory.hosts.get(name)
    address = member.address if member is not None else asked.address if asked is not None else ""
    return {
        "name": name,
        "address": address,
        "status": "absent" if member is None else "drains" if member.failed_leaving else member.status,
        "known": asked is not None,
        "offers": [
            {
                "service": offer.service,
                "version": offer.version,
                "first_port": offer.first_port,
                "last_port": offer.last_port,
                **_offered(instances, offer.service),
            }
            for offer in (() if member is None else member.offers)
        ],
        "missing": sorted((asked.services if asked else frozenset()) - {o.service for o in member.offers if member})
        if member is not None and member.role == APP_ROLE
        else [],
        "instances": len(instances),
        "up": sum(instance.up for instance in instances),
        **_summed([instance.rate for instance in instances]),
    }


def _offered(instances: Iterable[Instance], service: str) -> Row:
    own = [instance for instance in instances if instance.service == service]
    return {"instances": len(own), "up": sum(instance.up for instance in own)}


def _offers(host: Row, text: str) -> bool:
    """Whether a host offers, or is to offer, a service with that in its name."""
    offers, missing = host["offers"], host["missing"]
    names = [str(offer["service"]) for offer in offers] if isinstance(offers, list) else []
    names += missing if isinstance(missing, list) else []
    return any(text in name.casefold() for name in names)


def _instance_row(instance: Instance) -> Row:
    figures = instance.figures
    return {
        "service": instance.service,
        "host": instance.host,
        "port": instance.port,
        "version": instance.version,
        "state": figures.state,
        "since_s": figures.since_s,
        "check": figures.check,
        "sessions": figures.sessions,
        "total_ms": figures.total_ms,
        **_summed([instance.rate]),
    }


def _gateway_rows(known: Known) -> list[Row]:
    """Other gateways, whose pages are on the same port; they know nothing of each other but that they are there."""
    return [
        {
            "name": member.name,
            "address": member.address,
            "status": member.status,
            "self": member.name == known.look.node,
        }
        for member in known.look.members
        if member.role == GATEWAY_ROLE
    ]


def _certificate_rows(known: Known) -> list[Row]:
    trouble = {row["name"]: row for row in known.obtained}
    served = {row["name"]: row for row in known.certificates}
    rows: list[Row] = []
    for name in sorted({str(name) for name in (*trouble, *served)}):
        one, told = served.get(name, {}), trouble.get(name)
        ends = one.get("ends") or (told or {}).get("ends")
        rows.append(
            {
                "name": name,
                "names": one.get("names", []),
                "ends": ends,
                "days": days_left(ends, known.at_s),
                "obtained": told is not None,
                "error": None if told is None else told.get("error"),
            }
        )
    return sorted(rows, key=lambda row: (row["days"] is not None, row["days"] or 0, row["name"]))


def days_left(ends: object, at_s: float) -> int | None:
    """Return whole days until a time in text, below 0 once it is past; None where it is no time."""
    try:
        end = datetime.strptime(str(ends), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    return int((end.timestamp() - at_s) // 86400)


def at_work(known: Known, by_service: Mapping[str, list[Instance]]) -> Row | None:
    """Return who holds the cluster and how far he is; None where nobody does."""
    lock = known.ledger.lock
    if lock is None:
        return None
    begun = [act for act in known.ledger.acts if act.run == lock.run and act.took_s is None and not act.outcome]
    return {
        **asdict(lock),
        "alive": lock.alive,
        "acts": [
            {
                "what": act.what,
                "at": act.at,
                "hosts": len(act.hosts) + act.hosts_more,
                "services": [
                    {
                        "service": service,
                        "from": old,
                        "to": new,
                        "hosts": steps_of(known, act, service, new, by_service),
                    }
                    for service, (old, new) in act.services.items()
                ],
            }
            for act in begun
        ],
    }


def steps_of(
    known: Known, act: Act, service: str, version: str, by_service: Mapping[str, list[Instance]]
) -> dict[str, list[str]]:
    """Return the hosts of a release by how far they are, as the gateway itself sees it: waits, turn or done.

    Nobody tells the gateway: a host that offers the old version waits, one that offers the new one and has all of it in
    rotation is done, and anything between is its turn.
    """
    offers = {member.name: member for member in known.look.members}
    up: dict[str, list[bool]] = {}
    for instance in by_service.get(service, []):
        if instance.version == version:
            up.setdefault(instance.host, []).append(instance.up)
    steps: dict[str, list[str]] = {"done": [], "turn": [], "waits": []}
    for host in act.hosts:
        member = offers.get(host)
        offered = {o.version for o in member.offers if o.service == service} if member and not member.drains else set()
        if version in offered and all(up.get(host, [False])):
            steps["done"].append(host)
        elif offered and version not in offered:
            steps["waits"].append(host)
        else:
            steps["turn"].append(host)
    return steps


def _act_row(act: Act, ledger: Ledger) -> Row:
    row = asdict(act)
    live = ledger.lock is not None and ledger.lock.alive and ledger.lock.run == act.run
    row["outcome"] = act.outcome or ("running" if live else "unknown")
    row["services"] = [{"service": s, "from": old, "to": new} for s, (old, new) in act.services.items()]
    return row
