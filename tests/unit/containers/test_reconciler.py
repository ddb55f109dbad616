"""The gateway's reconciler from values: members, memory, wanted servers, and HAProxy 3.0's recorded words."""

import asyncio
import dataclasses
import ipaddress
import json
import os
import re
import socket
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import (  # noqa: E402
    closed,
    edges,
    handover,
    haproxy,
    kept,
    packed,
    reconcile,
    refusal,
    replies,
    shares,
    status,
    wanted,
)
from fiefdom_gateway.belief import believe  # noqa: E402
from fiefdom_gateway.haproxy import (  # noqa: E402
    Add,
    Delete,
    EnableHealth,
    SetCheckPort,
    SetState,
)
from fiefdom_gateway.log import Once, printable  # noqa: E402
from fiefdom_gateway.members import Member, Offer, Rejection, Roll, Unreadable, parse_members, same  # noqa: E402
from fiefdom_gateway.replies import Actual, State, Traffic  # noqa: E402
from fiefdom_gateway.settings import BadSettings, Host, Inventory, Service, parse_settings  # noqa: E402
from fiefdom_gateway.wanted import Known, Server  # noqa: E402

DATA = Path(__file__).parent / "data"
RECORDED = DATA / "haproxy-3.0"
OPTIONS = "check inter 1s fall 2 rise 1 observe layer4 error-limit 1 on-error mark-down"
PREDICTOR = Service("predictor", "predictor", 8000, 100, OPTIONS)
ECHO = Service("echo", "echo-backend", 9000, 10, "check")
SERVICES = {"predictor": PREDICTOR, "echo": ECHO}


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text()


def serf(*members: dict) -> str:
    return json.dumps({"members": list(members)})


def listed(name="app1", addr="10.99.0.21:7946", status="alive", **tags) -> dict:
    return {"name": name, "addr": addr, "port": 7946, "status": status, "tags": {"role": "app", **tags}}


def offering(value: str, service: str = "predictor", **more) -> dict:
    return listed(**more, **{f"svc:{service}": value})


def member(name="app1", address="10.99.0.21", status="alive", *, role="app", first=8000, last=8001) -> Member:
    return Member(name, address, status, role, (Offer("predictor", "1.0.0", first, last),) if role == "app" else ())


# --- Settings


SETTINGS = {
    "cluster": "lab",
    "node": "gw1",
    "haproxy_config": "/etc/fiefdom/gateway/haproxy.cfg",
    "state_dir": "/var/lib/fiefdom/gateway",
    "serf_config": "/etc/fiefdom/gateway/agent.json",
    "rpc_addr": "127.0.0.1:7373",
    "interval_s": 5,
    "absent_grace_s": 120,
    "stop_grace_s": 60,
    "services": [
        {
            "name": "predictor",
            "backend": "predictor",
            "base_port": 8000,
            "max_instances": 100,
            "server_options": OPTIONS,
        }
    ],
    "network": "10.99.0.0/24",
    "known_hosts_only": False,
    "hosts": {
        "gw1": {"address": "10.99.0.11", "services": []},
        "app1": {"address": "10.99.0.21", "services": ["predictor"]},
    },
}


def test_settings_of_the_deploy_are_read():
    settings = parse_settings(json.dumps(SETTINGS))
    assert settings.services == {"predictor": PREDICTOR}
    assert settings.state_dir == Path("/var/lib/fiefdom/gateway")
    assert settings.interval_s == 5.0
    hosts = {"gw1": Host("10.99.0.11", frozenset()), "app1": Host("10.99.0.21", frozenset(["predictor"]))}
    assert settings.inventory == Inventory(ipaddress.IPv4Network("10.99.0.0/24"), False, hosts)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"node": "gw1\nmaint"}, "node: must be a name"),
        ({"state_dir": "state"}, "state_dir: must be an absolute path"),
        ({"interval_s": 0}, "interval_s: must be a number of seconds"),
        ({"interval_s": True}, "interval_s: must be a number of seconds"),
        (
            {"services": [{**SETTINGS["services"][0], "sticky": "yes"}]},
            r"services\[0\].sticky: must be true or false",
        ),
        ({"services": {}}, "services: must be a list"),
        ({"services": [1]}, r"services\[0\]: must be an object"),
        ({"services": [SETTINGS["services"][0]] * 2}, "services: two have the same name"),
        (
            {"services": [{**SETTINGS["services"][0], "base_port": 0}]},
            r"services\[0\].base_port: must be a whole number",
        ),
        ({"services": [{**SETTINGS["services"][0], "server_options": "check; quit"}]}, r"services\[0\].server_options"),
        ({"services": [{**SETTINGS["services"][0], "server_options": "check\n"}]}, r"services\[0\].server_options"),
        (
            {"services": [{**SETTINGS["services"][0], "upgraded": "kill"}]},
            r"services\[0\].upgraded: must be wait or close",
        ),
        (
            {"services": [{**SETTINGS["services"][0], "kind": "udp"}]},
            r"services\[0\].kind: must be http or tcp",
        ),
        (
            {"services": [{**SETTINGS["services"][0], "upgraded": None}]},
            r"services\[0\].upgraded: must be wait or close",
        ),
        ({"network": None}, "network: must be a string"),
        ({"network": "10.99.0.1/24"}, "network: must be an IPv4 network"),
        ({"known_hosts_only": 0}, "known_hosts_only: must be true or false"),
        ({"hosts": []}, "hosts: must be an object"),
        ({"hosts": {"app1": None}}, "hosts.app1: must be an object"),
        ({"hosts": {"app1": {"address": "app1", "services": []}}}, "hosts.app1.address: must be an IPv4 address"),
        ({"hosts": {"app1": {"services": []}}}, "hosts.app1.address: must be a string"),
        ({"hosts": {"app1": {"address": "10.99.0.21", "services": [1]}}}, "hosts.app1.services: must be a list"),
        (
            {"hosts": {"a": {"address": "10.99.0.21", "services": [], "last_ports": []}}},
            "hosts.a.last_ports: must be an",
        ),
        (
            {"hosts": {"a": {"address": "10.99.0.21", "services": [], "last_ports": {"predictor": "1"}}}},
            "hosts.a.last_ports.predictor: must be a whole number from 1 to 65535",
        ),
        ({"hosts": dict.fromkeys(("a", "b"), SETTINGS["hosts"]["gw1"])}, "hosts: two have the same address"),
    ],
)
def test_a_mistake_in_the_settings_is_named(change, complaint):
    with pytest.raises(BadSettings, match=complaint):
        parse_settings(json.dumps({**SETTINGS, **change}))


@pytest.mark.parametrize(
    ("upgraded", "closes"), [({}, False), ({"upgraded": "wait"}, False), ({"upgraded": "close"}, True)]
)
def test_a_service_says_whether_upgraded_connections_are_waited_for(upgraded, closes):
    services = [{**SETTINGS["services"][0], **upgraded}]
    assert (
        parse_settings(json.dumps({**SETTINGS, "services": services})).services["predictor"].closes_upgraded is closes
    )


@given(st.text())
def test_settings_never_raise_anything_else(text):
    with pytest.raises(BadSettings):
        parse_settings(text)


# --- Members


def test_recorded_members():
    roll = parse_members((DATA / "serf_members.json").read_text(), SERVICES)
    assert roll.rejected == ()
    assert roll.members == (
        Member("app1", "10.99.0.21", "alive", "app", (Offer("predictor", "1.0.0", 8000, 8001),)),
        Member("app2", "10.99.0.22", "alive", "app", (Offer("predictor", "1.0.0", 8010, 8011),)),
        Member("gw1", "10.99.0.11", "alive", "gateway"),
    )


def test_an_ipv6_member():
    (found,) = parse_members(serf(offering("1;8000-8000", addr="[fd00::0:21]:7946")), SERVICES).members
    assert found.address == "fd00::21"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (offering("1.0.0;0-8000"), "offers predictor on ports 0-8000, which are none"),
        (offering("1.0.0;8000-65536"), "offers predictor on ports 8000-65536, which are none"),
        (offering("1.0.0;8001-8000"), "offers predictor on ports 8001-8000, which are none"),
        (offering("1.0.0;8000"), "offers predictor as '1.0.0;8000', which is not VERSION;FIRST-LAST[;CHECKS]"),
        (offering("1 0;8000-8000"), "offers predictor as '1 0;8000-8000', which is not VERSION;FIRST-LAST[;CHECKS]"),
        (offering("1;8000-8000\n"), "offers predictor as '1;8000-8000\\n', which is not VERSION;FIRST-LAST[;CHECKS]"),
        (offering("1;8000-8000;"), "offers predictor as '1;8000-8000;', which is not VERSION;FIRST-LAST[;CHECKS]"),
        (offering("1;8000-8000;0"), "offers predictor with checks on ports from 0 on, which are none"),
        (offering("1;8000-8001;65535"), "offers predictor with checks on ports from 65535 on, which are none"),
        (offering("1;8000-8000", service="x;y"), "offers 'x;y', which this gateway does not route"),
    ],
)
def test_an_offer_out_of_bounds_is_refused_and_the_rest_believed(entry, reason):
    entry["tags"]["svc:echo"] = "2;9000-9001"
    roll = parse_members(serf(entry), SERVICES)
    assert roll.rejected == (Rejection("app1", reason),)
    assert roll.members[0].offers == (Offer("echo", "2", 9000, 9001),)


@pytest.mark.parametrize(
    ("entry", "shown", "reason"),
    [
        (listed(name="app1 addr 1.2.3.4"), "app1 addr 1.2.3.4", "has a name that is no host name"),
        (listed(name="x" * 65), "x" * 61 + "...", "has a name that is no host name"),
        (listed(name="app1\n"), "app1", "has a name that is no host name"),
        (listed(addr="127.0.0.1:7946"), "app1", "has the address '127.0.0.1:7946', which no host of a cluster has"),
        (listed(addr="0.0.0.0:7946"), "app1", "has the address '0.0.0.0:7946', which no host of a cluster has"),
        (listed(addr="[fe80::1%eth0]:7946"), "app1", "has the address '[fe80::1%eth0]:7946', which no host"),
        (listed(addr="gw.example.com:80"), "app1", "has the address 'gw.example.com:80', which is none"),
        (listed(status="none"), "app1", "has the unknown status 'none'"),
        ("app1", "?", "is not an object"),
    ],
)
def test_a_member_that_cannot_be_is_refused(entry, shown, reason):
    roll = parse_members(serf(entry), SERVICES)
    assert roll.members == ()
    assert [(r.member, r.reason[: len(reason)]) for r in roll.rejected] == [(shown, reason)]


