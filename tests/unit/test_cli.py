"""The command as a person meets it where no host is asked: help, bad input, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FIEFDOM = Path(sys.executable).with_name("fiefdom")
VALID = (ROOT / "inventories/lab.yaml").read_text()


def fiefdom(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(FIEFDOM), *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def refusal(*arguments: str) -> str:
    done = fiefdom(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("plan", "apply", "status", "build", "keygen", "rollout", "reboot", "unlock", "audit"),
        *("rollback predictor", "retire app1", "lock --why=inventory"),
    ],
)
def test_every_command_refuses_a_path_that_is_not_there(command: str) -> None:
    verb, *more = command.split()
    assert "nowhere.yaml" in refusal(verb, "nowhere.yaml", *more)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rollout", "x.yaml", "--canary", "app1", "--continue"], "--canary and --continue exclude each other"),
        (["rollout", "x.yaml", "--batch"], "--batch"),
        (["rollout", "x.yaml", "predictor", "1.1.0"], "1.1.0"),
        (["rollback", "x.yaml"], "SERVICE"),
        (["retire", "x.yaml"], "HOST"),
        (["lock", "x.yaml"], "--why"),
        (["audit", "x.yaml", "--last", "0"], "--last"),
        (["reboot", "x.yaml", "--limit"], "--limit"),
    ],
)
def test_what_is_said_wrong_is_one_line_before_any_host_is_asked(arguments: list[str], words: str) -> None:
    assert words in refusal(*arguments)


BAD = {
    "an unknown key": ("instances: 2", "instancs: 2", "did you mean"),
    "a wrong type": ("instances: 2", "instances: two", "services.predictor.instances"),
    "a range past the last port": ("base_port: 8000", "base_port: 65535", "65535"),
    "two hosts with one address": ("10.99.0.22", "10.99.0.21", "hosts.app2.address"),
    "a bad CIDR": ("cidr: 10.99.0.0/24", "cidr: 10.99.0.7/24", "10.99.0.0/24"),
    "no version": ("    version: 1.0.0\n", "", "services.predictor.version"),
    "no gateway": ("groups: [gateways]", "groups: [others]", "gateways"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_with_file_and_key(tmp_path: Path, name: str) -> None:
    old, new, words = BAD[name]
    assert old in VALID
    path = tmp_path / "bad.yaml"
    path.write_text(VALID.replace(old, new))
    line = refusal("plan", str(path))
    assert "bad.yaml" in line
    assert words in line


def test_an_empty_inventory_is_told(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.touch()
    assert "empty.yaml" in refusal("plan", str(path))


def test_a_missing_gossip_key_names_the_command_that_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(VALID)
    assert "fiefdom keygen" in refusal("plan", str(path))


def test_a_wrong_option_exits_1_not_2() -> None:
    assert "No such option" in refusal("plan", "inventories/lab.yaml", "--frobnicate")


def test_a_limit_that_matches_nothing_is_told_before_any_login() -> None:
    assert "--limit 'app7'" in refusal("plan", "inventories/lab.yaml", "--limit", "app7")


def test_help_names_every_command_and_version_is_told() -> None:
    helped = fiefdom("--help")
    assert helped.returncode == 0
    for command in (
        *("plan", "apply", "status", "build", "keygen", "schema", "demo", "lab"),
        *("rollout", "rollback", "reboot", "retire", "lock", "unlock", "audit"),
    ):
        assert f"  {command} " in helped.stdout
    assert fiefdom("--version").stdout.strip().endswith("0.1.0")


def test_schema_is_the_file_that_the_inventories_name() -> None:
    assert fiefdom("schema").stdout == (ROOT / "schema/fiefdom.schema.json").read_text()


def test_lab_is_told_how_many_hosts_it_may_have() -> None:
    assert "--app-hosts" in refusal("lab", "up", "--app-hosts", "10")
