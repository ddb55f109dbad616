"""Docker's daemon.json where a host had one of its own: which keys go on, and who may read the file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fiefdom.converge import guest
from fiefdom.converge.guest import Guest
from fiefdom.desired import daemon_json, docker
from fiefdom.desired.concerns import ALL, state_of
from fiefdom.desired.state import File, HostState
from fiefdom.model.daemon_keys import DAEMON_KEYS, DAEMON_OWN, NEWER_KEYS
from helpers.example import context


def own(text: str | dict[str, Any], mode: int = 0o644) -> daemon_json.Own:
    return daemon_json.read((text if isinstance(text, str) else json.dumps(text)).encode(), mode)


def merged(keys: str | dict[str, Any], mode: int = 0o644, **daemon: Any) -> File:
    """The file that a host with such a one of its own gets, where the inventory gives ``daemon``."""
    state = state_of(context("app1", docker={"daemon": daemon}))
    return guest.adapted(state, (), Guest(own_daemon=own(keys, mode))).file(docker.CONFIG)


def said(file: File) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.content)
    return found


FIEFDOMS = docker.daemon_config(context("app1"))


@pytest.mark.parametrize(
    ("keys", "daemon", "more"),
    [
        ({}, {}, {}),
        ("", {}, {}),
        (" \n", {}, {}),
        ({"dns": ["9.9.9.9"], "mtu": 1400}, {}, {"dns": ["9.9.9.9"], "mtu": 1400}),
        # The inventory's takes the place of the host's, whole.
        ({"dns": ["9.9.9.9"], "mtu": 1400}, {"dns": ["9.9.9.10"]}, {"dns": ["9.9.9.10"], "mtu": 1400}),
        ({"mtu": 1400}, {"dns": ["9.9.9.10"]}, {"dns": ["9.9.9.10"], "mtu": 1400}),
        # What Fiefdom sets is Fiefdom's.
        ({"icc": True, "live-restore": False, "log-opts": {"env": "x"}, "init": True}, {}, {"init": True}),
        ({"data-root": "/srv/docker"}, {}, {"data-root": "/srv/docker"}),
        # No key of an inventory, and kept all the same.
        ({"default-address-pools": [], "ipv6": True}, {}, {"ipv6": True}),
        ({"of-tomorrow": {"a": [1, 2.5, None]}}, {}, {"of-tomorrow": {"a": [1, 2.5, None]}}),
        ({"hosts": ["tcp://0.0.0.0:2375"], "fixed-cidr": "10.9.0.0/24", "default-gateway": "10.9.0.1"}, {}, {}),
        ({"iptables": False, "bridge": "br0", "userns-remap": "default"}, {}, {}),
        ({"iptables": True, "bridge": ""}, {}, {"iptables": True, "bridge": ""}),
        # What is no JSON object says nothing.
        ("[1]", {}, {}),
        ('{"mtu": ', {}, {}),
    ],
)  # fmt: skip
def test_what_goes_on_of_a_hosts_own(keys: str | dict[str, Any], daemon: dict[str, Any], more: dict[str, Any]) -> None:
    assert said(merged(keys, **daemon)) == {**FIEFDOMS, **more}


def test_a_host_without_one_gets_the_same_bytes_as_ever() -> None:
    state = state_of(context("app1"))
    assert guest.adapted(state, (), Guest()).file(docker.CONFIG) == state.file(docker.CONFIG)
    assert merged({}) == merged({"icc": True}) == state.file(docker.CONFIG)


def test_the_same_keys_in_another_order_are_the_same_file() -> None:
    assert merged('{"mtu": 1400, "dns": []}') == merged('{ "dns" : [],\n"mtu":1400}')


def test_other_concerns_have_no_daemon_json_to_merge_into() -> None:
    state = state_of(context("app1"), tuple(name for name in ALL if name != "docker"))
    assert isinstance(state, HostState)
    assert (
        guest.adapted(state, (), Guest(own_daemon=own({"mtu": 1400}))).files == guest.adapted(state, (), Guest()).files
    )


@pytest.mark.parametrize(
    ("keys", "mode", "private"),
    [
        ({"mtu": 1400}, 0o644, False),
        ({"mtu": 1400}, 0o664, False),
        # Whom its owner kept out stays out.
        ({"mtu": 1400}, 0o640, True),
        ({"mtu": 1400}, 0o600, True),
        ({"proxies": {"http-proxy": "http://ann:hush@proxy:3128"}}, 0o644, True),
        ({"proxies": {"http-proxy": "ann:hush@proxy:3128"}}, 0o644, True),
        ('{"registry-mirrors": ["https://ann:hush\\u0040m.example.org"]}', 0o644, True),
        # Fiefdom's takes its place, but what is there now is what a diff would show.
        ({"log-opts": {"splunk-token": "hush"}}, 0o644, True),
        ({"runtimes": {"x": {"options": {"apiKey": "hush"}}}}, 0o644, True),
        ("ann:hush@", 0o644, True),
    ],
)
def test_what_was_not_for_everybody_is_for_root_alone(keys: str | dict[str, Any], mode: int, private: bool) -> None:
    file = merged(keys, mode)
    assert (file.mode, file.secret) == ((0o600, True) if private else (0o644, False))
    assert "hush" not in repr(own(keys, mode)) + repr(Guest(own_daemon=own(keys, mode)))


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("mtu", 1400, "1400"),
        ("dns", ["9.9.9.9"], '["9.9.9.9"]'),
        ("labels", ["x" * 80], f'["{"x" * 55}...'),
        ("registry-mirrors", ["https://ann:hush@m.example.org"], "(a secret: not shown)"),
        ("log-opts", {"splunk-token": "hush"}, "(a secret: not shown)"),
        ("fluentd-shared-key", "hush", "(a secret: not shown)"),
        ("labels", ["password=hush"], "(a secret: not shown)"),
        ("dns", ["\n\x1b[31m"], '["\\n\\u001b[31m"]'),
    ],
)
def test_a_value_in_a_line(key: str, value: object, shown: str) -> None:
    assert daemon_json.said(key, value) == shown


@pytest.mark.parametrize(("value", "shown"), [("hush", False), (["hush"], False), (1400, True), (True, True)])
def test_what_a_file_says_that_was_not_for_everybody_is_shown_where_it_is_no_text(value: object, shown: bool) -> None:
    line = daemon_json.said("log-opts", value, private=True)
    assert line == (json.dumps(value) if shown else "(a secret: not shown)")


def test_every_key_that_an_inventory_may_give_is_one_that_dockerd_knows() -> None:
    assert daemon_json.KNOWN["trixie"] >= DAEMON_KEYS.keys()
    assert daemon_json.KNOWN["bookworm"] >= DAEMON_KEYS.keys() - NEWER_KEYS
    assert not daemon_json.KNOWN["bookworm"] & NEWER_KEYS
    for known in daemon_json.KNOWN.values():
        assert daemon_json.LEFT_OUT.keys() | daemon_json.HARMFUL.keys() <= known
        assert not known & DAEMON_OWN.keys()
