"""How much a host may offer: what is refused is what Serf would refuse, byte by byte."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
from pydantic import ValidationError

from fiefdom.desired import offers
from fiefdom.model.tag_rules import TAGS_MAX_BYTES, code, packed_bytes
from helpers.example import context

sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "gateway"))

from fiefdom_gateway import packed

LONG = "v" * 128


def services(count: int, version: str = LONG, apart: int = 10, first: int = 8000, **more: Any) -> dict[str, Any]:
    own = {
        f"service-with-a-long-name-{i}": {
            "image": "a",
            "version": version,
            "base_port": first + apart * i,
            "route": {"path_prefix": f"/{i}"},
            **more,
        }
        for i in range(count)
    }
    return {**own, "predictor": None, "web": None}


def refusal(wanted: dict[str, Any]) -> str | None:
    """Why a host may not offer these services; None where it may."""
    try:
        context("app2", hosts={"app1": {"services": None}, "app2": {"services": None}}, services=wanted)
    except ValidationError as error:
        return "\n".join(str(one["ctx"]["all"]) for one in error.errors())
    return None


def test_sixty_services_fit_whose_names_and_versions_are_long() -> None:
    assert refusal(services(60)) is None
    assert refusal(services(60, apart=100)) is None, "126 ports may lie between"
    said = refusal(services(61))
    assert said is not None
    assert "its 61 services need 520 bytes and Serf carries 512; give them ports that lie together, or spread" in said


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (43, {"apart": 200}),
        (43, {"health": True}),
        (34, {"apart": 200, "health": True}),
        (28, {"apart": 250, "health": True, "instances": 20}),
    ],
)
def test_ports_that_lie_apart_and_checks_of_their_own_take_more_room(most: int, more: dict[str, Any]) -> None:
    def wanted(count: int) -> dict[str, Any]:
        found = services(count, first=2000, apart=more.get("apart", 2))
        for i, service in enumerate(list(found.values())[:count]):
            if "health" in more:
                service["health"] = {"container_port": 3001, "base_port": 30000 + 40 * i}
            service["instances"] = more.get("instances", 1)
        return found

    assert refusal(wanted(most)) is None
    assert "and Serf carries 512" in str(refusal(wanted(most + 1)))


def test_a_service_that_could_be_taken_for_another_is_named_and_only_where_it_matters() -> None:
    seen: dict[int, str] = {}
    names = next((seen[code(n)], n) for n in map("s{}".format, range(10**6)) if seen.setdefault(code(n), n) != n)
    twins = {
        name: {"image": "a", "version": "1", "base_port": 7000 + i, "route": {"path_prefix": f"/t{i}"}}
        for i, name in enumerate(names)
    }
    assert refusal({**services(3, version="1"), **twins}) is None, "each has a tag of its own"
    said = refusal({**services(5), **twins})
    assert said is not None and f"gateways cannot tell it from {names[0]}; give one of them another name" in said
    assert packed.by_code([*names, "web"]) == {packed.code("web"): "web"}, "nor does a gateway guess"


def test_a_host_that_offers_all_it_may_can_still_say_that_it_leaves() -> None:
    """Serf refuses tags of more bytes, and a host that cannot say so would leave without being drained."""
    sizes = []
    for length in range(25, 64):
        wanted = services(8, version="1" * length, apart=1, first=9100)
        wanted = {name.replace("service-with-a-long-name-", "s"): service for name, service in wanted.items()}
        own = {"app1": {"services": None}, "app2": {"services": None}}
        found = context("app2", hosts=own, services=wanted)
        words = {f"svc:{offer.service}": offer.word for offer in offers.desired(found).offers}
        sizes.append(bytes_of(words))
        assert packed_bytes([(9100 + i, 1, None) for i in range(8)]) == bytes_of({"o": "-" * (2 + 8 * 8)})
    assert any(size > TAGS_MAX_BYTES for size in sizes)


def bytes_of(offered: dict[str, str]) -> int:
    """Beside the map, in MessagePack's old form, Serf's own first byte."""
    return 1 + len(msgpack.packb({"role": "app", "state": "leaving", **offered}, use_bin_type=False))