def test_a_gateway_offers_nothing():
    entry = {**offering("1.0.0;8000-8000"), "tags": {"role": "gateway", "svc:predictor": "1.0.0;8000-8000"}}
    assert parse_members(serf(entry), SERVICES).members[0].offers == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"members": {}}', "Error connecting to Serf agent", "[" * 100_000]
)
def test_what_is_no_member_list_is_unreadable(text):
    with pytest.raises(Unreadable):
        parse_members(text, SERVICES)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
odd_entries = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["app1", "app2", "a;b", "app1\n", "", "é"]) | json_values,
        "addr": st.sampled_from(["10.99.0.21:7946", "[fd00::1]:7946", "10.99.0.21;quit:1", "x"]) | json_values,
        "status": st.sampled_from(["alive", "left", "failed", "leaving", "x"]) | json_values,
        "tags": st.dictionaries(
            st.sampled_from(["role", "svc:predictor", "svc:echo", "svc:a b"]) | st.text(max_size=8),
            st.sampled_from(["app", "1.0;8000-8002", "1;9000-9001", "1;8000-8000;quit", "1;0-99999"]) | json_values,
            max_size=4,
        )
        | json_values,
    },
)
odd_lists = st.lists(odd_entries | json_values, max_size=6)


@pytest.mark.long
@given(st.text() | json_values.map(json.dumps) | odd_lists.map(lambda entries: json.dumps({"members": entries})))
def test_parsing_members_raises_nothing_but_unreadable(text):
    try:
        roll = parse_members(text, SERVICES)
    except Unreadable:
        return
    for rejection in roll.rejected:
        assert printable(rejection.member) == rejection.member
        assert printable(rejection.reason) == rejection.reason


COMMAND = re.compile(
    r"(add server (predictor|echo-backend)/[A-Za-z0-9][A-Za-z0-9.-]*-\d+ "
    r"([0-9.]+|\[[0-9a-f:]+\]):\d+ [a-z0-9 -]+"
    r"|enable health (predictor|echo-backend)/[A-Za-z0-9][A-Za-z0-9.-]*-\d+"
    r"|set server (predictor|echo-backend)/[A-Za-z0-9][A-Za-z0-9.-]*-\d+ state (ready|drain|maint))"
)


@pytest.mark.long
@given(odd_lists)
def test_no_unvalidated_text_reaches_a_command_or_the_configuration(entries):
    roll = parse_members(json.dumps({"members": entries}), SERVICES)
    servers, _ = wanted.wanted_servers(wanted.remember({}, roll, 0.0, 60.0), SERVICES)
    for command in haproxy.next_commands(servers, (), SERVICES):
        assert COMMAND.fullmatch(haproxy.command_line(command))
    static = "# fiefdom:servers predictor\n# fiefdom:servers echo\n"
    for line in haproxy.render(static, servers, SERVICES).splitlines():
        assert line.startswith("# ") or re.fullmatch(r"    server [A-Za-z0-9.-]+ \S+ [a-z0-9 -]+", line)


# --- Belief

INVENTORY = Inventory(
    ipaddress.IPv4Network("10.99.0.0/24"),
    False,
    {
        "gw1": Host("10.99.0.11", frozenset()),
        "app1": Host("10.99.0.21", frozenset(["predictor"])),
        "app2": Host("10.99.0.22", frozenset(["predictor", "echo"])),
    },
)
KNOWN_ONLY = dataclasses.replace(INVENTORY, known_hosts_only=True)


def judged(*members: Member, inventory: Inventory = INVENTORY) -> tuple[list[str], list[str]]:
    """Return whose claims are believed, and what is said of the others."""
    roll = believe(Roll(members), inventory, SERVICES)
    return [found.name for found in roll.members], [f"{r.member} {r.reason}" for r in roll.rejected]


def test_known_hosts_at_their_addresses_are_believed():
    members = member(), member("app2", "10.99.0.22", "leaving"), member("gw1", "10.99.0.11", role="gateway")
    for inventory in (INVENTORY, KNOWN_ONLY):
        assert believe(Roll(members), inventory, SERVICES) == Roll(members)


def test_a_host_that_is_new_in_the_network_is_believed_unless_only_known_ones_are():
    new = member("app3", "10.99.0.23")
    assert judged(new) == (["app3"], [])
    assert judged(new, inventory=KNOWN_ONLY) == ([], ["app3 at 10.99.0.23 is no host of the inventory"])


@pytest.mark.parametrize("role", ["app", "gateway", ""])
@pytest.mark.parametrize(
    ("name", "address", "reason"),
    [
        ("app1", "10.99.0.66", "claims the name at 10.99.0.66, the inventory has it at 10.99.0.21"),
        ("app1", "10.99.0.22", "claims the name at 10.99.0.22, the inventory has it at 10.99.0.21"),
        ("App1", "10.99.0.66", "at 10.99.0.66 has a name too much like a host's of the inventory"),
        ("evil", "10.99.0.21", "claims 10.99.0.21, which the inventory has as the address of app1"),
        ("evil", "10.99.0.11", "claims 10.99.0.11, which the inventory has as the address of gw1"),
        ("evil", "10.98.0.66", "claims 10.98.0.66, outside 10.99.0.0/24"),
        ("evil", "fd00::66", "claims fd00::66, outside 10.99.0.0/24"),
    ],
)
def test_who_cannot_be_who_it_says_is_not_believed(name, address, reason, role):
    there = [member(n, host.address, role="") for n, host in INVENTORY.hosts.items() if n != name]
    assert judged(member(name, address, role=role), *there) == ([m.name for m in there], [f"{name} {reason}"])


@pytest.mark.parametrize("before", [[], [member(status="left")], [member(status="failed")]])
def test_a_host_that_was_renamed_is_believed_once_the_old_name_is_gone(before):
    renamed = member("app9", "10.99.0.21")
    assert judged(*before, renamed) == ([m.name for m in (*before, renamed)], [])
    for there in ("alive", "leaving"):
        says = "app9 claims 10.99.0.21, which the inventory has as the address of app1"
        assert judged(member(status=there), renamed) == (["app1"], [says])
    # Of a name that is not at home nothing follows for its address.
    assert judged(member("app1", "10.99.0.66"), renamed)[0] == ["app9"]
    assert judged(renamed, inventory=KNOWN_ONLY)[0] == []


def test_under_another_name_a_host_is_believed_no_other_services():
    offers = tuple(Offer(name, "1", port, port) for name, port in (("echo", 9000), ("predictor", 8000)))
    roll = believe(Roll((Member("app9", "10.99.0.21", "alive", "app", offers),)), INVENTORY, SERVICES)
    assert roll.members[0].offers == offers[1:]
    roll = believe(Roll((Member("evil", "10.99.0.11", "alive", "app", offers),)), INVENTORY, SERVICES)
    assert roll.members[0].offers == ()


@pytest.mark.parametrize("status", ["left", "failed"])
def test_who_is_gone_is_neither_believed_nor_complained_about(status):
    assert judged(member(), member("old", "10.99.0.21", status)) == (["app1"], [])


def test_a_known_host_is_believed_the_services_that_it_is_to_run():
    offers = tuple(Offer(name, "1", port, port) for name, port in (("echo", 9000), ("predictor", 8000)))
    for name, address, believed in (("app1", "10.99.0.21", offers[1:]), ("app2", "10.99.0.22", offers)):
        roll = believe(Roll((Member(name, address, "alive", "app", offers),)), INVENTORY, SERVICES)
        assert roll.members[0].offers == believed
    gateway = Member("gw1", "10.99.0.11", "alive", "app", offers[1:])
    assert believe(Roll((gateway,)), INVENTORY, SERVICES).members[0].offers == ()
    says = "offers predictor, which the inventory does not let it run"
    assert believe(Roll((gateway,)), INVENTORY, SERVICES).rejected == (Rejection("gw1", says),)


@pytest.mark.parametrize(
    ("offered", "believed"),
    [((8000, 8000), (8000, 8000)), ((8000, 8001), (8000, 8001)), ((8000, 8003), (8000, 8001)), ((8002, 8003), None)],
)
def test_a_known_host_is_believed_as_many_ports_as_it_is_to_have(offered, believed):
    """Fewer as well: the gateways are told before the host changes, and must not lose what it keeps."""
    app1 = dataclasses.replace(INVENTORY.hosts["app1"], last_ports={"predictor": 8001})
    inventory = dataclasses.replace(KNOWN_ONLY, hosts={**INVENTORY.hosts, "app1": app1})
    says = f"offers predictor on ports up to {offered[1]}, the inventory has it up to 8001"
    roll = believe(
        Roll((Member("app1", app1.address, "alive", "app", (Offer("predictor", "1", *offered),)),)), inventory, SERVICES
    )
    assert roll.members[0].offers == ((Offer("predictor", "1", *believed),) if believed else ())
    assert roll.rejected == ((Rejection("app1", says),) if offered[1] > 8001 else ())


@pytest.mark.parametrize(
    ("first_port", "last_port", "reason"),
    [
        (22, 22, "offers predictor on ports 22-22, outside 8000-8099"),
        (8000, 8100, "offers predictor on ports 8000-8100, outside 8000-8099"),
        (8100, 8100, "offers predictor on ports 8100-8100, outside 8000-8099"),
    ],
)
def test_ports_that_are_not_the_services_are_refused_and_the_rest_believed(first_port, last_port, reason):
    offers = (Offer("echo", "2", 9000, 9001), Offer("predictor", "1", first_port, last_port))
    for name, address in (("app2", "10.99.0.22"), ("new", "10.99.0.50")):
        roll = believe(Roll((Member(name, address, "alive", "app", offers),)), INVENTORY, SERVICES)
        assert roll.rejected == (Rejection(name, reason),)
        assert roll.members[0].offers == offers[:1]


