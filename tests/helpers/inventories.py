"""The raw inventory that tests of the model and of what reads it begin with, and changes of it."""

from __future__ import annotations

import copy
from typing import Any

import yaml

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

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


def as_yaml(data: Any) -> str:
    """The YAML of plain data; libyaml writes it in a fifth of the time, where it is there."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


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


THEIRS: dict[str, Any] = {
    "cluster": "theirs",
    "network": {"cidr": "10.9.0.0/24", "admin_cidrs": ["10.9.0.3/32"]},
    "services": {"web": {"image": "team/web", "version": "1.0"}},
    "registry": {"server": "registry.example.org"},
    "serf": {"key": {"env": "THEIR_KEY"}},
}
"""What another repository says of a cluster in pyinfra's data, beside its own words."""
