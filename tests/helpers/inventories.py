"""The raw inventory that tests of the model and of what reads it begin with, and changes of it."""

from __future__ import annotations

import copy
from typing import Any

VALID: dict[str, Any] = {
    "cluster": "test",
    "network": {"cidr": "10.0.0.0/24", "admin_cidrs": ["10.0.0.1/32"]},
    "hosts": {
        "gw1": {"address": "10.0.0.11", "groups": ["gateways"]},
        "app1": {"address": "10.0.0.21", "groups": ["app_hosts"]},
        "app2": {"address": "10.0.0.22", "groups": ["app_hosts", "large"]},
    },
    "services": {
        "web": {"image": "team/web", "version": "1.0", "instances": 2},
        "api": {
            "image": "api",
            "version": "2",
            "base_port": 9000,
            "groups": ["large"],
            "route": {"path_prefix": "/api"},
        },
    },
}

TEXT = """\
cluster: test
network:
  cidr: 10.0.0.0/24
  admin_cidrs: [10.0.0.1/32]
hosts:
  gw1:
    address: 10.0.0.11
    groups: [gateways]
  app1:
    address: 10.0.0.21
    groups: [app_hosts]
services:
  web:
    image: team/web
    version: "1.0"
    instances: 2
"""
"""A small one as a person writes it; tests know its lines."""


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """VALID with values at dotted keys replaced; None takes a key out."""
    raw = copy.deepcopy(VALID)
    for key, value in changes.items():
        *parents, last = key.split("/")
        at = raw
        for part in parents:
            at = at.setdefault(part, {})
        if value is None:
            del at[last]
        else:
            at[last] = value
    return raw
