"""What hosts, members and HAProxy send, bent at random: a sentence or a clean refusal, never a traceback.

Nor does any of it get out of its place: into a command for HAProxy, its configuration, a step on a host, or a terminal.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from fiefdom.cli import show
from fiefdom.cluster import audit, lock, status, views
from fiefdom.cluster.views import alone, counts, not_up, parse_view, verdict
from fiefdom.converge import look, run, snapshot, steps, steps_script
from fiefdom.converge.plan import merge
from fiefdom.desired import concerns
from fiefdom.desired.state import HostState, spec_hash
from fiefdom.errors import FiefdomError
from fiefdom.model import Secrets
from fiefdom.procedures import turn
from helpers.example import GOSSIP_KEY, context

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import haproxy, replies, rotation, serf, wanted  # noqa: E402
from fiefdom_gateway import status as gateway_status  # noqa: E402
from fiefdom_gateway import view as gateway_view  # noqa: E402
from fiefdom_gateway.belief import believe  # noqa: E402
from fiefdom_gateway.log import printable  # noqa: E402
from fiefdom_gateway.members import Unreadable, parse_members  # noqa: E402
from fiefdom_gateway.settings import Host, Inventory, Service  # noqa: E402

DATA = Path(__file__).parent / "containers" / "data"

# What means something to a shell, HAProxy, JSON, CSV, a terminal, rich or a parser of numbers.
NASTY = (
    *(";", "\n", "\r", "\t", "\0", "\\", '"', "'", "#", " ", "-", "/", ":", ",", "{", "[", "]", "$(id)", "`id`", "../"),
    *("\x1b[2J", "\u2028", "\x85", "\ud800", "²", "٣", "[/red]", "NaN", "1e999", "9" * 5000, "[" * 3000, "-0", "0x1f"),
)
pieces = st.sampled_from(NASTY) | st.text(max_size=6)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), pieces), max_size=5)
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | pieces,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(pieces, inner, max_size=3),
    max_leaves=6,
)


def bent(text: str) -> st.SearchStrategy[str]:
    """`text` with pieces cut out of it, and others put in."""

    def bend(changes: list[tuple[float, int, str]]) -> str:
        now = text
        for where, cut, put in changes:
            at = round(where * len(now))
            now = now[:at] + put + now[at + cut :]
        return now

    return edits.map(bend)


def bent_lines(lines: list[str]) -> st.SearchStrategy[list[str]]:
    """Lines of an answer, some of them bent, doubled, lost or in another order."""
    some = st.lists(st.sampled_from(lines).flatmap(bent), max_size=5)
    return st.tuples(st.lists(st.integers(0, len(lines)), max_size=3), some, st.randoms(use_true_random=False)).map(
        lambda drawn: _mixed(lines, *drawn)
    )


def _mixed(lines: list[str], lost: list[int], more: list[str], chance: Any) -> list[str]:
    kept = [line for number, line in enumerate(lines) if number not in lost]
    for line in more:
        kept.insert(chance.randrange(len(kept) + 1), line)
    return kept


@st.composite
def bent_json(draw: st.DrawFn, data: Any) -> str:
    """A document with some of its values, wherever they are, replaced."""
    data = json.loads(json.dumps(data))
    for _ in range(draw(st.integers(0, 3))):
        node = data
        while isinstance(node, dict | list) and node:
            key = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[key], dict | list) or draw(st.booleans()):
                node[key] = draw(odd)
                break
            node = node[key]
    return draw(bent(json.dumps(data))) if draw(st.booleans()) else json.dumps(data)


SLOW_TO_DRAW = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# --- Serf's members, and HAProxy's replies: commands and configuration

SERVICES = {
    "predictor": Service("predictor", "predictor", 8000, 100, "check inter 1s"),
    "echo": Service("echo", "echo-backend", 9000, 10, "check"),
}
INVENTORY = Inventory(
    ipaddress.IPv4Network("10.99.0.0/24"),
    False,
    {"gw1": Host("10.99.0.11", frozenset()), "app1": Host("10.99.0.21", frozenset(["predictor"]), {"predictor": 8000})},
)
NAME = r"[A-Za-z0-9][A-Za-z0-9.-]*-[0-9]+"
ENDPOINT = r"([0-9.]+|\[[0-9a-f:]+\]):[0-9]+"
COMMAND = re.compile(
    rf"(add server (predictor|echo-backend)/{NAME} {ENDPOINT} [a-z0-9 ]+"
    r"|(enable health|del server) (predictor|echo-backend)/[A-Za-z0-9_.:-]+"
    r"|set server (predictor|echo-backend)/[A-Za-z0-9_.:-]+ (state (ready|drain|maint)|check-port [0-9]+)"
    r"|set weight (predictor|echo-backend)/[A-Za-z0-9_.:-]+ [0-9]+)",
    re.ASCII,
)
MEMBERS = json.loads((DATA / "serf_members.json").read_text())
for _member in MEMBERS["members"]:
    _member["tags"]["svc:echo"] = "2;9000-9001"  # which the inventory lets nobody run
STATES = (DATA / "haproxy-3.0" / "show_servers_state.txt").read_text()
CONNECTIONS = (DATA / "haproxy-3.0" / "show_servers_conn.txt").read_text()
STAT = (DATA / "haproxy-3.0" / "show_stat.txt").read_text()


def recorded(name: str) -> str:
    return (DATA / "haproxy-3.0" / f"{name}.txt").read_text()


@pytest.mark.long
@given(bent_json(MEMBERS), st.booleans())
@SLOW_TO_DRAW
def test_members_say_nothing_that_gets_out_of_its_place(text: str, only: bool) -> None:
    inventory = Inventory(INVENTORY.network, only, INVENTORY.hosts)
    try:
        roll = believe(parse_members(text, SERVICES), inventory, SERVICES)
    except Unreadable:
        return
    memory = wanted.remember({}, roll, 0.0, 60.0)
    servers, contested = wanted.wanted_servers(memory, SERVICES)
    for refused in (*roll.rejected, *contested):
        assert (printable(refused.member), printable(refused.reason)) == (refused.member, refused.reason)
    for server in servers:
        name, service = server.name.rpartition("-")[0], SERVICES[server.service]
        host = inventory.hosts.get(name)
        assert service.base_port <= server.port <= service.last_port
        if host is not None:
            assert server.address == host.address and server.service in host.services
            assert server.port <= host.last_ports[server.service]
        else:
            owner = inventory.hosts.get(inventory.owner(server.address) or "")
            assert not only and (owner is None or server.service in owner.services)
            assert ipaddress.ip_address(server.address) in inventory.network
    for command in haproxy.next_commands(servers, (), SERVICES):
        assert COMMAND.fullmatch(haproxy.command_line(command))
    static = "# fiefdom:servers predictor\n# fiefdom:servers echo\n"
    for line in haproxy.render(static, servers, SERVICES).split("\n")[:-1]:
        assert line.startswith("# ") or re.fullmatch(rf"    server {NAME} {ENDPOINT} [a-z0-9 ]+", line, re.ASCII)
    recalled = wanted.load_memory(wanted.dump_memory(memory), SERVICES)
    assert wanted.still_believed(recalled, inventory, SERVICES).keys() <= memory.keys()


def test_commands_are_known_whatever_kind_they_are() -> None:
    of = ("predictor", "app1-8000")
    state = haproxy.SetState(*of, replies.State.DRAIN)
    said = [haproxy.Add(*of, "10.0.0.1", 8000, "check"), haproxy.EnableHealth(*of), haproxy.SetCheckPort(*of, 8001)]
    said += [haproxy.SetWeight(*of, 10), state, haproxy.Delete(*of)]
    assert {type(command) for command in said} == set(get_args(haproxy.Command))
    assert all(COMMAND.fullmatch(haproxy.command_line(command)) for command in said)


@pytest.mark.long
@given(bent(STATES), bent(CONNECTIONS), bent(STAT), bent(recorded("show_info")))
@SLOW_TO_DRAW
def test_haproxys_replies_say_nothing_that_gets_into_a_command(
    states: str, connections: str, stat: str, info: str
) -> None:
    replies.parse_info(info)
    try:
        actual = replies.with_busy(replies.Servers().read(states), connections)
        traffic = replies.traffic(stat)
        found = gateway_view.View(gateway_view.by_host(gateway_view.rows(states, stat)))
    except Unreadable:
        return
    servers, _ = wanted.wanted_servers(
        wanted.remember({}, parse_members(json.dumps(MEMBERS), SERVICES), 0.0, 60.0), SERVICES
    )
    for command in (*haproxy.next_commands(servers, actual, SERVICES), *haproxy.stragglers([], actual, SERVICES)):
        assert COMMAND.fullmatch(haproxy.command_line(command))
    look = gateway_status.Look(node="gw1", services=SERVICES, wanted=servers)
    rows = gateway_status.server_rows(look, actual, traffic, {})
    view = {"haproxy": {}, "members": [], "servers": rows}
    assert views.parse_view(json.dumps(view)) is not None
    for word in rotation.QUERIES.values():
        for service in (None, "predictor", "nobody"):
            rotation.answer(rotation.Question(word, "app1", service), look, found)


@given(bent(recorded("reload_failed")), bent(recorded("validate_failed")), bent("# workers\n57 worker 0 0d00h\n"))
def test_haproxys_other_words_are_only_shown(reload: str, validation: str, workers: str) -> None:
    replies.reload_error(reload)
    replies.config_reasons(validation)
    for command in (haproxy.Delete("predictor", "app1-8000"), haproxy.Add("predictor", "a-1", "10.0.0.1", 1, "")):
        haproxy.command_error(command, reload)
    assert all(isinstance(pid, int) for pids in replies.parse_workers(workers) for pid in pids)


EVENTS = [
    "2026/01/02 [INFO] serf: EventMemberJoin: app1 10.99.0.21",
    "2026/01/02 [DEBUG] memberlist: Stream connection",
]


def packed(draw: st.DrawFn, lines: list[str]) -> bytes:
    """What a Serf agent sends over its RPC stream, bent."""
    objects: list[Any] = [{"Seq": number, "Error": ""} for number in (1, 2, 3)]
    for line in lines:
        objects += [{"Seq": 2, "Error": ""}, {"Log": line.encode(errors="replace")}]
        objects += [
            {"Seq": 3, "Error": ""},
            {"Event": "query", "ID": 1, "Name": "fiefdom-drained", "Payload": line[:9]},
        ]
    objects += draw(st.lists(odd_packed, max_size=3))
    text = b"".join(msgpack.packb(found, unicode_errors="surrogatepass") for found in objects)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(st.binary(max_size=4)) + text[at + draw(st.integers(0, 4)) :]


odd_packed = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Seq", "Error", "Log", "ID"]), inner),
    max_leaves=6,
)


@pytest.mark.long
@given(st.data(), bent_lines(EVENTS * 3))
@SLOW_TO_DRAW
def test_what_serfs_agent_sends_is_an_event_or_the_end(data: st.DataObject, lines: list[str]) -> None:
    text = packed(data.draw, lines)

    async def follow() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(text)
        reader.feed_eof()
        agent = serf.Agent(reader, cast(asyncio.StreamWriter, SimpleNamespace(write=lambda _: None)))
        for begun in agent.begin(None, ()):
            begun.add_done_callback(lambda done: done.exception())
        async for event in agent.events():
            if isinstance(event, serf.Query):
                rotation.understood(event.name, event.payload)

    with suppress(serf.Lost):
        asyncio.run(asyncio.wait_for(follow(), 5))


# --- The gateways' word to the operator

CLUSTER = context(services={"web": None}).cluster
VIEW = {
    "node": "gw1",
    "serf": {"ok": False, "error": "timed out"},
    "config": {"ok": False, "error": "line 3", "digest": "00"},
    "members": [{"name": "app1", "status": "alive", "offers": [{"first_port": 8000, "last_port": 8003}]}],
    "servers": [
        {"service": "predictor", "name": f"app1-{port}", "port": port, "state": "up", "requests": 5, "errors_5xx": 1}
        for port in range(8000, 8004)
    ],
    "rejected": [{"member": "app9", "reason": "claims the name at 10.1.0.9, the inventory has it at 10.1.0.8"}],
    "haproxy": {"version": "3.0.11", "pid": 7, "uptime_s": 1},
}


def printed(*parts: Any) -> str:
    out = io.StringIO()
    console = Console(file=out, width=200, color_system=None)
    for part in parts:
        console.print(part)
    return out.getvalue()


def assert_harmless(text: str) -> None:
    assert all(char.isprintable() for char in text.replace("\n", "")), ascii(text)


@pytest.mark.long
@given(bent_json(VIEW), bent_json(VIEW), pieces)
@SLOW_TO_DRAW
def test_a_gateways_document_breaks_nothing(first: str, second: str, version: str) -> None:
    views = {"gw1": parse_view(first), "gw2": parse_view(second)}
    lines = [
        "uid\t0",
        "os\tdebian\ttrixie",
        f"container\t/predictor-8000\ttrue\ta\tb\tinstance\t{version}\tx\ty",
        "end",
    ]
    found = {name: snapshot.parse(name, lines) for name in CLUSTER.hosts}
    picture = status.combine(CLUSTER, tuple(CLUSTER.hosts), found, views)
    assert_harmless(printed(*show.status_tables(picture)))
    json.dumps(picture.as_data())
    counted = counts(views, tuple(CLUSTER.hosts), ("predictor",))
    verdict(counted, counted, 0.01)
    for name in CLUSTER.app_hosts:
        not_up(views, CLUSTER, name)
        alone(views, CLUSTER, [name])
        alone(views, CLUSTER, [name], if_up=True)
    for view in views.values():
        view.may_list("app1")


# --- Hosts: the snapshot, and what a host says during its turn

KNOWN = run.Known(context().cluster, Secrets(GOSSIP_KEY), {})


def answer() -> list[str]:
    """What app1 would answer, as far as it matters: everything as it should be, and something old to remove."""
    state: HostState = concerns.state_of(context("app1", "trixie"))
    sha = "0" * 64
    return [
        "snapshot\t1",
        "uid\t0",
        "client\t192.0.2.7",
        "os\tdebian\ttrixie",
        "docker\tup",
        "hostname\tapp1\tapp1",
        "free-kib\t79471416",
        *(f"image\t{i.ref}\tsha256:aa\t{sha}\tr@sha256:bb " for i in state.images),
        *(
            f"container\t/{c.name}\ttrue\tsha256:aa\t{spec_hash(c, state)}\t{c.role}\t{c.version}\t{c.name}\t{sha}"
            for c in state.containers
        ),
        f"container\t/old-8000\ttrue\tsha256:aa\tspec\tinstance\t1\told-8000\t{sha}",
        *(f"file\t{f.path}\tregular file\t{f.mode:o}\t{f.uid}\t{f.gid}" for f in state.files),
        *(f"digest\t{f.path}\t{f.digest}" for f in state.files),
        *(f"file\t{d.path}\tdirectory\t{d.mode:o}\t{d.uid}\t{d.gid}" for d in state.directories),
        *(f"package\t{p.name}\tinstalled\t1" for p in state.packages),
        *(line for u in state.units for line in (f"unit\tId={u.name}", "unit\tLoadState=loaded", "unit\t")),
        *(f"made\tfile\t{f.path}" for f in state.files),
        "made\tfile\t/etc/systemd/system/old@.service",
        "made\tdirectory\t/etc/fiefdom/old",
        "made\tunit\told@8000.service",
        "made\tcontainer\told-8000",
        f"stamp\t/var/lib/fiefdom/stamps/docker.service:{sha} -",
        "end",
    ]


ANSWER = answer()


@pytest.mark.long
@given(bent_lines(ANSWER))
@SLOW_TO_DRAW
def test_a_snapshot_becomes_a_plan_or_a_sentence(lines: list[str]) -> None:
    try:
        plan = merge([look.plan_of(KNOWN, "app1", lines)])
    except FiefdomError as error:
        assert str(error).startswith("app1: ")
        assert_harmless(str(error))
        return
    assert_harmless(printed(*show.plan_tree(plan, "inventory")))
    json.dumps(plan.as_data())
    for phase in steps.phases(plan.hosts[0]):
        text = steps_script.steps_text(phase.steps)
        # Each field arrives as what it was sent as: nothing of a host's own words becomes a step or another field.
        read = [tuple(line.split("\t")) for line in text.split("\n")[:-1]]
        sent = [tuple(field or "-" for field in step) for step in steps_script.merged(phase.steps)]
        assert read == [*sent, ("end",)] or not phase.steps


def test_the_snapshot_that_is_bent_is_one() -> None:
    (plan,) = merge([look.plan_of(KNOWN, "app1", ANSWER)]).hosts
    removed = {(change.kind, change.name) for change in plan.changes if change.sign == "-"}
    assert ("container", "old-8000") in removed and ("file", "/etc/systemd/system/old@.service") in removed
    assert not [change.name for change in plan.of("file", "+", "~")]


TURN = ["fiefdom-stage\tdrain", "done\t1", "fiefdom-log\tx\twords", "fiefdom-failed\tunit\treason", "fiefdom-restored"]


@pytest.mark.long
@given(bent_lines(TURN))
def test_what_a_host_says_during_its_turn_breaks_nothing(lines: list[str]) -> None:
    heard = turn.Heard("app1", lambda *_: None)
    for line in lines:
        heard(line)
    heard.end()


# --- The ledger

AUDIT = {
    **{"run": "1a", "who": "ann@desk", "what": "rollout", "event": "end", "outcome": "ok", "plan": "ab"},
    **{"hosts": ["app1"], "services": {"predictor": ["1.0", "1.1"]}, "note": "", "at": "2026-01-02T03:04:05Z"},
}
LOCK = {"run": "1a", "who": "ann@desk", "why": "rollout", "since": "2026-01-02T03:04:05Z", "person": False}
TOKEN = "a" * 64


@pytest.mark.long
@given(bent_lines(["entry\t{}", f"lock\t{TOKEN}\t1.5\t{json.dumps(LOCK)}", "now\t1767323045.5\t9"]), bent_json(AUDIT))
def test_a_ledger_breaks_nothing(lines: list[str], entry: str) -> None:
    text = "\n".join(line.replace("{}", entry, 1) for line in lines)
    try:
        found = lock.parse_answer("gw1", text)
    except FiefdomError:
        return
    merged = audit.merge([found.entries, found.entries])
    audit.last_healthy(merged, "predictor", "1.1")
    audit.last_brought(merged, "predictor", ("1.0", "1.1"))
    assert_harmless(printed(show.audit_table(audit.acts(merged)), *(show.lock_lines(found.lock) if found.lock else ())))