def test_a_service_may_have_its_ports_up_to_the_last():
    new = Member("new", "10.99.0.50", "alive", "app", (Offer("predictor", "1", 8098, 8099),))
    assert believe(Roll((new,)), INVENTORY, SERVICES) == Roll((new,))


def one_fewer(**changes):
    """Return an inventory in which app1 is another."""
    app1 = dataclasses.replace(INVENTORY.hosts["app1"], **changes)
    return dataclasses.replace(INVENTORY, hosts={**INVENTORY.hosts, "app1": app1})


OTHER_PORTS = {**SERVICES, "predictor": dataclasses.replace(PREDICTOR, base_port=8500)}


@pytest.mark.parametrize(
    ("inventory", "services"),
    [
        (one_fewer(last_ports={"predictor": 8001}), SERVICES),
        (one_fewer(services=frozenset()), SERVICES),
        (one_fewer(last_ports={"predictor": 8503}), OTHER_PORTS),
    ],
    ids=["fewer instances", "without the service", "other ports"],
)
def test_what_a_host_offered_before_a_change_is_believed_until_it_offers_something_else(inventory, services):
    """The gateways are told before the hosts change, one after the other: none may lose what serves until then."""
    (app1,) = members = (Member("app1", "10.99.0.21", "alive", "app", (Offer("predictor", "1", 8000, 8003),)),)
    memory = wanted.still_believed(known(app1), inventory, services)
    assert memory == known(app1)
    assert believe(Roll(members), inventory, services, members) == Roll(members)
    # After a restart of the gateway, too.
    recalled = wanted.load_memory(wanted.dump_memory(memory), services)
    assert wanted.still_believed(recalled, inventory, services) == memory

    for other in (Offer("predictor", "1", 8000, 8004), Offer("predictor", "2", 8000, 8003)):
        claims = dataclasses.replace(app1, offers=(other,))
        assert believe(Roll((claims,)), inventory, services, members).rejected
    assert believe(Roll(members), inventory, services).rejected
    # Nor is anybody else believed for it.
    there = dataclasses.replace(app1, name="app2", address="10.99.0.22", offers=(Offer("predictor", "1", 7000, 7003),))
    assert believe(Roll((there,)), inventory, services, members).rejected


def test_a_host_that_is_not_itself_any_more_loses_what_it_offered_before():
    new = member("app3", "10.99.0.23")
    assert believe(Roll((new,)), KNOWN_ONLY, SERVICES, [new]).members == ()
    moved = one_fewer(address="10.99.0.31")
    assert believe(Roll((member(),)), moved, SERVICES, [member()]).members == ()
    assert wanted.still_believed(known(member()), INVENTORY, {"echo": ECHO})["app1"].member.offers == ()


def test_what_serfs_list_was_refused_for_is_still_said():
    refused = Rejection("x", "is listed twice")
    assert believe(Roll((), (refused,)), INVENTORY, SERVICES).rejected == (refused,)


def test_a_member_that_takes_a_known_name_does_not_take_its_servers():
    memory = after({}, member())
    roll = believe(Roll((member(address="10.99.0.66"), member("app2", "10.99.0.22"))), INVENTORY, SERVICES)
    memory = wanted.remember(memory, roll, 1000.0, 120.0)
    assert {known.member.address for known in memory.values()} == {"10.99.0.21", "10.99.0.22"}


def test_memory_follows_an_inventory_that_has_changed():
    memory = known(member(), member("app2", "10.99.0.22"), member("app3", "10.99.0.23"))
    assert wanted.still_believed(memory, INVENTORY, SERVICES) == memory
    moved = {
        **INVENTORY.hosts,
        "app1": Host("10.99.0.31", frozenset(["predictor"])),
        "app2": Host("10.99.0.22", frozenset()),
    }
    changed = dataclasses.replace(KNOWN_ONLY, hosts=moved)
    (kept,) = wanted.still_believed(memory, changed, SERVICES).values()
    assert kept == memory["app2"]


# --- Memory


def known(*members: Member) -> dict[str, Known]:
    return {found.name: Known(found) for found in members}


def after(memory, *members: Member, now_s: float = 1000.0) -> dict[str, Known]:
    return wanted.remember(memory, Roll(members), now_s, 120.0)


@pytest.mark.parametrize("status", ["alive", "leaving", "failed"])
def test_who_is_listed_is_used(status):
    assert after({}, member(status=status)) == known(member(status=status))


def test_who_left_is_forgotten():
    assert after(known(member()), member(status="left")) == {}


def test_who_failed_stays_for_ever():
    memory = known(member(), member("app2", "10.99.0.22"))
    for now_s in (0, 1e3, 1e6):
        memory = after(memory, member(status="failed"), member("app2", "10.99.0.22"), now_s=now_s)
    assert set(memory) == {"app1", "app2"}


def test_who_is_absent_stays_for_the_grace_and_then_goes():
    app2 = member("app2", "10.99.0.22")
    memory = after(known(member(), app2), app2, now_s=1000)
    assert memory["app1"].absent_since == 1000
    assert "app1" in after(memory, app2, now_s=1119)
    assert "app1" not in after(memory, app2, now_s=1120)


def test_who_is_back_is_no_longer_absent():
    app2 = member("app2", "10.99.0.22")
    memory = after(known(member(), app2), app2, now_s=1000)
    assert after(memory, member(), app2, now_s=1050)["app1"].absent_since is None


def test_a_gateway_that_sees_nobody_alive_keeps_everybody_and_counts_from_when_it_sees_again():
    app2 = member("app2", "10.99.0.22")
    memory = known(member(), app2)
    for now_s in (1000, 2000, 3000):
        memory = after(memory, member("gw1", role="gateway"), now_s=now_s)
        assert set(memory) == {"app1", "app2"}
        assert wanted.none_alive(memory)
    assert set(after(memory, app2, now_s=3060)) == {"app1", "app2"}
    assert set(after(memory, app2, now_s=3120)) == {"app2"}


def test_all_failed_at_once_are_kept():
    memory = after(known(member()), member(status="failed"))
    assert set(memory) == {"app1"}
    assert wanted.none_alive(memory)
    assert not wanted.none_alive({})


def test_a_member_that_becomes_a_gateway_serves_no_more():
    assert after(known(member()), member(role="gateway")) == {}


def test_memory_survives_a_restart():
    memory = after(known(member(), member("app2", "fd00::22", status="failed")), member("app2", "fd00::22"))
    assert wanted.load_memory(wanted.dump_memory(memory), SERVICES) == known(member(), member("app2", "fd00::22"))


def test_nobody_is_remembered_who_left_or_serves_nothing():
    memory = known(member(status="left"), member("gw1", role="gateway"), member("app2", "10.99.0.22"))
    assert wanted.load_memory(wanted.dump_memory(memory), SERVICES) == known(member("app2", "10.99.0.22"))


def test_a_broken_memory_is_unreadable():
    with pytest.raises(Unreadable):
        wanted.load_memory("x", SERVICES)


# --- Wanted servers


def servers_of(*members: Member) -> list[tuple[str, str, int, bool]]:
    servers, _ = wanted.wanted_servers(known(*members), SERVICES)
    return [(server.name, server.address, server.port, server.drain) for server in servers]


def test_one_server_per_port():
    assert servers_of(member(first=8000, last=8002)) == [
        ("app1-8000", "10.99.0.21", 8000, False),
        ("app1-8001", "10.99.0.21", 8001, False),
        ("app1-8002", "10.99.0.21", 8002, False),
    ]


def test_a_leaving_member_drains():
    assert servers_of(member(status="leaving", last=8000)) == [("app1-8000", "10.99.0.21", 8000, True)]


def test_a_member_whose_agent_dies_while_it_drains_goes_on_draining():
    says = {"state": "leaving"}
    roll = parse_members(serf(offering("1;8000-8000", status="failed", **says)), SERVICES)
    (found,) = roll.members
    # It claims nothing any more, so that a renamed host gets its address; and it is shown as what Serf has it as.
    assert (found.status, found.drains) == ("failed", True)
    memory = wanted.remember({}, roll, 0.0, 60.0)
    remembered = wanted.load_memory(wanted.dump_memory(memory), SERVICES)
    assert remembered == memory
    for each in (memory, remembered):
        (server,) = wanted.wanted_servers(each, SERVICES)[0]
        assert server.drain
    back = parse_members(serf(offering("1;8000-8000")), SERVICES)
    (server,) = wanted.wanted_servers(wanted.remember(memory, back, 1.0, 60.0), SERVICES)[0]
    assert not server.drain


def test_a_member_that_fails_without_a_word_of_leaving_serves_on():
    roll = parse_members(serf(offering("1;8000-8000", status="failed")), SERVICES)
    assert [s.drain for s in wanted.wanted_servers(wanted.remember({}, roll, 0.0, 60.0), SERVICES)[0]] == [False]


def test_a_renamed_host_is_used_under_its_living_name():
    memory = known(member("old", status="failed", last=8000), member("renamed", last=8001))
    servers, rejected = wanted.wanted_servers(memory, SERVICES)
    assert [server.name for server in servers] == ["renamed-8000", "renamed-8001"]
    assert rejected == (Rejection("old", "offers predictor at 10.99.0.21 on ports that renamed holds for predictor"),)


def test_an_offer_of_a_service_no_longer_routed_is_ignored():
    assert wanted.wanted_servers(known(member()), {"echo": ECHO}) == ((), ())


# --- HAProxy's replies, as recorded from 3.0


def told_servers(servers_state: str, servers_conn: str) -> tuple[Actual, ...]:
    return replies.with_busy(replies.Servers().read(servers_state), servers_conn)


def test_recorded_servers():
    found = told_servers(recorded("show_servers_state"), recorded("show_servers_conn"))

    def server(name, address, port, state, *, up, checked=True, busy=False):
        return Actual("predictor", name, address, port, state, up, checked, busy)

    assert found == (
        server("app1-8000", "10.99.0.21", 8000, State.READY, up=True, busy=True),
        server("app1-8001", "10.99.0.21", 8001, State.READY, up=False),
        server("app2-8010", "10.99.0.22", 8010, State.READY, up=True),
        server("app2-8011", "10.99.0.22", 8011, State.DRAIN, up=True, busy=True),
        server("app3-8000", "10.99.0.23", 8000, State.MAINT, up=False, checked=False),
    )


