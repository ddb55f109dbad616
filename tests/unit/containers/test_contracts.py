"""What the library and the gateway's program write for each other: what is read is written, and under the same name.

Each side is tested by itself with documents of its own; here one side's writer meets the other side's reader.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import ipaddress
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fiefdom.cluster import views
from fiefdom.cluster.views import Agent, Config, Refused, Seen, View
from fiefdom.desired import gateway
from helpers.example import context

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "images" / "gateway"))

from fiefdom_gateway import edges, settings, status  # noqa: E402
from fiefdom_gateway.members import Member, Offer, Rejection  # noqa: E402
from fiefdom_gateway.refusal import Refusal  # noqa: E402
from fiefdom_gateway.settings import BadSettings, Host, Service  # noqa: E402
from fiefdom_gateway.shares import Share  # noqa: E402
from fiefdom_gateway.wanted import Server  # noqa: E402


class Watched(dict[str, Any]):
    """An object of a document that notes which of its keys are asked for."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__(found)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self.asked |= self.keys()
        return super().__iter__()

    def items(self) -> Any:
        self.asked |= self.keys()
        return super().items()


@dataclasses.dataclass
class Reading:
    """A program's reading of a document: what it made of it, and what of it it asked for."""

    made: Any
    objects: list[Watched]

    @property
    def unread(self) -> set[str]:
        """Keys that are written and that nobody asks for."""
        return {key for found in self.objects for key in found.keys() - found.asked}

    @property
    def unwritten(self) -> set[str]:
        """Keys that are asked for and that nobody writes."""
        return {key for found in self.objects for key in found.asked - found.keys()}


def read(module: Any, reader: str, text: str) -> Reading:
    """Let a module read a document; it takes JSON from `json.loads` alone."""
    objects: list[Watched] = []

    def watched(found: dict[str, Any]) -> Watched:
        objects.append(Watched(found))
        return objects[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "json", SimpleNamespace(loads=lambda text: json.loads(text, object_hook=watched)))
        made = getattr(module, reader)(text)
    assert objects
    return Reading(made, objects)


# --- reconciler.json: the library writes it, the gateway reads it

AT = context("gw1")
RECONCILER_JSON = gateway.desired(AT).file(gateway.RECONCILER_CONFIG).content.decode()
# What is not written where it is as ever: an earlier Fiefdom's gateways would replace their file for it.
OPTIONAL = {"kind", "sticky"}


def test_the_gateway_reads_all_that_the_library_writes_and_nothing_else() -> None:
    found = read(settings, "parse_settings", RECONCILER_JSON)
    assert (found.unread, found.unwritten - OPTIONAL) == (set(), set())


def test_the_gateway_reads_of_what_kind_a_service_is() -> None:
    redis = {"image": "redis", "version": "7", "kind": "tcp", "base_port": 6379, "route": {"port": 6379}}
    at = context("gw1", services={"redis": redis})
    text = gateway.desired(at).file(gateway.RECONCILER_CONFIG).content.decode()
    found = read(settings, "parse_settings", text)
    assert found.unread == set()
    assert {name: service.is_tcp for name, service in found.made.services.items() if service.is_tcp} == {"redis": True}


def test_the_gateway_reads_whose_clients_come_back() -> None:
    at = context("gw1", services={"web": {"route": {"sticky_cookie": "WEB"}}})
    found = read(settings, "parse_settings", gateway.desired(at).file(gateway.RECONCILER_CONFIG).content.decode())
    assert found.unread == set()
    assert {name: service.sticky for name, service in found.made.services.items()} == {"predictor": False, "web": True}


