"""Fiefdom's facts as pyinfra asks for them: names, whose they are, and one sentence for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers import forked
from helpers.example import GOSSIP_KEY
from helpers.inventories import THEIRS

# pyinfra's own objects and its own way to a fact, at hosts that answer as Debian does; nothing is connected.
PROGRAM = """
import json, logging, sys
from pyinfra.api import Config, Inventory, State
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.connectors.util import CommandOutput, OutputLine
from pyinfra.context import ctx_host, ctx_state
from pyinfra_cli.util import json_encode, try_import_module_attribute
from fiefdom import facts

asked = json.loads(sys.argv[1])
inventory = Inventory(([(name, data) for name, data in asked["hosts"].items()], asked.get("all", {})))
state = State(inventory, Config(), check_for_changes=False)
commands, told = [], []
teller = logging.Handler()
teller.emit = lambda record: told.append(record.getMessage())
logging.getLogger("pyinfra").addHandler(teller)

def answer(host, command, *_, **arguments):
    text = str(command)
    commands.append([host.name, arguments.get("_stdin") is not None])
    if "snapshot.py" in text:
        lines = ["fiefdom-answers", "snapshot\\t1", "uid\\t0", "os\\tdebian\\ttrixie"]
        lines += ["client\\t10.9.0.3", "docker\\tup", "end"]
    elif "itself.py" in text:
        lines = ["a login's own words", "fiefdom-answers", *asked["says"]]
    else:
        lines = ["found"]
    return True, CommandOutput([OutputLine("stdout", line) for line in lines])

Host.run_shell_command = answer
Host.connected = True
for each in inventory:
    state.activate_host(each)
fact = try_import_module_attribute(asked["fact"], prefix="pyinfra.facts")
with ctx_state.use(state), ctx_host.use(inventory.get_host(asked["at"])):
    host = inventory.get_host(asked.get("of", asked["at"]))
    try:
        found = host.get_fact(fact, **asked.get("arguments", {}))
    except PyinfraError as error:
        found = f"{type(error).__name__}: {error}"
failed = sorted(h.name for h in state.failed_hosts)
print(json.dumps([found, commands, failed, fact.name, told], default=json_encode))
"""

HOSTS = {
    "gw1": {"ssh_hostname": "10.9.0.11", "fiefdom": {"groups": ["gateways"]}},
    "app1": {"ssh_hostname": "10.9.0.21", "fiefdom": {"groups": ["app_hosts"]}},
    "db": {"ssh_hostname": "10.9.0.31"},
}
SAYS = ["docker\tup", "instance\tweb-8000\trunning\t1.0", "offer\tweb\t1.0;8000-8000"]


def found(fact: str, at: str, **others: Any) -> tuple[Any, list[Any], list[str], str, str]:
    asked = json.dumps({"hosts": HOSTS, "all": {"fiefdom": THEIRS}, "fact": fact, "at": at, "says": SAYS, **others})
    done = forked.run(PROGRAM, asked, cwd=Path(__file__).parents[2], timeout_s=60)
    assert done.returncode == 0, done.stderr
    answer, commands, failed, name, told = json.loads(done.stdout.splitlines()[-1])
    return answer, commands, failed, name, "\n".join(told)


def test_instances_are_one_round_trip_and_have_the_name_that_is_asked_for() -> None:
    answer, commands, failed, name, _ = found("fiefdom.facts.Instances", "db")
    assert answer == [{"service": "web", "port": 8000, "version": "1.0", "state": "running", "offered": True}]
    assert (commands, failed, name) == ([["db", False]], [], "fiefdom.facts.Instances")


def test_a_member_is_asked_without_an_inventory_of_fiefdoms() -> None:
    answer, commands, _, _, _ = found("fiefdom.facts.Member", "db", all={})
    assert answer["state"] == "absent" and len(commands) == 1


@pytest.mark.parametrize("fact", ["Instances", "Member"])
def test_who_may_not_use_docker_fails_alone(fact: str) -> None:
    answer, _, failed, _, told = found(f"fiefdom.facts.{fact}", "app1", says=["docker\tclosed"])
    assert (answer, failed) == (None, ["app1"])
    assert "the login user may not use Docker" in told


def test_drift_is_that_of_the_host_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question goes to its input; then pyinfra has its own word of that host."""
    monkeypatch.setenv("THEIR_KEY", GOSSIP_KEY)
    answer, commands, _, _, _ = found("fiefdom.facts.Drift", "gw1", of="app1")
    assert "+ offer web: 1.0 on 8000-8000" in answer, answer
    assert commands == [["app1", True], ["app1", False]]
    assert GOSSIP_KEY not in "".join(answer)


def test_drift_of_one_concern_outside_a_cluster_asks_for_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THEIR_KEY", raising=False)
    answer, _, _, _, _ = found("fiefdom.facts.Drift", "db", arguments={"concern": "sshd"})
    assert any("/etc/ssh/sshd_config.d/10-fiefdom.conf" in sentence for sentence in answer), answer
    assert not any("docker" in sentence for sentence in answer)


@pytest.mark.parametrize(
    ("at", "arguments", "says"),
    [
        ("db", {}, "is in no cluster of Fiefdom's; ask `if "),
        ("db", {"concern": "services"}, "is in no cluster of Fiefdom's"),
        ("app1", {"concern": "sshdd"}, "no such concern 'sshdd'; they are network, firewall, "),
        ("app1", {"concern": ["sshd"]}, "no such concern a list; they are "),
        ("app1", {}, "THEIR_KEY is not set"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_the_host_fails(
    monkeypatch: pytest.MonkeyPatch, at: str, arguments: dict[str, Any], says: str
) -> None:
    monkeypatch.delenv("THEIR_KEY", raising=False)
    monkeypatch.delenv("FIEFDOM_GOSSIP_KEY", raising=False)
    answer, _, failed, _, told = found("fiefdom.facts.Drift", at, arguments=arguments)
    assert (answer, failed) == (None, [at])
    assert says in told and "Traceback" not in told