def test_a_row_that_says_what_it_said_before_is_not_judged_again():
    """Six thousand servers at rest are six thousand rows each time: what grows with them is to be next to nothing."""
    state = recorded("show_servers_state")
    reader = replies.Servers()
    first = reader.read(state)
    assert reader.judged == len(first) > 2
    # Seconds since the last change are another word each time.
    later = re.sub(r"(?m)^(\d+ (?:\S+ ){8})\d+ ", r"\g<1>999 ", state)
    assert later != state
    assert reader.read(later) == first and reader.judged == len(first)
    drained = state.replace("app1-8000 10.99.0.21 2 0 ", "app1-8000 10.99.0.21 2 8 ")
    found = reader.read(drained)
    assert reader.judged == len(first) + 1
    assert [s.state for s in found if s.name == "app1-8000"] == [State.DRAIN]
    conn = recorded("show_servers_conn")
    assert replies.with_busy(first, conn) == told_servers(state, conn)


def test_whether_servers_are_busy_is_asked_of_backends_where_one_is_to_go():
    def at(backend, name, port):
        return Actual(backend, name, "10.99.0.21", port, State.READY, True, True, False)

    def server(service, port, *, drain=False):
        return Server(service, f"app1-{port}", "10.99.0.21", port, drain, "1")

    have = [at("predictor", "app1-8000", 8000), at("echo-backend", "app1-9000", 9000), at("foreign", "x", 1)]
    want = [server("predictor", 8000), server("echo", 9000)]
    leaving = [server("predictor", 8000, drain=True), want[1]]
    assert haproxy.backends_to_wait_for(want, have, SERVICES) == []
    assert haproxy.backends_to_wait_for(want[:1], have, SERVICES) == ["echo-backend"]
    assert haproxy.backends_to_wait_for(leaving, have, SERVICES) == ["predictor"]


def test_the_order_of_serfs_list_is_no_change():
    entries = [listed("app1"), listed("app2", "10.99.0.22:7946")]
    assert same(entries, entries[::-1])
    assert not same(entries, entries[:1]) and not same(entries[:1], entries)
    assert not same(entries, [entries[0], listed("app2", "10.99.0.22:7946", "leaving")])
    assert not same([*entries, entries[0]], [*entries, entries[0]]), "who is listed twice is looked at anew"
    assert not same([*entries, 5], [*entries, 5])


def test_recorded_sessions_and_information():
    stat = recorded("show_stat")
    traffic = replies.traffic(stat)
    assert traffic[("predictor", "app1-8000")].sessions == 1
    assert traffic[("predictor", "app2-8010")].sessions == 0
    assert ("predictor", "BACKEND") in traffic
    assert replies.parse_open(stat) == {key: (found.sessions, found.requests) for key, found in traffic.items()}
    assert replies.takes_connections(stat)
    assert not replies.takes_connections(stat.replace(",OPEN,", ",STOP,"))
    assert replies.parse_info(recorded("show_info"))["Version"] == "3.0.11-1+deb13u5"


@pytest.mark.parametrize(
    ("command", "reply", "refusal"),
    [
        (Add("predictor", "app3-8000", "10.99.0.23", 8000, ""), "add_server", None),
        (Add("predictor", "app3-8000", "10.99.0.23", 8000, ""), "add_server_again", "Already exists a server"),
        (SetState("predictor", "app1-8000", State.DRAIN), "set_server", None),
        (SetState("predictor", "nobody", State.DRAIN), "set_server_refused", "No such server."),
        (Delete("predictor", "app2-8010"), "del_server_refused", "Only servers in maintenance mode"),
    ],
)
def test_recorded_answers_to_commands(command, reply, refusal):
    error = haproxy.command_error(command, recorded(reply))
    assert error == refusal if refusal is None else error.startswith(refusal)


def test_a_server_with_open_connections_only_needs_patience():
    refusal = "Server still has connections attached to it, cannot remove it."
    assert haproxy.must_wait(Delete("predictor", "app1-8000"), refusal)
    assert not haproxy.must_wait(Delete("predictor", "app1-8000"), "Permission denied")


def test_what_is_wrong_with_a_certificate_is_told_below_the_line_that_names_it():
    said = (
        "[NOTICE]   (7) : haproxy version is 3.0.11-1+deb13u4\n"
        "[ALERT]    (7) : config : parsing [/x.cfg:72] : 'bind :443' in section 'frontend' : \n"
        "  'crt-list' : error processing line 2 in '/list.txt' : unable to load certificate from file '/www.pem'.\n"
        "  unable to load SSL private key into SSL Context '/www.pem'.\n"
        "[ALERT]    (7) : config : Error(s) found in configuration file : /x.cfg\n"
        "  and what is below that\n"
    )
    assert replies.config_reasons(said) == (
        "parsing [/x.cfg:72] : 'bind :443' in section 'frontend': 'crt-list' : error processing line 2 in "
        "'/list.txt' : unable to load certificate from file '/www.pem'.: unable to load SSL private key into "
        "SSL Context '/www.pem'."
    )


def test_recorded_reloads():
    assert replies.reload_error(recorded("reload")) is None
    reason = "parsing [/var/lib/fiefdom/gateway/haproxy.cfg:57] : unknown keyword 'bogus' in 'frontend' section"
    assert replies.reload_error(recorded("reload_failed")) == reason
    assert replies.reload_error("") == "no answer"


def test_a_recorded_validation():
    reason = "parsing [/tmp/bad.cfg:52] : unknown keyword 'bogus' in 'frontend' section"
    assert replies.config_reasons(recorded("validate_failed")) == reason


@pytest.mark.parametrize("name", ["x;shutdown", "x\\", "x\t-", "é", "x" * 201])
def test_a_name_that_no_server_has_never_gets_into_a_command(name):
    reply = recorded("show_servers_state").replace("app1-8000", name)
    with pytest.raises(Unreadable, match="a name that no server can have"):
        told_servers(reply, recorded("show_servers_conn"))


@given(st.text(), st.text())
def test_replies_raise_nothing_but_unreadable(state, connections):
    for parse in (
        lambda: told_servers(state, connections),
        lambda: told_servers(recorded("show_servers_state") + state, recorded("show_servers_conn")),
        lambda: replies.traffic(state),
        lambda: replies.traffic("# pxname,svname,\n" + state),
        lambda: replies.traffic(recorded("show_stat") + state),
        lambda: replies.parse_open(recorded("show_stat") + state),
        lambda: replies.takes_connections(recorded("show_stat") + state),
        lambda: list(replies.parse_states(recorded("show_servers_state") + state)),
    ):
        with suppress(Unreadable):
            parse()
    replies.parse_info(state)
    replies.parse_workers(state)
    replies.reload_error(state)


# --- Commands


def server(port=8000, *, drain=False, address="10.99.0.21", name=None) -> Server:
    return Server("predictor", name or f"app1-{port}", address, port, drain, "1.0.0")


def actual(port=8000, state=State.READY, *, address="10.99.0.21", up=True, checked=True, busy=False) -> Actual:
    return Actual("predictor", f"app1-{port}", address, port, state, up, checked, busy)


def lines(wanted_servers_, actual_servers) -> list[str]:
    return [haproxy.command_line(c) for c in haproxy.next_commands(wanted_servers_, actual_servers, SERVICES)]


def test_a_new_server_is_added_checked_and_enabled():
    assert lines([server()], []) == [
        f"add server predictor/app1-8000 10.99.0.21:8000 {OPTIONS}",
        "enable health predictor/app1-8000",
        "set server predictor/app1-8000 state ready",
    ]


def checked_at(port: int) -> Server:
    return dataclasses.replace(server(), check_port=port)


def test_checks_on_ports_of_their_own_are_what_the_member_offers():
    roll = parse_members(serf(offering("1;8000-8001;9000")), SERVICES)
    memory = wanted.remember({}, roll, 0.0, 60.0)
    servers, _ = wanted.wanted_servers(memory, SERVICES)
    assert [(each.port, each.check_port) for each in servers] == [(8000, 9000), (8001, 9001)]
    assert wanted.load_memory(wanted.dump_memory(memory), SERVICES) == memory
    assert lines(servers, [])[0] == f"add server predictor/app1-8000 10.99.0.21:8000 {OPTIONS} port 9000"
    text = haproxy.render("backend predictor\n    # fiefdom:servers predictor\n", servers, SERVICES)
    assert f"    server app1-8001 10.99.0.21:8001 {OPTIONS} port 9001\n" in text


def test_checks_that_move_are_followed():
    """A host has the other port only once it had its turn, so each server moves on its own."""
    for wanted_server, found, command in (
        (checked_at(9000), actual(), "check-port 9000"),
        (checked_at(9001), dataclasses.replace(actual(), check_port=9000), "check-port 9001"),
        (server(), dataclasses.replace(actual(), check_port=9000), "check-port 8000"),
        (server(), dataclasses.replace(actual(), check_port=8000), None),
        (checked_at(9000), dataclasses.replace(actual(), check_port=9000), None),
    ):
        commands = [] if command is None else [f"set server predictor/app1-8000 {command}"]
        assert lines([wanted_server], [found]) == commands
        assert haproxy.settled([wanted_server], [found], SERVICES) == (command is None)
    done = SetCheckPort("predictor", "app1-8000", 9000)
    assert haproxy.command_error(done, "health check port updated.\n") is None
    assert haproxy.command_error(done, "\n") is None
    assert haproxy.command_error(done, "No such server.\n") == "No such server."


def test_an_ipv6_server_is_bracketed():
    assert lines([server(address="fd00::21")], [])[0].startswith("add server predictor/app1-8000 [fd00::21]:8000 check")


