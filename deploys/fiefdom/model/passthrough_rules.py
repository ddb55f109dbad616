"""What the keys by which a service's hardening gives way can contradict."""

from __future__ import annotations

from collections.abc import Iterator

from fiefdom.model.draft import Draft
from fiefdom.model.hosts import Service
from fiefdom.model.passthrough import mib
from fiefdom.model.text import Problem, twice


def passthrough_problems(cluster: Draft) -> Iterator[Problem]:
    """Of services: what is given twice, and a /dev/shm that is larger than all the memory that an instance has."""
    for name, service in cluster.services.items():
        for key, given in _lists(service):
            yield from twice(("services", name, key), given)
        if service.shm_size is None:
            continue
        for host in cluster.hosts:
            limit = cluster.service_on(host, name).limits.memory_mib
            if cluster.count(host, name) and mib(service.shm_size) > limit:
                yield (
                    ("services", name, "shm_size"),
                    f"{service.shm_size} counts as an instance's memory, which is {limit} MiB on {host}; lower it, or "
                    "raise limits.memory_mib",
                )
                break


def _lists(service: Service) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "capabilities", service.capabilities
    yield "devices", service.devices
