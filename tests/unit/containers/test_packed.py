"""All offers of a host in one tag: what the gateway reads of it, and how it comes to the versions' names."""

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))

from fiefdom_gateway import packed, shares
from fiefdom_gateway.members import Member, Offer, parse_members, read_member
from fiefdom_gateway.names import VersionNames
from fiefdom_gateway.settings import Service
from fiefdom_gateway.wanted import Known, Server, dump_memory, load_memory

SERVICES = {name: Service(name, name, 8000, 100, "check") for name in ("web", "api")}
# api 2.0 at 8000-8003, then web 1.0.0 at 8010-8010 with checks at 9000.
WEB, API = packed.code("web"), packed.code("api")
TAG = f"H0{API}{packed.code('2.0')}AI{WEB}{packed.code('1.0.0')}DDCMo"


def listed(tag: object, **tags: object) -> dict[str, object]:
    return {"name": "app1", "addr": "10.0.0.1:7946", "status": "alive", "tags": {"role": "app", "o": tag, **tags}}


def read(tag: object, names: packed.Names | None = None, **tags: object) -> tuple[tuple[Offer, ...], list[str]]:
    roll = parse_members(json.dumps({"members": [listed(tag, **tags)]}), SERVICES, names or {})
    return roll.members[0].offers, [rejection.reason for rejection in roll.rejected]


def unknown(version: str) -> str:
    return f"~{packed.code(version)}"


def test_a_tag_holds_what_a_tag_for_each_would() -> None:
    offers = (Offer("api", unknown("2.0"), 8000, 8003), Offer("web", unknown("1.0.0"), 8010, 8010, 9000))
    assert read(TAG) == (offers, [])
    names = {("api", packed.code("2.0")): "2.0", ("web", packed.code("1.0.0")): "1.0.0"}
    plain = {"svc:web": "1.0.0;8010-8010;9000", "svc:api": "2.0;8000-8003"}
    assert read(TAG, names)[0] == read("H0", **plain)[0]
    assert packed.code("web") == "S15", "codes are a contract between hosts and gateways"


def test_a_tag_of_its_own_counts_more() -> None:
    offers, _ = read(TAG, **{"svc:web": "3;8020-8021"})
    assert Offer("web", "3", 8020, 8021) in offers and len(offers) == 2


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        ("", "it ends within an offer"),
        (TAG[:-1], "it ends within an offer"),
        ("H0é", "it ends within an offer"),
        (f"H0{packed.code('other')}AAAAC", "with the code"),
        (TAG[:3] + ";" + TAG[4:], "it has a character that is no digit"),
        # What stands in a version's place is shown to people.
        (f"H0{API}\x1b[mAC", "it has a character that is no digit"),
        (f'H0{API}"}}\nAC', "it has a character that is no digit"),
        (TAG[:8] + "; " + TAG[10:], "it has a character that is no digit"),
        (5, "it ends within an offer"),
        (f"H0{API}AAA_i___", "offers api on ports 262143-262143, which are none"),
        (f"__{API}AAAHk", "offers api on ports 65535-65536, which are none"),
        (f"H0{API}AAAAFP__", "offers api with checks on ports from 65535 on, which are none"),
    ],
)
def test_what_is_garbled_or_no_port_is_refused(tag: object, reason: str) -> None:
    _, refused = read(tag)
    assert any(reason in one for one in refused), refused


@given(st.text(max_size=30) | st.text(alphabet="ABCabc019-_", max_size=60))
def test_reading_raises_nothing_else(text: str) -> None:
    offers, _ = read(text)
    assert all(1 <= offer.first_port <= offer.last_port <= 65535 for offer in offers)
    offers, _ = read(f"H0{API}{text}")
    assert all(re.fullmatch(r"~[A-Za-z0-9_-]{3}", offer.version) for offer in offers)


def test_a_version_is_heard_from_who_offers_its_code() -> None:
    names = VersionNames()
    member = read_member(listed(TAG), SERVICES)
    assert not names.hear(member, "api", "2.1"), "another code"
    assert not names.hear(member, "web", "2.0") and not names.hear(member, None, "2.0")
    assert not names.hear(None, "api", "2.0")
    assert names.refresh([], [member] if member else []) == {}
    assert names.hear(member, "api", "2.0")
    # A question is asked again before the next look, by this host and by others; it is news to that look all the same.
    assert not names.hear(member, "api", "2.0") and names.news
    assert member is not None
    known = names.refresh([], [member])
    assert known == {("api", packed.code("2.0")): "2.0"}
    assert read(TAG, known)[0][0] == Offer("api", "2.0", 8000, 8003)
    # What nobody offers any more is forgotten, so that strangers cannot fill a gateway.
    gone = Member("app1", "10.0.0.1", "alive", "app")
    assert names.refresh([gone], []) == {}


def test_what_was_offered_in_a_tag_of_its_own_keeps_its_name() -> None:
    before = read_member(listed("H0", **{"svc:api": "2.0;8000-8003"}), SERVICES)
    assert before is not None
    names = VersionNames().refresh([before], [])
    assert read(TAG, names)[0][0] == before.offers[0]
    # Of one that is not believed nothing is remembered, and its word could have the code of another's.
    assert VersionNames().refresh([], [before]) == {}


def test_memory_keeps_a_code_and_a_name() -> None:
    member = read_member(listed(TAG), SERVICES, {("web", packed.code("1.0.0")): "1.0.0"})
    assert member is not None
    memory = {"app1": Known(member)}
    assert load_memory(dump_memory(memory), SERVICES) == memory


def test_a_share_is_of_a_version_by_name_or_code() -> None:
    servers = [
        Server("web", f"app{i}-8000", f"10.0.0.{i}", 8000, False, version)
        for i, version in enumerate(["1", unknown("1"), "2", unknown("2")])
    ]
    found = shares.weighted(servers, [shares.Share("web", "2", 10)])
    assert [server.weight for server in found] == [256, 256, 28, 28]