@pytest.mark.parametrize(
    ("wanted_server", "actual_server", "commands"),
    [
        (server(), actual(), []),
        (server(drain=True), actual(), ["set server predictor/app1-8000 state drain"]),
        (server(), actual(state=State.DRAIN), ["set server predictor/app1-8000 state ready"]),
        (server(), actual(state=State.MAINT), ["set server predictor/app1-8000 state ready"]),
        # A crash between `add server` and the rest.
        (
            server(),
            actual(state=State.MAINT, checked=False),
            ["enable health predictor/app1-8000", "set server predictor/app1-8000 state ready"],
        ),
        # It moved: the old one must go before the new one of the same name can come.
        (server(), actual(address="10.99.0.99"), ["set server predictor/app1-8000 state drain"]),
        (None, actual(), ["set server predictor/app1-8000 state drain"]),
        (None, actual(state=State.DRAIN, busy=True), []),
        (
            None,
            actual(state=State.DRAIN),
            ["set server predictor/app1-8000 state maint", "del server predictor/app1-8000"],
        ),
        (None, actual(state=State.MAINT, busy=True), []),
        (None, actual(state=State.MAINT), ["del server predictor/app1-8000"]),
    ],
)
def test_the_next_step(wanted_server, actual_server, commands):
    assert lines([wanted_server] if wanted_server else [], [actual_server]) == commands


def test_a_weight_is_followed_and_is_there_from_a_servers_beginning():
    heavy = dataclasses.replace(server(), weight=85)
    assert lines([heavy], [actual()]) == ["set weight predictor/app1-8000 85"]
    assert not haproxy.settled([heavy], [actual()], SERVICES)
    assert lines([heavy], [dataclasses.replace(actual(), weight=85)]) == []
    assert lines([server()], [dataclasses.replace(actual(), weight=85)]) == ["set weight predictor/app1-8000 1"]
    assert lines([heavy], [])[0].endswith(f"{OPTIONS} weight 85")
    text = haproxy.render("backend predictor\n    # fiefdom:servers predictor\n", [heavy], SERVICES)
    assert f"    server app1-8000 10.99.0.21:8000 {OPTIONS} weight 85\n" in text


@pytest.mark.parametrize(
    ("wanted_server", "actual_server", "commands"),
    [
        (server(), actual(), []),
        (server(drain=True), actual(), ["set server predictor/app1-8000 state maint"]),
        (server(drain=True), actual(state=State.MAINT, up=False), []),
        # The service was not sticky yet when it began to drain.
        (server(drain=True), actual(state=State.DRAIN), ["set server predictor/app1-8000 state maint"]),
        (None, actual(state=State.DRAIN, busy=True), ["set server predictor/app1-8000 state maint"]),
        (server(), actual(state=State.MAINT, up=False), ["set server predictor/app1-8000 state ready"]),
        (None, actual(), ["set server predictor/app1-8000 state maint"]),
        (None, actual(state=State.MAINT, busy=True), []),
        (None, actual(state=State.MAINT), ["del server predictor/app1-8000"]),
    ],
)
def test_where_a_cookie_leads_to_a_server_draining_would_not_keep_clients_away(wanted_server, actual_server, commands):
    sticky = {**SERVICES, "predictor": dataclasses.replace(PREDICTOR, sticky=True)}
    servers = [wanted_server] if wanted_server else []
    assert [haproxy.command_line(c) for c in haproxy.next_commands(servers, [actual_server], sticky)] == commands
    assert haproxy.settled(servers, [actual_server], sticky) == (not commands and bool(servers))
    gone = haproxy.stragglers(servers, [dataclasses.replace(actual_server, state=State.READY)], sticky)
    assert all(command.state is State.MAINT for command in gone)


def test_a_backend_that_is_not_ours_is_left_alone():
    foreign = Actual("somebody-elses", "s1", "10.0.0.1", 80, State.READY, True, True, False)
    assert haproxy.next_commands([], [foreign], SERVICES) == ()
    assert haproxy.settled([], [foreign], SERVICES)


class ModelHAProxy:
    """HAProxy's own rules about servers: what a command changes, and when it refuses."""

    def __init__(self, servers):
        self.servers = {(s.backend, s.name): s for s in servers}

    def do(self, command):
        key = (command.backend, command.name)
        match command:
            case Add():
                assert key not in self.servers
                own = re.search(r" port (\d+)$", command.options)
                there = Actual(*key, command.address, command.port, State.MAINT, False, False, False)
                self.servers[key] = dataclasses.replace(there, check_port=int(own[1]) if own else 0)
            case SetCheckPort():
                self._change(key, check_port=command.port)
            case haproxy.SetWeight():
                self._change(key, weight=command.weight)
            case EnableHealth():
                self._change(key, checked=True)
            case SetState():
                self._change(key, state=command.state)
            case Delete():
                assert self.servers[key].state is State.MAINT
                assert not self.servers[key].busy
                del self.servers[key]

    def _change(self, key, **changes):
        self.servers[key] = Actual(**{**vars(self.servers[key]), **changes})

    def finish_requests(self):
        for key in self.servers:
            self._change(key, busy=False)


members_strategy = st.lists(
    st.builds(
        member,
        name=st.sampled_from(["app1", "app2", "app3", "gw1"]),
        address=st.sampled_from(["10.99.0.21", "10.99.0.22", "10.99.0.23"]),
        status=st.sampled_from(["alive", "leaving", "left", "failed"]),
        role=st.sampled_from(["app", "app", "app", "gateway"]),
        first=st.integers(8000, 8002),
        last=st.integers(8001, 8004),
    ),
    unique_by=lambda found: found.name,
    max_size=4,
).map(lambda members: tuple(sorted(members)))
actual_strategy = st.lists(
    st.builds(
        Actual,
        backend=st.sampled_from(["predictor", "echo-backend", "foreign"]),
        name=st.builds("{}-{}".format, st.sampled_from(["app1", "app2", "x"]), st.integers(8000, 8003)),
        address=st.sampled_from(["10.99.0.21", "10.99.0.22"]),
        port=st.integers(8000, 8003),
        state=st.sampled_from(list(State)),
        up=st.booleans(),
        checked=st.booleans(),
        busy=st.booleans(),
        check_port=st.sampled_from([0, 8000, 9000]),
        weight=st.sampled_from([1, 256]),
    ),
    unique_by=lambda found: (found.backend, found.name),
    max_size=8,
)


@pytest.mark.long
@given(st.lists(members_strategy, min_size=1, max_size=3), actual_strategy)
def test_applying_the_difference_yields_exactly_the_wanted_servers(rolls, actual_servers):
    memory = {}
    model = ModelHAProxy(actual_servers)
    foreign = {key: found for key, found in model.servers.items() if found.backend == "foreign"}
    for now_s, members in enumerate(rolls):
        memory = wanted.remember(memory, Roll(members), float(now_s), 120.0)
        servers, _ = wanted.wanted_servers(memory, SERVICES)
        assert (
            len({(s.service, s.name) for s in servers}) == len({(s.address, s.port) for s in servers}) == len(servers)
        )
        for command in haproxy.next_commands(servers, model.servers.values(), SERVICES):
            model.do(command)
    model.finish_requests()
    for _ in range(3):
        for command in haproxy.next_commands(servers, model.servers.values(), SERVICES):
            model.do(command)
    assert haproxy.next_commands(servers, model.servers.values(), SERVICES) == ()
    assert haproxy.settled(servers, model.servers.values(), SERVICES)
    ours = {key: found for key, found in model.servers.items() if key not in foreign}
    assert {(key[1], s.address, s.port, s.state, s.checked) for key, s in ours.items()} == {
        (s.name, s.address, s.port, State.DRAIN if s.drain else State.READY, True) for s in servers
    }
    model.finish_requests()
    assert {key: model.servers[key].state for key in foreign} == {key: found.state for key, found in foreign.items()}


# --- Configuration


STATIC = "frontend f\n    bind :80\n\nbackend predictor\n    # fiefdom:servers predictor\n\nbackend echo-backend\n"


@given(members_strategy, actual_strategy)
def test_settled_is_as_sets_of_servers_would_tell(found_members, actual_servers):
    servers, _ = wanted.wanted_servers(wanted.remember({}, Roll(found_members), 0.0, 120.0), SERVICES)
    for there in (
        actual_servers,
        as_wanted(servers),
        as_wanted(servers)[1:],
        [*as_wanted(servers), *actual_servers[:1]],
    ):
        have = {
            (s.backend, s.name, s.address, s.port, s.check_port or s.port, s.weight, s.state)
            for s in there
            if s.backend in ("predictor", "echo-backend")
        }
        want = {
            (of.backend, s.name, s.address, s.port, s.check_port or s.port, s.weight, state)
            for s in servers
            for of, state in [(SERVICES[s.service], State.DRAIN if s.drain else State.READY)]
        }
        if len({row[:2] for row in have}) == len(have):  # HAProxy has a name once
            assert haproxy.settled(servers, there, SERVICES) is (have == want)


def as_wanted(servers):
    return [
        Actual(
            SERVICES[s.service].backend,
            *(s.name, s.address, s.port, State.DRAIN if s.drain else State.READY),
            *(True, True, False, s.check_port, s.weight),
        )
        for s in servers
    ]


def test_servers_stand_below_their_marker():
    text = haproxy.render(STATIC, [server(8000), server(8001, drain=True)], SERVICES)
    assert text == (
        "frontend f\n    bind :80\n\nbackend predictor\n    # fiefdom:servers predictor\n"
        f"    server app1-8000 10.99.0.21:8000 {OPTIONS}\n\nbackend echo-backend\n"
        f"# Written by the gateway's reconciler from the static part with sha256 {haproxy.digest(STATIC)}\n"
    )


def test_a_service_without_a_marker_is_named():
    assert haproxy.unplaced(STATIC, SERVICES) == ("echo",)


# --- Static parts that are not taken up

FRONTEND = "frontend f\n    bind :80\n\nbackend predictor\n    # fiefdom:servers predictor\n"
BETTER = FRONTEND + "    retries 5\n"
WORSE = FRONTEND + "    bogus\n"


