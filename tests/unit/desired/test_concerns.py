"""What concerns want together, and of which of them one state does for both Debians."""

from __future__ import annotations

from collections import Counter
from typing import Any

import jinja2
import pytest

from fiefdom.desired.concerns import ALL, BY_DEBIAN, CONCERNS, state_of, states_of
from fiefdom.desired.state import CODENAMES, HostState, Package
from helpers.example import INVENTORY, context

RICH: dict[str, Any] = {
    "ssh": {"crypto": "pq", "allow_users": ["operator"], "user": "operator"},
    "gateway": {"known_hosts_only": True, "proxies": ["10.9.0.0/16"]},
    "docker": {"log_max_size": "1m"},
    "network": {"input_rules": ["tcp dport 9999 accept"]},
}


@pytest.mark.parametrize("changes", [{}, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("host", INVENTORY["hosts"])
def test_one_state_does_for_both_debians_but_for_those_that_say_otherwise(host: str, changes: dict[str, Any]) -> None:
    bookworm, trixie = (context(host, codename, **changes) for codename in CODENAMES)
    assert [name for name in CONCERNS if CONCERNS[name](bookworm) != CONCERNS[name](trixie)] == list(BY_DEBIAN)
    found = states_of(bookworm.cluster, host, bookworm.secrets)
    assert found == {"bookworm": state_of(bookworm), "trixie": state_of(trixie)}
    some = ("serf", "sshd")
    assert states_of(bookworm.cluster, host, bookworm.secrets, some)["trixie"] == state_of(trixie, some)
    assert list(CONCERNS) == list(ALL)


def test_what_instances_and_hosts_have_alike_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    found = jinja2.Environment.get_template

    def counted(self: jinja2.Environment, name: str, *more: Any) -> jinja2.Template:
        asked[name] += 1
        return found(self, name, *more)

    monkeypatch.setattr(jinja2.Environment, "get_template", counted)
    others = {f"app{i}": {"address": f"10.1.0.2{i}", "groups": ["app_hosts"]} for i in range(3, 7)}
    # A port that no other test has, so that nothing is there from it.
    one = context("app3", hosts=others, serf={"port": 7999})
    for name in one.cluster.hosts:
        states_of(one.cluster, name, one.secrets)
    assert asked["hosts.j2"] == 1
    assert asked["service@.service.j2"] <= len(one.cluster.services) == 2
    # Gateways, app1 with a port of its own, app2 with services of its own, and the others.
    assert asked["firewall.nft.j2"] == 4


def test_what_stands_in_several_states_stands_once_in_the_order_of_the_first() -> None:
    one, other = (
        HostState(packages=(Package("b"), Package("a"))),
        HostState("app1", packages=(Package("a"), Package("c"))),
    )
    together = HostState.together([one, other, HostState("app2")])
    assert together == one + other == HostState("app1", packages=(Package("b"), Package("a"), Package("c")))
    assert HostState.together([]) == HostState()
