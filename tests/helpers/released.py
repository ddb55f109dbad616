"""A cluster in two versions, for tests of what an operator does: two gateways, four app hosts, no wait that is real."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from fiefdom.converge.run import Known
from helpers.example import context

OLD, NEW = "1.2.0", "1.3.0"
APPS = ("app1", "app2", "app3", "app4")


def known(version: str = OLD, soak_s: float = 2.0, **changes: Any) -> Known:
    """A cluster of two gateways and four app hosts with two instances each; the very same for the same arguments."""
    return _known(version, soak_s, json.dumps(changes))


@lru_cache(maxsize=64)
def _known(version: str, soak_s: float, text: str) -> Known:
    changes = json.loads(text)
    hosts = {
        name: {"address": f"10.1.0.{30 + i}", "groups": ["app_hosts"], "services": {"predictor": {"instances": 2}}}
        for i, name in enumerate(APPS)
    }
    cluster = context(
        "gw1",
        hosts=hosts | changes.pop("hosts", {}),
        services={"predictor": {"version": version, "instances": 2}, "web": None} | changes.pop("services", {}),
        registry={"server": "registry.example.org"},
        rollout={"soak_s": soak_s},
        **changes,
    ).cluster
    return Known(cluster, context().secrets, {})


Said = list[tuple[str, str]]