class Gateway:
    """A reconciler, with an HAProxy that refuses what is bogus and otherwise does as the test says."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.validated: list[str] = []
        self.reloads = 0
        self.renewals: list[str] = []
        self.keeps_certificates = False
        self.port_taken = self.disk_full = self.slow = self.answers = self.mended = False
        self.members: list[dict] | None = None
        self.haproxy = None
        self.given, self.state_dir = folder / "haproxy.cfg", folder / "state"
        self.settings_file = folder / "reconciler.json"
        self.place(FRONTEND)
        self.configure()
        sockets = edges.Sockets(self.state_dir / "run" / "own")
        sockets.folder.mkdir(parents=True)
        self.settings = parse_settings(self.settings_file.read_text())
        self.reconciler = reconcile.Reconciler(self.settings, self.settings_file, sockets)
        for name, edge in (("validate", self.validate), ("ask_haproxy", self.ask), ("run", self.serf)):
            monkeypatch.setattr(edges, name, edge)
        write = edges.write_atomically
        monkeypatch.setattr(edges, "write_atomically", lambda path, text: self.write(write, path, text))
        monkeypatch.setattr(refusal, "FIRST_PAUSE_S", 0.2)

    def place(self, static: str) -> None:
        self.given.write_text(static)

    def configure(self, **changes: object) -> None:
        paths = {"haproxy_config": str(self.given), "state_dir": str(self.state_dir), "interval_s": 0.03}
        self.settings_file.write_text(json.dumps({**SETTINGS, **paths, **changes}))

    async def validate(self, path: Path) -> None:
        text = path.read_text()
        self.validated.append(text)
        if self.slow and "retries" in text:
            raise edges.Failed("haproxy -dW took more than 30 s")
        if "bogus" in text and not self.mended:
            raise edges.Refused("unknown keyword 'bogus'")

    async def ask(self, command: str, _socket: Path, _timeout_s: float = 5.0) -> str:
        if self.haproxy is not None:
            return self.haproxy(command)
        if command.startswith(("set ssl cert", "commit ssl cert", "abort ssl cert")):
            self.renewals.append(command)
            return "" if self.keeps_certificates else "Transaction created\nSuccess!\n"
        if command != "reload":
            if not self.answers:
                raise edges.Failed("is not what this is about")
            name = "_".join(command.split()[:3])
            return recorded(name) if command.startswith("show servers ") else ""
        self.reloads += 1
        return "Success=0\n[ALERT] (1) : cannot bind socket\n" if self.port_taken else "Success=1\n"

    async def serf(self, argv: list[str], *_: object) -> str:
        if self.members is None or argv != ["serf", "members", "-format", "json"]:
            raise edges.Failed("is not what this is about")
        return serf(*self.members)

    def write(self, write, path: Path, text: str) -> None:
        if self.disk_full:
            raise edges.Failed(f"{path} cannot be written: No space left on device")
        write(path, text)

    @property
    def config(self) -> dict[str, object]:
        return status.config_part(self.reconciler.look, time.monotonic())

    def runs(self, static: str) -> bool:
        return self.config["ok"] and self.config["digest"] == haproxy.digest(static)

    def last_good(self) -> str:
        text = (self.state_dir / "haproxy.cfg").read_text()
        return text.partition("# Written by")[0]

    def word(self) -> str | None:
        path = self.state_dir / "refused"
        return path.read_text() if path.exists() else None


@pytest.fixture
def played(state_dir, monkeypatch):
    """Play a scene with a gateway whose reconciler runs."""

    def play(scene) -> None:
        async def whole() -> None:
            gateway = Gateway(state_dir, monkeypatch)
            await gateway.reconciler.prepare()
            running = asyncio.create_task(gateway.reconciler.run())
            await until(lambda: gateway.runs(FRONTEND))
            await scene(gateway)
            running.cancel()

        asyncio.run(whole())

    return play


def test_what_haproxy_itself_refuses_is_not_tried_again_until_the_text_changes(played):
    async def scene(gateway):
        gateway.place(WORSE)
        await until(lambda: not gateway.config["ok"])
        assert gateway.config == {
            "ok": False,
            "error": f"{gateway.given} was refused, the last good one stays: unknown keyword 'bogus'",
            "digest": haproxy.digest(FRONTEND),
            "refused": haproxy.digest(WORSE),
            "retry_in_s": None,
        }
        await asyncio.sleep(0.5)
        assert sum("bogus" in text for text in gateway.validated) == 1
        assert gateway.reloads == 0
        assert gateway.word() == f"{haproxy.digest(WORSE)} unknown keyword 'bogus'\n"
        gateway.place(BETTER)
        await until(lambda: gateway.runs(BETTER) and gateway.word() is None)
        assert gateway.config["refused"] is None

    played(scene)


@pytest.mark.parametrize(
    "names",
    [
        "bind 127.0.0.1:0 ssl crt-list /certificates/list.txt alpn h2,http/1.1",
        'http-request return status 503 content-type "text/html; charset=utf-8" file /answers/web.html if TRUE',
    ],
)
def test_what_is_refused_for_a_file_that_it_names_is_taken_up_when_that_is_mended(played, names):
    more = f"{FRONTEND}    # bogus, until the file is mended\n    {names}\n"

    async def scene(gateway):
        gateway.place(more)
        await until(lambda: not gateway.config["ok"])
        assert gateway.config["refused"] == haproxy.digest(more)
        assert gateway.config["retry_in_s"] is not None
        gateway.mended = True
        await until(lambda: gateway.runs(more) and gateway.word() is None)

    played(scene)


def test_servers_follow_the_members_that_the_inventory_of_now_bears_out(played):
    async def scene(gateway):
        def servers() -> list[str]:
            return [server.name for server in gateway.reconciler.look.wanted]

        def look() -> reconcile.Look:
            return gateway.reconciler.look

        assert (look().looked, look().reconciled_at_s, servers()) == (False, None, [])
        gateway.members = [offering("1;8000-8001"), offering("1;8000-8000", name="evil")]
        await until(lambda: look().looked is True)
        assert servers() == ["app1-8000", "app1-8001"]
        assert {rejection.member for rejection in look().rejected} == {"evil"}
        # What HAProxy has is known from when it answers, and is not of now while Serf is silent.
        assert look().reconciled_at_s is None
        gateway.answers = True
        await until(lambda: look().reconciled_at_s is not None)
        said, gateway.members = gateway.members, None
        await until(lambda: look().serf_error is not None)
        assert servers() == ["app1-8000", "app1-8001"]
        # The inventory has it no more, whatever it goes on saying.
        gateway.configure(hosts={"gw1": SETTINGS["hosts"]["gw1"]}, known_hosts_only=True)
        await until(lambda: servers() == [])
        gateway.members = said
        await until(lambda: look().serf_error is None)
        assert servers() == []
        assert {rejection.member for rejection in look().rejected} == {"app1", "evil"}

    played(scene)


PACKED = f"H0{packed.code('predictor')}{packed.code('2')}AC"
ONE = offering("1;8000-8000")


def _settings_without_hosts(gateway):
    gateway.configure(hosts={"gw1": SETTINGS["hosts"]["gw1"]}, known_hosts_only=True)


def _options(gateway):
    service = {**SETTINGS["services"][0], "server_options": "check", "sticky": True}
    gateway.configure(services=[service])


def _share(gateway):
    kept.put(shares.file_of(gateway.state_dir), "predictor", "predictor 1 50")


# What a look is about, each changed alone while all else is at rest.
CHANGES = {
    "who comes": lambda g: g.members.append({**offering("1;8000-8000", name="app2"), "addr": "10.99.0.22:7946"}),
    "who leaves": lambda g: g.members[0].update(status="left"),
    "who drains": lambda g: g.members[0]["tags"].update(state="leaving"),
    "what is offered": lambda g: g.members[0]["tags"].update({"svc:predictor": "1;8000-8001"}),
    "a version": lambda g: g.members[0]["tags"].update({"svc:predictor": "2;8000-8000"}),
    "an address": lambda g: g.members[0].update(addr="10.99.0.29:7946"),
    "the inventory": _settings_without_hosts,
    "a service's options": _options,
    "a share": _share,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_look_that_finds_all_as_before_misses_no_change(played, change):
    async def scene(gateway):
        reconciler = gateway.reconciler

        def seen() -> object:
            look = reconciler.look
            return look.wanted, look.services, look.asked_shares, look.rejected

        gateway.members = [json.loads(json.dumps(ONE)), listed("gw1", "10.99.0.11:7946", role="gateway")]
        await until(lambda: [server.name for server in reconciler.look.wanted] == ["app1-8000"])
        rounds = reconciler.rounds.count
        await until(lambda: reconciler.rounds.count > rounds + 2)
        before = seen()
        CHANGES[change](gateway)
        await until(lambda: seen() != before)

    played(scene)


def test_a_look_reads_the_shares_once_whatever_it_finds(played, monkeypatch):
    calls: list[str] = []

    def counted(module, name):
        call = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *arguments: (calls.append(name), call(*arguments))[1])

    async def scene(gateway):
        def wanted_() -> list[str]:
            return [server.name for server in gateway.reconciler.look.wanted]

        counted(shares, "asked_for")
        counted(edges, "run")
        for port in range(8000, 8005):
            gateway.members = [offering(f"1;{port}-{port}")]
            await until(lambda: wanted_() == [f"app1-{port}"])  # noqa: B023
        gateway.members = None
        await until(lambda: gateway.reconciler.look.serf_error is not None)
        # Each look asks Serf once.
        assert calls.count("asked_for") - calls.count("run") in (0, 1), calls

    played(scene)


def test_a_host_that_is_gone_from_the_list_loses_its_servers_when_its_time_is_up_though_nothing_else_happens(played):
    async def scene(gateway):
        def servers() -> list[str]:
            return [server.name for server in gateway.reconciler.look.wanted]

        gateway.configure(absent_grace_s=0.3)
        other = {**offering("1;8000-8000", name="app2"), "addr": "10.99.0.22:7946"}
        gateway.members = [ONE, other]
        await until(lambda: servers() == ["app1-8000", "app2-8000"])
        gateway.members = [other]
        await until(lambda: servers() == ["app2-8000"])
        gateway.members = [ONE, other]
        await until(lambda: servers() == ["app1-8000", "app2-8000"])

    played(scene)


def test_a_version_that_is_heard_twice_before_a_look_gets_its_name(played):
    async def scene(gateway):
        gateway.members = [listed(o=PACKED)]
        await until(lambda: [s.version for s in gateway.reconciler.look.wanted] == [f"~{packed.code('2')}"])
        for _ in range(2):
            gateway.reconciler.hear("app1", "predictor", "2")
        await until(lambda: [s.version for s in gateway.reconciler.look.wanted] == ["2"])

    played(scene)


def test_what_is_remembered_is_written_again_when_the_disk_has_room_or_another_container_wrote_it(played):
    async def scene(gateway):
        file = gateway.state_dir / "members.json"
        gateway.disk_full = True
        gateway.members = [ONE]
        await until(lambda: len(gateway.reconciler.look.wanted) == 1)
        rounds = gateway.reconciler.rounds.count
        await until(lambda: gateway.reconciler.rounds.count > rounds + 2)
        gateway.disk_full = False
        await until(lambda: file.exists() and "app1" in file.read_text())
        await gateway.reconciler.stand_still()
        file.write_text('{"members": []}')
        gateway.reconciler.go_on()
        await until(lambda: "app1" in file.read_text())

    played(scene)


def test_what_is_on_its_way_to_the_disk_ends_with_the_rounds(played):
    """Another container may write there from then on."""

    async def scene(gateway):
        ended: list[str] = []

        async def validate(_path: Path) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("validation")

        edges.validate = validate
        running = asyncio.create_task(gateway.reconciler.run())
        gateway.members = [ONE]
        await until(
            lambda: gateway.reconciler._last_good._keeping and not gateway.reconciler._last_good._keeping.done()
        )
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert ended == ["validation"]

    played(scene)


def test_a_replaced_worker_that_is_told_in_vain_keeps_nothing_from_the_last_good_configuration(played, monkeypatch):
    monkeypatch.setattr(reconcile, "CALM_S", 0.1)

    async def scene(gateway):
        told: list[str] = []
        said: set[str] = set()

        def haproxy(command: str) -> str:
            if command == "show proc":
                return "# workers\n11 worker 1 0d 3.0\n# old workers\n10 worker 2 0d 3.0\n"
            if command.startswith("@!10 set server "):
                told.append(command)
                return "Proxy is disabled.\n"
            if "show servers state" in command:
                if command.startswith("@!10 "):
                    return STATES + "predictor app9-8000 10.99.0.29 2 0 1 6 8000 0\n"
                return STATES + f"predictor app1-8000 10.99.0.21 2 {8 if said else 0} 1 6 8000 0\n"
            if command == "set server predictor/app1-8000 state drain":
                said.add("drain")
                return ""
            return "# bkname/svname used_cur\n"

        gateway.haproxy = haproxy
        gateway.members = [ONE]
        await until(lambda: "server app1-8000 " in (gateway.state_dir / "haproxy.cfg").read_text())
        gateway.members = [{**ONE, "tags": {**ONE["tags"], "state": "leaving"}}]
        await until(lambda: "server app1-8000 " not in (gateway.state_dir / "haproxy.cfg").read_text())
        assert len(told) > 1

    played(scene)


def test_a_service_that_haproxy_does_not_have_yet_hides_nothing_of_the_others(played):
    """Its static part was refused, or is on its way."""

    async def scene(gateway):
        there: dict[str, str] = {}

        def haproxy(command: str) -> str:
            words = command.split()
            if words[:2] == ["add", "server"]:
                if words[2].startswith("new/"):
                    return "No such backend.\n"
                there[words[2]] = words[3]
                return "New server registered.\n"
            if words[:3] == ["show", "servers", "state"]:
                if words[3:] == ["new"]:
                    return "Can't find backend.\n"
                return STATES + "".join(
                    f"{place.replace('/', ' ')} {end.partition(':')[0]} 2 0 1 6 {end.partition(':')[2]} 0\n"
                    for place, end in there.items()
                )
            return "# bkname/svname used_cur\n" if words[:3] == ["show", "servers", "conn"] else ""

        gateway.haproxy = haproxy
        new = {**SETTINGS["services"][0], "name": "new", "backend": "new", "base_port": 9000}
        hosts = {**SETTINGS["hosts"], "app1": {"address": "10.99.0.21", "services": ["predictor", "new"]}}
        gateway.configure(services=[SETTINGS["services"][0], new], hosts=hosts)
        gateway.members = [offering("1;8000-8000", **{"svc:new": "1;9000-9000"})]
        await until(lambda: gateway.reconciler.look.ready and gateway.reconciler.look.reconciled_at_s is not None)
        await until(lambda: [server.name for server in gateway.reconciler.look.actual] == ["app1-8000"])

    played(scene)


STATES = (
    "1\n# be_name srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_check_state srv_port srv_check_port\n"
)


def weighing(gateway: Gateway, deaf: set[str]) -> dict[str, int]:
    """Have a gateway's HAProxy do as it is told of weights, unless it is `deaf`; what its servers weigh."""
    weights = {"app1-8000": 1, "app1-8001": 1, "app2-8000": 1}

    def haproxy(command: str) -> str:
        if command == "show servers conn":
            return "# bkname/svname used_cur\n"
        if command == "show servers state":
            addresses = {"app1": "10.99.0.21", "app2": "10.99.0.22"}
            return STATES + "".join(
                f"predictor {name} {addresses[name[:4]]} 2 0 {weight} 6 {name[5:]} 0\n"
                for name, weight in weights.items()
            )
        if command.startswith("set weight ") and not deaf:
            weights[command.split()[2].partition("/")[2]] = int(command.split()[3])
        return ""

    gateway.haproxy = haproxy
    return weights


