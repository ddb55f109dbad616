"""What is compared again of thousands of servers: what is not as it was when nothing was to do."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))

from fiefdom_gateway import members, replies, servers, wanted
from fiefdom_gateway.compared import Compared
from fiefdom_gateway.members import Member, Offer
from fiefdom_gateway.replies import Actual, State
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Known, Server

SERVICES = {name: Service(name, f"{name}-be", 8000, 100, "check") for name in ("db", "echo")}
ECHO, DB = (Server(name, "app1-8000", "10.99.0.21", 8000, drain=False, version="1") for name in ("echo", "db"))
STATE = (
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_check_state srv_port "
    "srv_check_port\n"
)


def actual(server: Server, **more) -> Actual:
    found = Actual(f"{server.service}-be", server.name, server.address, server.port, State.READY, True, True, False)
    return replace(found, **more)


BOTH = (DB, ECHO), (actual(DB), actual(ECHO))


def compared() -> Compared:
    found = Compared()
    assert found.note(found.rest(*BOTH, SERVICES), SERVICES)
    return found


def test_what_was_equal_is_not_compared_again():
    assert compared().rest(*BOTH, SERVICES) == ((), ())
    assert compared().unlike(BOTH[0], SERVICES) == []


@pytest.mark.parametrize(
    ("wanted_now", "actual_now", "left", "unlike"),
    [
        ((DB,), BOTH[1], ((), (actual(ECHO),)), ["echo-be"]),
        (BOTH[0], (actual(DB),), ((ECHO,), ()), []),
        (BOTH[0], (actual(DB, state=State.MAINT), actual(ECHO)), ((DB,), (actual(DB, state=State.MAINT),)), []),
        ((DB, replace(ECHO, drain=True)), BOTH[1], ((replace(ECHO, drain=True),), (actual(ECHO),)), ["echo-be"]),
    ],
)
def test_a_backend_that_is_another_one_is(wanted_now, actual_now, left, unlike):
    assert compared().rest(wanted_now, actual_now, SERVICES) == left
    assert compared().unlike(wanted_now, SERVICES) == unlike


def test_other_services_begin_anew():
    assert compared().rest(*BOTH, dict(SERVICES)) == BOTH


def test_what_drains_is_compared_each_time():
    drains = (replace(ECHO, drain=True),), (actual(ECHO, state=State.DRAIN),)
    found = Compared()
    assert found.note(drains, SERVICES)
    assert found.rest(*drains, SERVICES) == drains
    assert not found.note(((ECHO,), ()), SERVICES)


class Asked:
    """Answers as HAProxy does, and keeps what it was asked."""

    def __init__(self, *there: Server) -> None:
        self.there = there
        self.commands: list[str] = []

    async def ask(self, command: str) -> str:
        self.commands.append(command)
        backend = command.removeprefix("show servers state").strip()
        rows = [f"3 {s.service}-be 1 {s.name} {s.address} 2 0 1 6 {s.port} 0\n" for s in self.there]
        return STATE + "".join(row for row in rows if not backend or f" {backend} " in row) + "\n"


def test_only_a_backend_that_is_to_be_another_one_is_asked_for_between_full_looks():
    async def story() -> None:
        world, worker = Asked(DB, ECHO), servers.Worker()
        found = await worker.servers_for(world.ask, BOTH[0], SERVICES, 3600.0)
        assert worker.compared.note(worker.compared.rest(BOTH[0], found, SERVICES), SERVICES)
        more = (DB, ECHO, replace(ECHO, name="app2-8000", address="10.99.0.22"))
        world.there = more
        assert len(await worker.servers_for(world.ask, more, SERVICES, 3600.0)) == 3
        assert world.commands == ["show servers state", "show servers state echo-be"]
        await worker.servers_for(world.ask, more, SERVICES, 0.0)
        assert world.commands[2] == "show servers state"

    asyncio.run(story())


MEMBER = Member("app1", "10.99.0.21", "alive", "app", (Offer("echo", "1", 8000, 8001), Offer("db", "1", 8001, 8002)))


def test_servers_of_a_member_that_says_the_same_are_the_same_objects():
    made = wanted.Made()
    other = Member("app2", "10.99.0.22", "alive", "app", (Offer("db", "1", 8000, 8000),))
    memory = {m.name: Known(m) for m in (MEMBER, other)}
    first, rejected = wanted.wanted_servers(memory, SERVICES, made)
    assert [r.member for r in rejected] == ["app1"]
    moved = {**memory, "app2": Known(replace(other, address="10.99.0.21"))}
    second, _ = wanted.wanted_servers(moved, SERVICES, made)
    assert (second, wanted.wanted_servers(memory, SERVICES, made)) == (
        wanted.wanted_servers(moved, SERVICES)[0],
        (first, rejected),
    )
    third, _ = wanted.wanted_servers({"app1": Known(MEMBER)}, SERVICES, made)
    assert all(any(server is kept for kept in first) for server in third)


def test_an_entry_that_says_something_else_is_read_anew():
    entry = {
        "name": "app1",
        "addr": "10.99.0.21:1",
        "status": "alive",
        "tags": {"role": "app", "svc:echo": "1;8000-8000"},
    }
    changed = {**entry, "tags": {**entry["tags"], "svc:echo": "2;8000-8000"}}
    reader = members.Reader()
    for entries in ([entry], [entry], [changed], [changed, changed], [entry, {"name": "?"}], []):
        assert reader.read(entries, SERVICES, {}) == members.read_members(entries, SERVICES, {})
    assert reader.read([entry], {"db": SERVICES["db"]}, {}).members[0].offers == ()


def test_all_that_is_wanted_is_in_the_order_that_is_compared():
    rows = replies.in_order([actual(ECHO), actual(DB)])
    assert Compared().rest((DB, ECHO), rows, SERVICES) == BOTH
