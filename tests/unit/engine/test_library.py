"""Fiefdom's deploys in a foreign repository: whose host it is, what one concern needs, one sentence for the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers import forked
from helpers.example import GOSSIP_KEY
from helpers.inventories import THEIRS, VALID, as_yaml

# pyinfra's own objects of a foreign inventory, at hosts that answer as a bare Debian does; nothing is connected.
PROGRAM = """
import json, os, sys
from types import SimpleNamespace
from fiefdom import deploys as fiefdom
from pyinfra.api import Config, Inventory, State, deploy
from pyinfra.api.exceptions import DeployError, PyinfraError
from pyinfra.api.host import Host
from pyinfra.context import ctx_host, ctx_state

asked = json.loads(sys.argv[1])
inventory = Inventory(
    ([(name, data) for name, data in asked["hosts"].items()], asked.get("all", {})),
    override_data=asked.get("data"),
    **{name: (list(hosts), data) for name, (hosts, data) in asked.get("groups", {}).items()},
)
state = State(inventory, Config(FAIL_PERCENT=None), check_for_changes=False)
lines = ["snapshot\\t1", "uid\\t0", "os\\tdebian\\ttrixie", "client\\t10.9.0.3", "docker\\tup", "end"]
Host.get_fact = lambda *_, **__: lines

def tried(what):
    try:
        return eval(what)
    except PyinfraError as error:
        return f"{type(error).__name__}: {error}"

with ctx_state.use(state):
    found = {}
    for name, host in inventory.hosts.items():
        with ctx_host.use(host):
            @deploy("Theirs", data_defaults=asked.get("defaults"))
            def theirs():
                return tried(asked["call"])

            answer = theirs()
            if isinstance(answer, fiefdom.Changes):
                metas = [state.get_op_meta(done._hash) for done in answer.operations]
                answer = [sorted(meta.names)[0] for meta in metas]
            found[name] = answer
print(json.dumps([found, state.config.FAIL_PERCENT]))
"""

MEMBERS = {
    "gw1": {"ssh_hostname": "10.9.0.11", "fiefdom": {"groups": ["gateways"]}},
    "app1": {"ssh_hostname": "10.9.0.21", "fiefdom": {"groups": ["app_hosts"]}},
}
PHASES = ("packages", "access", "files", "images", "containers", "removal")


def found(call: str, hosts: dict[str, Any], **others: Any) -> tuple[dict[str, Any], int | None]:
    asked = json.dumps({"call": call, "hosts": hosts, **others})
    done = forked.run(PROGRAM, asked, cwd=Path(__file__).parents[2], timeout_s=60)
    assert done.returncode == 0, done.stderr
    answer, fail_percent = json.loads(done.stdout.splitlines()[-1])
    return answer, fail_percent


def named(concern: str, *left_out: str) -> list[str]:
    return [f"Theirs | Fiefdom {concern} | {phase}" for phase in PHASES if phase not in left_out]


def test_a_host_outside_gets_sshd_alone_and_nobody_elses_run_is_changed() -> None:
    """No namespace at all is enough; operations bear the concern's name."""
    answer, fail_percent = found("fiefdom.sshd()", {"db.example.org": {"colour": "blue", "ssh_user": "ann"}})
    assert answer == {"db.example.org": [n.replace("images", "images sent") for n in named("sshd")]}
    assert fail_percent is None


def test_who_is_a_member() -> None:
    hosts = {**MEMBERS, "db.example.org": {}, "cache": {"fiefdom": {"ssh": {"port": 2222}}}}
    answer, _ = found("fiefdom.is_member(host)", hosts, all={"fiefdom": THEIRS, "cluster": "k8s", "hosts": 3})
    assert answer == {"gw1": True, "app1": True, "db.example.org": False, "cache": False}


def test_members_get_the_site_and_others_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THEIR_KEY", GOSSIP_KEY)
    hosts = {**MEMBERS, "db.example.org": {}}
    answer, fail_percent = found("fiefdom.site()", hosts, all={"fiefdom": THEIRS})
    assert answer["gw1"] == answer["app1"] and len(answer["app1"]) == len(PHASES)
    assert answer["db.example.org"].startswith("DeployError: db.example.org: is in no cluster of Fiefdom's; ask `if ")
    assert fail_percent == 0