@pytest.mark.parametrize("silent", [False, True])
def test_a_share_is_told_once_haproxy_has_it_and_waits_for_no_serf(played, silent):
    async def scene(gateway):
        def told() -> object:
            return gateway.reconciler.look.shares

        path = shares.file_of(gateway.state_dir)
        weights = weighing(gateway, deaf := set())
        assert told() is None, "HAProxy has told nothing yet"
        gateway.members = [offering("1;8000-8001"), {**offering("2;8000-8000", name="app2"), "addr": "10.99.0.22:7946"}]
        await until(lambda: len(gateway.reconciler.look.wanted) == 3 and told() == ())
        if silent:
            gateway.members = None
            await until(lambda: gateway.reconciler.look.serf_error is not None)
        deaf.add("HAProxy")
        kept.put(path, "predictor", "predictor 2 50")
        await until(lambda: {server.weight for server in gateway.reconciler.look.wanted} == {128, 256})
        assert told() == ()
        deaf.clear()
        await until(told)
        assert told() == (shares.Share("predictor", "2", 50),)
        assert weights == {"app1-8000": 128, "app1-8001": 128, "app2-8000": 256}
        deaf.add("HAProxy")
        kept.put(path, "predictor", None)
        await until(lambda: {server.weight for server in gateway.reconciler.look.wanted} == {1})
        assert told() == (shares.Share("predictor", "2", 50),), "it has the share as long as HAProxy gives it"

    played(scene)


def test_what_is_closed_is_as_haproxy_said_last(played, capsys):
    """One that does not answer has opened nothing."""
    lines: list[str] = []

    def said() -> str:
        lines.append("".join(capsys.readouterr()))
        return "".join(lines)

    async def scene(gateway):
        def closed_now() -> object:
            return gateway.reconciler.look.closed

        path = closed.file_of(gateway.state_dir)
        assert closed_now() is None
        lists: dict[str, set[str]] = {"0": set()}

        def haproxy(command: str) -> str:
            match command.split(" "):
                case _ if not gateway.answers:
                    raise edges.Failed("no answer")
                case ["show", "acl"]:
                    return "".join(f"{n} ({path}) pattern loaded entry_cnt={len(x)}\n" for n, x in lists.items())
                case ["show", "acl", _]:
                    return "".join(f"0x7f {name}\n" for name in lists["0"])
                case ["add", "acl", _, name]:
                    lists["0"].add(name)
                case ["del", "acl", _, name]:
                    lists["0"].discard(name)
            return ""

        gateway.haproxy = haproxy
        gateway.answers = True
        kept.put(path, "predictor", "predictor")
        await until(lambda: closed_now() == {"predictor"})
        gateway.answers = False
        kept.put(path, "predictor", None)
        await until(lambda: "maintenance is not switched" in said())
        assert closed_now() == {"predictor"} and lists == {"0": {"predictor"}}
        gateway.answers = True
        await until(lambda: closed_now() == frozenset())
        kept.put(path, "predictor", "predictor")
        await until(closed_now)
        # As a configuration has none that knows of no switch.
        lists.clear()
        await until(lambda: closed_now() == frozenset())

    played(scene)


def test_what_was_said_of_a_service_goes_with_it(played):
    async def scene(gateway):
        for path, more in ((closed.file_of(gateway.state_dir), ""), (shares.file_of(gateway.state_dir), " 2 50")):
            for service in ("predictor", "gone"):
                kept.put(path, service, service + more)
            await until(lambda path=path: "gone" not in path.read_text())
            assert kept.lines_of(path) == (f"predictor{more}",)
        # None of kind tcp has a page.
        gateway.configure(services=[{**SETTINGS["services"][0], "kind": "tcp"}])
        await until(lambda: kept.lines_of(closed.file_of(gateway.state_dir)) == ())
        assert kept.lines_of(shares.file_of(gateway.state_dir)) == ("predictor 2 50",)

    played(scene)


def test_a_refused_text_is_tried_again_when_the_servers_options_change(played):
    async def scene(gateway):
        gateway.place(WORSE)
        await until(lambda: not gateway.config["ok"])
        gateway.configure(services=[{**SETTINGS["services"][0], "server_options": "check"}])
        await until(lambda: sum("bogus" in text for text in gateway.validated) == 2)

    played(scene)


