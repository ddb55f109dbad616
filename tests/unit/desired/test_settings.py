"""Settings that reach one line of one file: what the inventory says, and what the host then reads."""

from __future__ import annotations

from typing import Any

import pytest

from fiefdom.desired.concerns import state_of
from helpers.example import INVENTORY, context

SSHD, AGENT = "/etc/ssh/sshd_config.d/10-fiefdom.conf", "/etc/fiefdom/serf/agent.json"
HAPROXY = "/etc/fiefdom/gateway/haproxy.cfg"


@pytest.mark.parametrize(
    ("host", "changes", "path", "line"),
    [
        ("app1", {"ssh": {"max_auth_tries": 5}}, SSHD, "MaxAuthTries 5"),
        ("app1", {"ssh": {"client_alive_interval_s": 77}}, SSHD, "ClientAliveInterval 77"),
        ("app1", {"serf": {"profile": "wan"}}, AGENT, '"profile": "wan"'),
        ("app1", {"serf": {"rpc_port": 7400}}, AGENT, '"rpc_addr": "127.0.0.1:7400"'),
        ("app1", {"serf": {"join_timeout_s": 44}}, "/etc/fiefdom/offers.conf", "join_timeout_s 44"),
        ("gw1", {"gateway": {"stats_port": 8499}}, HAPROXY, ":8499"),
        ("gw1", {"gateway": {"stats_names": ["gw.example.org"]}}, HAPROXY, "-i gw.example.org gw1"),
        ("gw1", {"gateway": {"connect_timeout_s": 3.5}}, HAPROXY, "timeout connect 3500ms"),
    ],
)
def test_a_setting_is_in_its_file_and_was_not_there_before(
    host: str, changes: dict[str, Any], path: str, line: str
) -> None:
    def text(changes: dict[str, Any]) -> str:
        (file,) = (f for f in state_of(context(host, **changes)).files if f.path == path)
        return file.content.decode()

    assert line in text(changes) and line not in text({})


@pytest.mark.parametrize("host", list(INVENTORY["hosts"]))
def test_who_says_where_ssh_is_as_the_hosts_address_says_it_already_changes_nothing(host: str) -> None:
    """Another repository's inventory says it of each host, and both have to want the same of it."""
    places = {name: {"ssh": {"address": data["address"]}} for name, data in INVENTORY["hosts"].items()}
    assert state_of(context(host, hosts=places)) == state_of(context(host))