def test_one_concern_of_a_member_asks_for_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THEIR_KEY", raising=False)
    monkeypatch.delenv("FIEFDOM_GOSSIP_KEY", raising=False)
    hosts = {"gw1": MEMBERS["gw1"], "app1": MEMBERS["app1"]}
    everywhere = {"fiefdom": THEIRS}
    answer, _ = found("fiefdom.docker()", hosts, all=everywhere)
    assert isinstance(answer["app1"], list)
    answer, _ = found("fiefdom.serf()", hosts, all=everywhere)
    assert "THEIR_KEY is not set" in answer["app1"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("fiefdom.sshdd()", "DeployError: fiefdom.deploys has no sshdd; it has Changes, address, docker, "),
        ("fiefdom.sshd(port=22)", "DeployError: fiefdom.sshd(port): takes pyinfra's global arguments alone"),
        ("fiefdom.sshd('web')", "DeployError: fiefdom.sshd('web'): takes pyinfra's global arguments alone"),
        ("fiefdom.is_member('web')", "DeployError: fiefdom.is_member('web'): takes pyinfra's `host`"),
        ("fiefdom.services()", "DeployError: db: is in no cluster of Fiefdom's"),
        ("fiefdom.network()", "DeployError: fiefdom in the data of db: address: missing"),
        ("fiefdom.firewall()", "DeployError: fiefdom in the data of db: network.admin_cidrs: missing"),
    ],
)
def test_what_is_wrong_is_one_sentence(call: str, says: str) -> None:
    answer, _ = found(call, {"db": {"fiefdom": {}}})
    assert answer["db"].startswith(says) and "\n" not in answer["db"], answer["db"]


def test_another_connector_is_one_sentence() -> None:
    answer, _ = found("fiefdom.sshd()", {"@local": {}})
    assert answer["@local"].startswith("DeployError: @local: pyinfra reaches it by its connector local, and Fiefdom ")


def test_it_takes_pyinfras_global_arguments() -> None:
    answer, _ = found("fiefdom.sshd(_if=lambda: False, _retries=2)", {"db": {}})
    assert isinstance(answer["db"], list)


FLEET = """
import json, sys
from pathlib import Path
from fiefdom.engine.whose import is_member, whose
from pyinfra.api.state import State
from pyinfra.context import ctx_state
from pyinfra_cli.inventory import make_inventory

with ctx_state.use(State()):
    found = make_inventory(sys.argv[1], cwd=str(Path.cwd()))
told = {}
for host in found:
    own = host.data.get("fiefdom")
    says = [own.address, own.role, own.services, own.ports, own.versions] if own else None
    told[host.name] = [is_member(found, host), sorted(host.groups), says]
cluster = whose(found, found.get_host("app2"), ("serf", "gateway"))[1]()
print(json.dumps([told, list(cluster.hosts)]))
"""


def test_a_fleet_in_a_larger_inventory(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(as_yaml(VALID))
    text = "from fiefdom.inventory import fleet\nlarge = ['db']\nglobals().update(fleet('fleet.yaml', globals()))\n"
    (tmp_path / "theirs.py").write_text(text)
    done = forked.run(FLEET, str(tmp_path / "theirs.py"), cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    told, hosts = json.loads(done.stdout)
    assert told["db"] == [False, ["large", "theirs"], None] and hosts == ["gw1", "app1", "app2"]
    assert told["gw1"] == [True, ["fleet", "gateways", "theirs"], ["10.0.0.11", "gateway", [], {}, {}]]
    ports, versions = {"web": [8000, 8001], "api": [9000]}, {"web": "1.0", "api": "2"}
    assert told["app2"][2] == ["10.0.0.22", "app", ["web", "api"], ports, versions]


FILES = """
import ast, json, pathlib
from fiefdom import deploys
from fiefdom.desired.concerns import ALL
called = {}
for path in sorted(pathlib.Path("deploys").glob("*.py")):
    imported, *calls = (node for node in ast.parse(path.read_text()).body[1:])
    assert ast.unparse(imported) == "from fiefdom import deploys as fiefdom", path
    called[path.stem] = [getattr(deploys, call.value.func.attr).__name__ for call in calls]
print(json.dumps([called, ALL]))
"""


def test_every_concern_has_a_function_and_a_file_that_calls_it() -> None:
    done = forked.run(FILES, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    called, concerns = json.loads(done.stdout)
    assert called.pop("site") == ["site"] and called["network"] == ["network", "firewall"]
    assert sorted(name for names in called.values() for name in names) == sorted(concerns)
    assert all(stem in names for stem, names in called.items())
