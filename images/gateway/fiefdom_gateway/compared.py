"""What is left to compare of thousands of servers: the backends that are not as they were when nothing was to do."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import attrgetter

from fiefdom_gateway import haproxy
from fiefdom_gateway.replies import Actual
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Server

Pair = tuple[tuple[Server, ...], tuple[Actual, ...]]
"""Servers that are wanted, and those that HAProxy has."""

_BY_BACKEND, _BY_SERVICE = attrgetter("backend"), attrgetter("service")


class Compared:
    """Remembers by backend the servers that were equal, in the order of `wanted` and of `replies.in_order`."""

    def __init__(self) -> None:
        self._equal: dict[str, Pair] = {}
        self._services: Mapping[str, Service] | None = None

    def unlike(self, wanted: Iterable[Server], services: Mapping[str, Service]) -> list[str]:
        """Return the backends of which something else is wanted than when they were equal."""
        groups = _wanted_by_backend(wanted, services)
        equal = self._of(services)
        changed = {backend for backend, group in groups.items() if backend not in equal or equal[backend][0] != group}
        gone = {backend for backend, (before, _) in equal.items() if before and backend not in groups}
        return sorted(changed | gone)

    def rest(self, wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]) -> Pair:
        """Return the servers of the backends that are not exactly as they were when they were equal."""
        equal, found = self._of(services), _pairs(wanted, actual, services)
        left = [pair for backend, pair in found.items() if equal.get(backend) != pair]
        return tuple(s for pair in left for s in pair[0]), tuple(s for pair in left for s in pair[1])

    def note(self, rest: Pair, services: Mapping[str, Service]) -> bool:
        """Remember which of the backends of `rest` are equal; whether all are."""
        if not haproxy.settled(*rest, services):
            return False
        # One that drains may lose connections yet, and one that is busy is another one soon.
        self._of(services).update(
            (backend, pair)
            for backend, pair in _pairs(*rest, services).items()
            if not any(s.drain for s in pair[0]) and not any(s.busy for s in pair[1])
        )
        return True

    def _of(self, services: Mapping[str, Service]) -> dict[str, Pair]:
        if services is not self._services:
            self._equal, self._services = {}, services
        return self._equal


def _pairs(wanted: Iterable[Server], actual: Iterable[Actual], services: Mapping[str, Service]) -> dict[str, Pair]:
    groups = _wanted_by_backend(wanted, services)
    there = {backend: tuple(group) for backend, group in groupby(actual, _BY_BACKEND)}
    return {backend: (groups.get(backend, ()), there.get(backend, ())) for backend in (groups | there)}


def _wanted_by_backend(wanted: Iterable[Server], services: Mapping[str, Service]) -> dict[str, tuple[Server, ...]]:
    return {services[name].backend: tuple(group) for name, group in groupby(wanted, _BY_SERVICE)}
