"""What the gateway knows, in Prometheus' text format: from the reconciler's memory alone, so nobody asks HAProxy."""

import calendar
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fiefdom_gateway import rounds, status
from fiefdom_gateway.acme import Told
from fiefdom_gateway.replies import State
from fiefdom_gateway.rounds import Rounds
from fiefdom_gateway.status import Look

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Of one metric. What members say decides how many there are of some, and each is kept by who asks for weeks.
MOST_SAMPLES = 2000

_ROLES = ("app", "gateway")
_STATUSES = ("alive", "leaving", "left", "failed")
_STATES = ("up", "down", "drain", "maint")


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float
    suffix: str = ""


@dataclass(frozen=True)
class Metric:
    """A metric with its samples. `kind` is Prometheus' own word for it."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


def text_of(metrics: Iterable[Metric]) -> str:
    """Return metrics in the text format; samples of one metric beyond `MOST_SAMPLES` are left out."""
    return "".join(line + "\n" for metric in metrics for line in _lines(metric))


def _lines(metric: Metric) -> Iterator[str]:
    if not metric.samples:
        return
    told = metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {metric.name} {told}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for sample in metric.samples[:MOST_SAMPLES]:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
        yield f"{metric.name}{sample.suffix}{'{' + labels + '}' if labels else ''} {_number(sample.value)}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def exposition(
    look: Look, counted: Rounds, told: Iterable[Told], served: Iterable[Mapping[str, Any]], now_s: float
) -> str:
    """Return all that the gateway tells. `now_s` is of time.monotonic(); `served` as `certificates.served` has it."""
    told = tuple(told)
    return text_of([*_of_rounds(look, counted, now_s), *_of_members(look), *_of_services(look), *_of_tls(told, served)])


def _gauge(name: str, told: str, *samples: Sample) -> Metric:
    return Metric(f"fiefdom_gateway_{name}", "gauge", told, samples)


def _one(value: float) -> Sample:
    return Sample({}, value)


def _of_rounds(look: Look, counted: Rounds, now_s: float) -> Iterator[Metric]:
    yield _gauge("info", "The gateway, by its node's name.", Sample({"node": look.node}, 1))
    yield _gauge("ready", "Whether the gateway has had servers to serve with since it started.", _one(look.ready))
    bounds = [(f"{bound_s:g}", count) for bound_s, count in zip(rounds.BOUNDS_S, counted.buckets, strict=True)]
    yield Metric(
        "fiefdom_gateway_reconcile_duration_seconds",
        "histogram",
        "What rounds of the reconciler took: a look at the members, and what that changed in HAProxy.",
        [
            *(Sample({"le": le}, count, "_bucket") for le, count in (*bounds, ("+Inf", counted.count))),
            Sample({}, counted.sum_s, "_sum"),
            Sample({}, counted.count, "_count"),
        ],
    )
    yield Metric(
        "fiefdom_gateway_reconcile_failures_total",
        "counter",
        "Rounds at whose end HAProxy could not be compared with what is wanted.",
        [_one(counted.failed)],
    )
    if look.reconciled_at_s is not None:
        # An age, not a time: of the clock that nobody sets, and of no other host's.
        yield _gauge(
            "reconcile_age_seconds",
            "Seconds since HAProxy was last brought to what Serf says.",
            _one(max(now_s - look.reconciled_at_s, 0.0)),
        )
    yield _gauge("serf_up", "Whether the gateway's Serf agent answers.", _one(look.serf_error is None))
    yield _gauge(
        "config_refused",
        "Whether HAProxy runs another configuration than the one that it is given.",
        _one(look.config_error is not None),
    )


def _of_members(look: Look) -> Iterator[Metric]:
    found = Counter((member.role if member.role in _ROLES else "other", member.status) for member in look.members)
    yield _gauge(
        "members",
        "Members of the cluster that the gateway believes, by kind and what Serf says of them.",
        *(
            Sample({"kind": role, "status": status}, found[role, status])
            for role in (*_ROLES, "other")
            for status in _STATUSES
        ),
    )
    yield _gauge(
        "claims_not_believed",
        "What members say and the gateway does not believe, or cannot follow.",
        _one(len(look.rejected)),
    )
    ready = {(server.backend, server.name) for server in look.actual if server.state is State.READY}
    offers = [
        (
            {"service": offer.service, "member": member.name, "version": offer.version},
            [f"{member.name}-{port}" for port in range(offer.first_port, offer.last_port + 1)],
            look.services[offer.service].backend,
        )
        for member in look.members
        for offer in member.offers
        if offer.service in look.services
    ]
    yield _gauge(
        "offered_instances",
        "Instances that a host offers, by service and version.",
        *(Sample(labels, len(names)) for labels, names, _ in offers),
    )
    yield _gauge(
        "offered_instances_taken_up",
        "Instances of an offer that HAProxy has in rotation.",
        *(Sample(labels, sum((backend, name) in ready for name in names)) for labels, names, backend in offers),
    )


def _of_services(look: Look) -> Iterator[Metric]:
    services = sorted(look.services)
    wanted = Counter(server.service for server in look.wanted if not server.drain)
    yield _gauge(
        "servers_wanted",
        "Servers of a service that HAProxy is to send requests to.",
        *(Sample({"service": name}, wanted[name]) for name in services),
    )
    found = Counter((server.backend, status.shown_state(server)) for server in look.actual)
    yield _gauge(
        "servers",
        "Servers of a service that HAProxy had at the end of the last round, by state.",
        *(
            Sample({"service": name, "state": state}, found[look.services[name].backend, state])
            for name in services
            for state in _STATES
        ),
    )
    yield _gauge(
        "service_closed",
        "Whether the gateway answers in a service's place, because an operator closed it.",
        *(Sample({"service": name}, name in (look.closed or ())) for name in services),
    )
    yield _gauge(
        "share_percent",
        "Share of a service's requests that an operator gave to a version.",
        *(
            Sample({"service": share.service, "version": share.version}, share.percent)
            for share in look.shares or ()
            if share.service in look.services
        ),
    )


def _of_tls(told: Sequence[Told], served: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    # Nobody is to believe what stands in the place of one that is not there yet.
    placeholders = {one.name for one in told if one.facts is None}
    yield _gauge(
        "certificate_not_after_timestamp_seconds",
        "When a certificate that HAProxy serves with ends.",
        *(Sample({"name": row["name"]}, _seconds(row["ends"])) for row in served if row["name"] not in placeholders),
    )
    yield _gauge(
        "certificate_missing",
        "Whether there is a placeholder where an authority's certificate is to be.",
        *(Sample({"name": one.name}, one.facts is None) for one in told),
    )
    yield _gauge(
        "certificate_failures",
        "Tries in a row in which an authority gave no certificate.",
        *(Sample({"name": one.name}, one.failures) for one in told),
    )


def _seconds(ends: str) -> int:
    return calendar.timegm(time.strptime(ends, "%Y-%m-%dT%H:%M:%SZ"))
