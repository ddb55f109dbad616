"""What concerns want together, and of which of them one state does for both Debians."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jinja2
import pytest

from fiefdom.desired.concerns import ALL, BY_DEBIAN, BY_TURN, CONCERNS, state_of, states_of
from fiefdom.desired.context import Context
from fiefdom.desired.state import CODENAMES, HostState, Package
from fiefdom.model import Secrets
from helpers.example import GOSSIP_KEY, INVENTORY, context

RICH: dict[str, Any] = {
    "ssh": {"crypto": "pq", "allow_users": ["operator"], "user": "operator"},
    "gateway": {"known_hosts_only": True, "proxies": ["10.9.0.0/16"]},
    "docker": {"log_max_size": "1m"},
    "network": {"input_rules": ["tcp dport 9999 accept"]},
}


def made(context: Context, concerns: Sequence[str] = ALL) -> HostState:
    """What the concerns say themselves, with nothing that is remembered."""
    return HostState.together(CONCERNS[name](context) for name in concerns)


@pytest.mark.parametrize("changes", [{}, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("host", INVENTORY["hosts"])
def test_a_turn_in_a_release_is_seen_by_those_that_say_so_alone(host: str, changes: dict[str, Any]) -> None:
    """In what is remembered nothing of another turn, Debian, host, cluster or secret is found."""
    plain = context(host, **changes)
    running = {"predictor": "0.9", "web": "6"}
    held = [
        replace(plain, running=running),
        replace(plain, running=running, checks={"predictor": 1000, "web": 500}),
        replace(plain, going=(8090, 8091)),
        replace(plain, running=running, codename="trixie"),
        replace(plain, secrets=Secrets(GOSSIP_KEY[::-1])),
        replace(plain, cluster=plain.cluster.model_copy(update={"time_servers": ("10.9.9.9",)})),
        replace(plain, name="app2" if host == "app1" else "app1"),
    ]
    for context_ in held[:3]:
        assert {name for name in CONCERNS if CONCERNS[name](context_) != CONCERNS[name](plain)} <= set(BY_TURN)
    for context_ in (plain, *held, plain):
        assert state_of(context_) == made(context_)
    (asked,) = {id(state_of(replace(plain))), id(state_of(plain))}
    assert asked == id(state_of(plain))


@pytest.mark.parametrize("changes", [{}, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("host", INVENTORY["hosts"])
def test_one_state_does_for_both_debians_but_for_those_that_say_otherwise(host: str, changes: dict[str, Any]) -> None:
    bookworm, trixie = (context(host, codename, **changes) for codename in CODENAMES)
    assert [name for name in CONCERNS if CONCERNS[name](bookworm) != CONCERNS[name](trixie)] == list(BY_DEBIAN)
    found = states_of(bookworm.cluster, host, bookworm.secrets)
    assert found == {"bookworm": made(bookworm), "trixie": made(trixie)}
    some = ("serf", "sshd")
    assert states_of(bookworm.cluster, host, bookworm.secrets, some)["trixie"] == made(trixie, some)
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