def test_a_port_that_somebody_holds_is_not_asked_of_haproxy(played):
    async def scene(gateway):
        with socket.create_server(("127.0.0.1", 0)) as squatter:
            port = squatter.getsockname()[1]
            more = f"{FRONTEND}frontend more\n    bind 127.0.0.1:{port}\n"
            gateway.place(more)
            await until(lambda: not gateway.config["ok"])
            assert f"port {port} cannot be listened on: " in gateway.config["error"]
            assert gateway.config["retry_in_s"] is not None
            assert gateway.reloads == 0
        await until(lambda: gateway.runs(more))
        assert gateway.reloads == 1

    played(scene)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_renewed_certificate_is_no_reload_unless_the_worker_will_not_have_it(played, keeps):
    async def scene(gateway):
        pem, listed = gateway.given.with_name("www.pem"), gateway.given.with_name("list.txt")
        pem.write_text("the certificate\n")
        listed.write_text(f"{pem}\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        first, second = (
            f"{FRONTEND}frontend tls\n    bind 127.0.0.1:{port} ssl crt-list {listed} alpn h2  # {'1' * 12} {n * 12}\n"
            for n in "12"
        )
        gateway.place(first)
        await until(lambda: gateway.runs(first))
        assert (gateway.reloads, gateway.renewals) == (1, [])
        gateway.keeps_certificates = keeps
        gateway.place(second)
        await until(lambda: gateway.runs(second))
        assert gateway.last_good() == second
        assert gateway.reloads == 1 + keeps
        second_command = f"{'abort' if keeps else 'commit'} ssl cert {pem}"
        assert gateway.renewals == [f"set ssl cert {pem} <<\nthe certificate\n", second_command]

    played(scene)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("port_taken", "HAProxy did not reload: cannot bind socket"),
        ("disk_full", "No space left on device"),
        ("slow", "took more than 30 s"),
    ],
)
def test_what_passes_is_tried_again_until_it_has_passed(played, trouble, reason):
    async def scene(gateway):
        setattr(gateway, trouble, True)
        gateway.place(BETTER)
        await until(lambda: not gateway.config["ok"])
        assert gateway.config["refused"] == haproxy.digest(BETTER)
        assert 0 < gateway.config["retry_in_s"] <= 0.2
        assert "was not taken up and is tried again, the last good one stays: " in gateway.config["error"]
        assert reason in gateway.config["error"]
        assert gateway.config["digest"] == haproxy.digest(FRONTEND)
        await until(lambda: gateway.last_good() == FRONTEND)
        setattr(gateway, trouble, False)
        await until(lambda: gateway.runs(BETTER) and gateway.last_good() == BETTER and gateway.word() is None)
        assert (gateway.state_dir / "static.cfg").read_text() == BETTER

    played(scene)


def test_a_start_with_the_last_good_configuration_goes_on_to_the_given_one(played):
    async def scene(gateway):
        await until((gateway.state_dir / "static.cfg").exists)
        gateway.slow = True
        gateway.place(BETTER)
        await until(lambda: not gateway.config["ok"])
        await gateway.reconciler.stand_still()
        sockets = edges.Sockets(gateway.state_dir / "run" / "another")
        gateway.reconciler = reconcile.Reconciler(gateway.settings, gateway.settings_file, sockets)
        await gateway.reconciler.prepare()
        assert gateway.config["digest"] == haproxy.digest(FRONTEND)
        assert gateway.config["refused"] == haproxy.digest(BETTER)
        gateway.slow = False
        running = asyncio.create_task(gateway.reconciler.run())
        await until(lambda: gateway.runs(BETTER))
        running.cancel()

    played(scene)


def test_the_pause_before_another_try_doubles_up_to_a_minute():
    found, pauses = None, []
    for _ in range(6):
        found = refusal.refused("aa", edges.Failed("taken"), found, 100.0)
        pauses.append(found.pause_s)
        assert not found.allows("aa", 100.0 + found.pause_s - 0.1)
        assert found.allows("aa", 100.0 + found.pause_s)
    assert pauses == [5, 10, 20, 40, 60, 60]
    assert refusal.refused("bb", edges.Failed("taken"), found, 100.0).pause_s == 5
    assert found.allows("bb", 100.0)
    final = refusal.refused("aa", edges.Refused("bogus"), found, 100.0)
    assert not final.allows("aa", 1e9)
    assert refusal.refused("aa", edges.Failed("taken"), final, 100.0).pause_s == 5


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (1, recorded("validate_failed"), edges.Refused),
        (1, "haproxy: out of memory", edges.Failed),
        (137, "", edges.Failed),
    ],
)
def test_only_a_verdict_of_haproxys_own_is_final(tmp_path, monkeypatch, code, said, kind):
    (tmp_path / "said").write_text(said)
    (tmp_path / "haproxy").write_text(f"#!/bin/sh\ncat {tmp_path}/said >&2\nexit {code}\n")
    (tmp_path / "haproxy").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(edges.Failed) as caught:
        asyncio.run(edges.validate(tmp_path / "candidate.cfg"))
    assert type(caught.value) is kind


# --- Replaced workers, and the hand-over to another container

SHOW_PROC = """#<PID>          <type>          <reloads>       <uptime>        <version>
23              master          1 [failed: 0]   0d00h00m02s     3.0.11-1+deb13u5
# workers
57              worker          0               0d00h00m00s     3.0.11-1+deb13u5
# old workers
26              worker          1               0d00h00m02s     3.0.11-1+deb13u5
24              worker          2               0d00h00m03s     3.0.11-1+deb13u5
# programs

"""


def test_workers_of_now_and_before():
    assert replies.parse_workers(SHOW_PROC) == ((57,), (26, 24))
    assert replies.parse_workers("") == ((), ())


def test_a_replaced_worker_is_kept_from_servers_that_are_to_go():
    found = [
        actual(8000),
        actual(8001),
        actual(8002, State.DRAIN),
        Actual("stats", "x", "10.99.0.21", 1, State.READY, True, True, False),
    ]
    assert haproxy.stragglers([server(8000)], found, SERVICES) == (SetState("predictor", "app1-8001", State.DRAIN),)
    draining = dataclasses.replace(server(8000), drain=True)
    assert SetState("predictor", "app1-8000", State.DRAIN) in haproxy.stragglers([draining], found, SERVICES)


class Work:
    """Stands still and goes on, and says so."""

    def __init__(self):
        self.said = []

    async def stand_still(self):
        self.said.append("stand still")

    def go_on(self):
        self.said.append("go on")


@pytest.fixture
def state_dir():
    # A socket's path must be short, which pytest's folders are not.
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_loan_is_taken_up_or_goes_back(state_dir):
    async def scene():
        work = Work()
        old = handover.take_place(state_dir)
        assert await handover.borrow(old) is None
        lender = handover.Lender(old, work)
        await lender.open()

        # Its HAProxy does not answer, as in the moment of a reload.
        new = handover.take_place(state_dir)
        assert old.own.folder.exists()
        loan = await handover.borrow(new)
        assert loan.sockets == old.own
        assert work.said == ["stand still"]
        with pytest.raises(edges.Failed, match="another successor"):
            await handover.borrow(new)

        loan.end()
        await until(lambda: work.said == ["stand still", "go on"])
        assert not lender.retired.is_set()

        loan = await handover.borrow(new)
        await loan.retire_lender()
        assert lender.retired.is_set()
        assert work.said == ["stand still", "go on", "stand still"]
        lender.close()

    asyncio.run(scene())


def test_a_loan_that_lasts_too_long_cannot_be_taken_up(state_dir, monkeypatch):
    monkeypatch.setattr(handover, "LOAN_LIMIT_S", 0.05)

    async def scene():
        work = Work()
        place = handover.take_place(state_dir)
        lender = handover.Lender(place, work)
        await lender.open()
        loan = await handover.borrow(place)
        await until(lambda: work.said == ["stand still", "go on"])
        with pytest.raises(edges.Failed, match="taken its sockets back"):
            await loan.retire_lender()
        assert not lender.retired.is_set()
        lender.close()

    asyncio.run(scene())


def test_nobody_is_waited_for_whose_process_has_ended(state_dir):
    async def scene():
        place = handover.take_place(state_dir)
        server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), place.control)
        with pytest.raises(edges.Failed, match="no answer"):
            await handover.borrow(place)
        server.close()
        place.control.unlink(missing_ok=True)
        socket.socket(socket.AF_UNIX).bind(str(place.control))
        assert not handover.would_lend(place.control)
        assert await handover.borrow(place) is None

    asyncio.run(scene())


def test_folders_of_ended_containers_go(state_dir):
    ended, own = handover.take_place(state_dir), handover.take_place(state_dir)
    assert not ended.own.folder.exists()
    assert own.own.folder.exists()
    with socket.socket(socket.AF_UNIX) as master:
        master.bind(str(own.own.master))
        master.listen()
        handover.take_place(state_dir)
        assert own.own.folder.exists()


async def until(condition):
    async def come():
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(come(), 5)


# --- Status and log


def test_status_rows():
    look = status.Look(node="gw1", services=SERVICES, wanted=(server(8000),))
    found = [actual(8000), actual(8001, State.DRAIN), actual(8002, up=False), actual(8003, State.MAINT)]
    own = {("predictor", "app1-8000"): Traffic(sessions=3, requests=70, errors_5xx=4, failures=5, retries=6)}
    rows = status.server_rows(look, found, own, {("predictor", "app1-8000"): 2, ("predictor", "app1-8001"): 1})
    assert rows[0] == {
        "service": "predictor",
        "name": "app1-8000",
        "address": "10.99.0.21",
        "port": 8000,
        "state": "up",
        "sessions": 5,
        "requests": 70,
        "errors_5xx": 4,
        "failures": 5,
        "retries": 6,
        "version": "1.0.0",
    }
    assert [row["sessions"] for row in rows] == [5, 1, 0, 0]
    assert [row["state"] for row in rows] == ["up", "drain", "down", "maint"]


@given(st.text())
def test_a_log_line_is_one_line_of_visible_ascii(text):
    line = printable(text, 80)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= 80


def test_a_fact_is_said_when_it_changes(capsys):
    say = Once()
    for fact in (None, "down", "down", None, None, "down"):
        say("serf", fact, mended="up")
    assert capsys.readouterr().out == "down\nup\ndown\n"


# --- Leaving


def test_a_member_that_says_it_is_leaving_drains_although_it_is_alive() -> None:
    entry = {"name": "app1", "addr": "10.0.0.1:7946", "status": "alive", "tags": {"role": "app", "state": "leaving"}}
    assert [m.status for m in parse_members(json.dumps({"members": [entry]}), {}).members] == ["leaving"]