def test_the_gateways_settings_are_the_inventorys() -> None:
    cluster = AT.cluster
    found = settings.parse_settings(RECONCILER_JSON)
    assert dataclasses.asdict(found) | {"services": None, "inventory": None} == {
        "cluster": cluster.cluster,
        "node": "gw1",
        "haproxy_config": Path(gateway.HAPROXY_CONFIG),
        "state_dir": Path(gateway.STATE_DIR),
        "serf_config": Path(gateway.AGENT_CONFIG),
        "rpc_addr": f"127.0.0.1:{cluster.serf.rpc_port}",
        "interval_s": 5.0,
        "absent_grace_s": 120.0,
        "stop_grace_s": float(cluster.gateway_grace_s),
        "services": None,
        "inventory": None,
    }
    options = {name: gateway.server_options(s) for name, s in cluster.services.items()}
    assert found.services == {
        "predictor": Service("predictor", "predictor", 8000, 100, options["predictor"]),
        "web": Service("web", "web", 9000, 100, options["web"]),
    }
    assert found.inventory.network == ipaddress.IPv4Network(cluster.network.cidr)
    assert found.inventory.known_hosts_only is cluster.gateway.known_hosts_only
    assert found.inventory.hosts == {
        "gw1": Host("10.1.0.11", frozenset()),
        "gw2": Host("10.1.0.12", frozenset()),
        "app1": Host("10.1.0.21", frozenset({"predictor"}), {"predictor": 8003}),
        "app2": Host("10.1.0.22", frozenset({"predictor", "web"}), {"predictor": 8001, "web": 9000}),
    }


