"""What is not well with a cluster as one of its gateways sees it, worst first: what a person would be woken for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fiefdom_gateway.log import printable

if TYPE_CHECKING:  # who writes the page imports this
    from fiefdom_gateway.page import Instance, Known, Row

MAX = 50
LEVELS = ("critical", "warning", "notice")
# As fiefdom.model.certificates has it.
SOON_DAYS = 21
URGENT_DAYS = 3
# The reconciler looks every 5 s.
STALE_S = 30.0
_NAMED = 4


@dataclass(frozen=True)
class Trouble:
    """`level` is one of LEVELS; `about` is a host, service or part of the gateway; `words` are one sentence."""

    level: str
    about: str
    words: str


def found(
    known: "Known",
    services: "Sequence[Row]",
    hosts: "Sequence[Row]",
    certificates: "Sequence[Row]",
    by_service: "Mapping[str, list[Instance]]",
) -> list[Trouble]:
    """Return all troubles, the worst first."""
    troubles = [
        *_of_gateway(known),
        *_of_services(known, services, by_service),
        *_of_hosts(known, hosts),
        *_of_refused(known),
        *_of_certificates(certificates),
        *_of_run(known),
    ]
    return sorted(troubles, key=lambda trouble: LEVELS.index(trouble.level))


def _of_gateway(known: "Known") -> Iterable[Trouble]:
    look = known.look
    if known.haproxy_error is not None:
        yield Trouble("critical", "HAProxy", f"does not answer the gateway: {printable(known.haproxy_error, 200)}")
    if look.serf_error is not None:
        yield Trouble(
            "critical", "Serf", f"no member list: {printable(look.serf_error, 200)}; changes of hosts are not seen"
        )
    if look.config_error is not None:
        yield Trouble(
            "warning",
            "configuration",
            f"refused, the last good one runs: {printable(look.config_error, 300)}",
        )
    since = look.reconciled_at_s
    if since is not None and known.now_s - since > STALE_S:
        yield Trouble("warning", "reconciler", f"last looked at the members {known.now_s - since:.0f} s ago")
    for member in look.members:
        if member.role == "gateway" and member.status == "failed":
            yield Trouble("warning", member.name, "this gateway does not answer the gossip")


def _of_services(
    known: "Known", services: "Sequence[Row]", by_service: "Mapping[str, list[Instance]]"
) -> Iterable[Trouble]:
    for row in services:
        name = str(row["name"])
        if row["closed"]:
            yield Trouble("notice", name, "is closed for maintenance")
        elif known.haproxy_error is None and known.look.looked and not row["up"]:
            yield Trouble("critical", name, "no instance serves; requests are answered 503")
        else:
            down = [instance for instance in by_service.get(name, []) if instance.figures.state == "down"]
            if down:
                first = ", ".join(f"{instance.host}:{instance.port}" for instance in down[:_NAMED])
                more = f" and {len(down) - _NAMED} more" if len(down) > _NAMED else ""
                yield Trouble("warning", name, f"{len(down)} of {row['instances']} instances are down: {first}{more}")


def _of_hosts(known: "Known", hosts: "Sequence[Row]") -> Iterable[Trouble]:
    if not known.look.looked or known.look.serf_error is not None:
        return
    # Hosts at a turn of a run that is at work are out on purpose.
    at_work = known.ledger.lock is not None and known.ledger.lock.alive
    for row in hosts:
        name, status = str(row["name"]), row["status"]
        if status == "failed":
            yield Trouble("warning", name, "its agent does not answer; what still passes its health checks serves on")
        elif status == "drains":
            yield Trouble("warning", name, "its agent ended while the host was leaving; it gets no new requests")
        elif status in ("absent", "left") and row["known"]:
            level = "notice" if at_work else "warning"
            yield Trouble(level, name, "is in the inventory and no member of the cluster")
        elif missing := row["missing"]:
            names = ", ".join(str(service) for service in missing) if isinstance(missing, list) else ""
            yield Trouble("notice" if at_work else "warning", name, f"does not offer {names}")


def _of_refused(known: "Known") -> Iterable[Trouble]:
    by_member: dict[str, list[str]] = {}
    for rejection in known.look.rejected:
        by_member.setdefault(rejection.member, []).append(rejection.reason)
    for member, reasons in by_member.items():
        more = f"; and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        yield Trouble("warning", member, f"is refused: {reasons[0]}{more}")


def _of_certificates(certificates: "Sequence[Row]") -> Iterable[Trouble]:
    for row in certificates:
        name, days = f"certificate {row['name']}", row["days"]
        if isinstance(days, int) and days < 0:
            yield Trouble("critical", name, f"ended {row['ends']}")
        elif isinstance(days, int) and days < SOON_DAYS:
            level = "critical" if days < URGENT_DAYS else "warning"
            yield Trouble(level, name, f"ends in {days} days, {row['ends']}")
        if row["error"]:
            yield Trouble("warning", name, f"could not be obtained: {printable(str(row['error']), 200)}")


def _of_run(known: "Known") -> Iterable[Trouble]:
    lock = known.ledger.lock
    if lock is not None and not lock.alive:
        yield Trouble(
            "warning",
            "lock",
            f"held by {lock.who} ({lock.why}), silent for {lock.silent_s:.0f} s: if that run is dead, the same command "
            "with --take-over goes on",
        )
