"""A cluster that uses every key, and the files that its hosts should get.

`UPDATE_EXPECTED=1 pytest tests/unit` writes the expected files anew; read their diff before you commit it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from fiefdom import RELEASE
from fiefdom.desired.context import Context
from fiefdom.desired.state import Codename, HostState
from fiefdom.model import Cluster, Secrets

EXPECTED = Path(__file__).parents[1] / "unit" / "desired" / "expected"
GOSSIP_KEY = "dGVzdHMgb25seTogMzIgYnl0ZXMgb2Ygbm90aGluZyE="

INVENTORY: dict[str, Any] = {
    "cluster": "example",
    "hosts": {
        "gw1": {"address": "10.1.0.11", "groups": ["gateways"]},
        "gw2": {"address": "10.1.0.12", "groups": ["gateways"]},
        "app1": {
            "address": "10.1.0.21",
            "groups": ["app_hosts"],
            "ssh": {"user": "operator", "port": 2222},
            "services": {"predictor": {"environment": {"MODEL": "small"}, "limits": {"memory_mib": 1024, "cpus": 2}}},
            "sysctls": {"net/ipv4/conf/eth0.100/rp_filter": 2, "net.core.somaxconn": 1024},
            "static": {"interface": "eth0", "gateway": "10.1.0.1", "dns": ["10.1.0.2", "10.1.0.3"]},
        },
        "app2": {
            "address": "10.1.0.22",
            "groups": ["app_hosts", "web_hosts"],
            "services": {"predictor": {"instances": 2}},
        },
    },
    "services": {
        "predictor": {
            "image": "team/predictor",
            "version": "1.2.0",
            "instances": 4,
            "environment": {"TOKEN": "s3cret value # kept", "MODEL": "large"},
        },
        "web": {
            "image": "team/web",
            "version": "7",
            "base_port": 9000,
            "container_port": 3000,
            "groups": ["web_hosts"],
            "user": "1000:1000",
            "tmpfs": ["/tmp", "/var/cache/web"],
            "command": ["serve", "--name", "two words"],
            "health": {"path": "/ok", "interval_s": 0.5, "timeout_s": 1.5, "start_timeout_s": 20},
            "stop_grace_s": 5,
            "route": {"port": 8080, "host": "www.example.org", "path_prefix": "/shop"},
        },
    },
    "network": {
        "cidr": "10.1.0.0/24",
        "admin_cidrs": ["192.0.2.7/32", "10.9.0.0/16"],
        "client_cidrs": ["10.0.0.0/8", "10.2.0.0/16"],
    },
    "ssh": {
        "authorized_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBu7Zl8xXQ8E3yQ0dVb1m6n4n7Qe5h0Hk3Wc6t8y1pR9 ann"]
    },
    "time_servers": ["10.1.0.2", "10.1.0.3"],
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, mapping by mapping; None takes a key away."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return {key: value for key, value in result.items() if value is not None}


def context(host: str = "app1", codename: Codename = "bookworm", **changes: object) -> Context:
    """A host of the cluster; keywords change the inventory."""
    return Context(host, Cluster.model_validate(merged(INVENTORY, changes)), codename, Secrets(GOSSIP_KEY))


def check_expected(folder: str, state: HostState) -> None:
    """Compare every file and block of a state with its expected file below ``folder``, or write them where asked to."""
    for name, text in [(f.path, f.content) for f in state.files] + [(b.path, b.text) for b in state.blocks]:
        content = _of_any_release(text)
        path = EXPECTED / folder / name.lstrip("/")
        if os.environ.get("UPDATE_EXPECTED"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        assert path.is_file(), f"{path} is missing: UPDATE_EXPECTED=1 pytest tests/unit writes it"
        assert content.decode() == path.read_text()


def _of_any_release(content: bytes) -> bytes:
    """What a host keeps of a container of Fiefdom's own, whose image and digest are another in each release."""
    if not re.search(rb"^image fiefdom/(gateway|serf):", content, re.MULTILINE):
        return content
    content = re.sub(rb"^spec [0-9a-f]{64}$", b"spec OF-THE-RELEASE", content, flags=re.MULTILINE)
    return content.replace(f":{RELEASE}\n".encode(), b":RELEASE\n").replace(
        f"version {RELEASE}".encode(), b"version RELEASE"
    )