def paths(data: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where the keys of a document stand, but for those that are names of hosts and services."""
    if isinstance(data, dict):
        for key, value in data.items():
            if at != ("hosts",) and at[-1:] != ("last_ports",):
                yield (*at, key)
            yield from paths(value, (*at, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from paths(value, (*at, number))


@pytest.mark.parametrize("path", list(paths(json.loads(RECONCILER_JSON))), ids=str)
def test_a_key_with_another_name_is_noticed(path: tuple[str | int, ...]) -> None:
    """So that the test above can fail: wherever a writer or a reader calls a key something else."""
    data = copy.deepcopy(json.loads(RECONCILER_JSON))
    node = data
    for step in path[:-1]:
        node = node[step]
    node[f"{path[-1]}_too"] = node.pop(path[-1])
    try:
        found = read(settings, "parse_settings", json.dumps(data))
    except BadSettings as error:
        assert str(path[-1]) in str(error)
    else:
        assert f"{path[-1]}_too" in found.unread and found.unwritten - OPTIONAL == {path[-1]}


# --- The status document: the gateway writes it, the library reads it

DIGEST, REFUSED = "0" * 64, "1" * 64
OFFER = Offer("predictor", "1.0.0", 8000, 8000)
REPLIES = {
    "show servers state": (
        "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_check_state srv_port "
        "srv_check_port srv_uweight\n"
        "3 predictor 1 app1-8000 10.99.0.21 2 0 6 8000 0 1\n"
        "3 predictor 2 app2-8001 10.99.0.22 2 8 6 8001 0 1\n"
    ),
    "show stat": (
        "# pxname,svname,status,scur,qcur,stot,req_tot,hrsp_5xx,econ,eresp,wretr\nport-80,FRONTEND,OPEN,4,,4,4,0,,,\n"
        "predictor,app1-8000,UP,1,2,70,70,4,2,3,6\npredictor,app2-8001,DRAIN,0,0,9,9,8,7,6,5\n"
    ),
    "show stat -1 1 -1": "# pxname,svname,status\nport-80,FRONTEND,OPEN\n",
    "show ssl cert": "# filename\n/etc/fiefdom/gateway/certificates/www.pem\n\n",
    "show ssl cert /etc/fiefdom/gateway/certificates/www.pem": (
        "Filename: /etc/fiefdom/gateway/certificates/www.pem\nStatus: Used\nnotBefore: Nov 28 23:09:13 2026 GMT\n"
        "notAfter: Feb  7 23:09:13 2027 GMT\nSubject Alternative Name: DNS:www.example.org, IP Address:10.0.0.1\n"
    ),
    "show info": "Version: 3.0.11\nPid: 7\nUptime_sec: 60\n",
}


CERTIFICATES = (
    views.Certificate("www", ("www.example.org", "10.0.0.1"), datetime(2027, 2, 7, 23, 9, 13, tzinfo=timezone.utc)),
)


def status_document(look: status.Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the gateway answers of a look, where HAProxy says what stands above."""

    async def ask(command: str, _socket: Path, _timeout_s: float) -> str:
        return REPLIES[command]

    monkeypatch.setattr(edges, "ask_haproxy", ask)
    (tmp_path / "run").mkdir()
    return json.dumps(asyncio.run(status.document(look, edges.Sockets(tmp_path / "run" / "1"))))


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """One with every field filled."""
    look = status.Look(
        node="gw1",
        services={"predictor": Service("predictor", "predictor", 8000, 100, "check")},
        members=(
            Member("app1", "10.99.0.21", "alive", "app", (OFFER,)),
            Member("app2", "10.99.0.22", "leaving", "app", (OFFER,), failed_leaving=True),
        ),
        refused=(Rejection("app8", "not written"),),
        rejected=(Rejection("app9", "claims the name"),),
        wanted=(Server("predictor", "app1-8000", "10.99.0.21", 8000, False, "1.0.0"),),
        serf_error="timed out",
        config_error="the port is taken",
        config_digest=DIGEST,
        refusal=Refusal(REFUSED, "the port is taken", time.monotonic() + 60, 5.0),
        reconciled_at_s=time.monotonic(),
        closed=frozenset({"predictor", "gone"}),
        shares=(Share("gone", "1", 5), Share("predictor", "1.0.0", 10)),
        asked_shares=(Share("predictor", "1.0.0", 20),),
        looked=True,
        ready=True,
    )
    return status_document(look, tmp_path, monkeypatch)


def test_all_that_the_library_reads_of_a_gateway_is_written(document: str) -> None:
    found = read(views, "parse_view", document)
    assert found.unwritten == set()
    assert found.made == View(
        serf=Agent(False, "timed out"),
        config=Config(False, "the port is taken", DIGEST, REFUSED, retries=True),
        members=(
            Seen("app1", "10.99.0.21", "alive", frozenset({"predictor"})),
            Seen("app2", "10.99.0.22", "leaving", frozenset({"predictor"})),
        ),
        servers=(
            views.Server("predictor", "app1-8000", 8000, "up", requests=70, errors_5xx=4, failures=5, version="1.0.0"),
            views.Server("predictor", "app2-8001", 8001, "drain", requests=9, errors_5xx=8, failures=13),
        ),
        rejected=(Refused("app9", "claims the name"),),
        certificates=CERTIFICATES,
        maintenance=("predictor",),
        shares=(views.Share("predictor", "1.0.0", 10),),
        asked_shares=(views.Share("predictor", "1.0.0", 20),),
    )


def test_a_gateway_with_which_all_is_well_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = {"closed": frozenset(), "shares": ()}
    look = status.Look(node="gw1", services={}, serf_error=None, config_digest=DIGEST, **heard)  # type: ignore[arg-type]
    found = read(views, "parse_view", status_document(look, tmp_path, monkeypatch))
    assert found.unwritten == set()
    # That it is about no other configuration is said, which an older gateway does not.
    assert found.made == View(
        serf=Agent(True), config=Config(True, digest=DIGEST, refused=""), certificates=CERTIFICATES
    )


def test_a_gateway_that_tells_nothing_of_its_certificates_is_well_for_all_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(_: object) -> list[dict[str, object]]:
        raise edges.Failed("no answer within 2 s")

    monkeypatch.setattr(status.certificates, "served", silent)
    look = status.Look(node="gw1", services={"predictor": Service("predictor", "predictor", 8000, 100, "check")})
    found = json.loads(status_document(dataclasses.replace(look, ready=True), tmp_path, monkeypatch))
    assert (found["certificates"], len(found["servers"]), "error" in found["haproxy"]) == ([], 2, False)
    assert found["healthy"] is True


def test_a_part_of_the_status_with_another_name_is_noticed(document: str) -> None:
    """So that the test above can fail."""
    seen = read(views, "parse_view", document).objects[-1]
    names = {
        (part, key)
        for part in list(seen.asked)
        for row in (seen[part] if isinstance(seen[part], list) else [seen[part]])
        for key in row.asked
    }
    assert len(names) == 2 + 5 + 4 + 8 + 2 + 3 + 1 + 3 + 3
    for part, key in names:
        sent = json.loads(document)
        for row in sent[part] if isinstance(sent[part], list) else [sent[part]]:
            row[f"{key}_too"] = row.pop(key)
        assert key in read(views, "parse_view", json.dumps(sent)).unwritten
    for part in seen.asked:
        sent = json.loads(document)
        sent[f"{part}_too"] = sent.pop(part)
        assert part in read(views, "parse_view", json.dumps(sent)).unwritten
