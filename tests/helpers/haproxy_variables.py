"""What every rendering of haproxy.cfg.j2 wants, as the tests of it have it."""

from __future__ import annotations

from typing import Any

LIMITS: dict[str, Any] = {
    "maxconn": 4000,
    "retries": 5,
    "balance": "roundrobin",
    "connect_timeout_s": 2.0,
    "server_timeout_s": 60.0,
    "client_timeout_s": 60.0,
    "request_timeout_s": 10.0,
}
