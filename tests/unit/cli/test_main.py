"""The command as a person meets it where no host is asked: help, bad input, exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from fiefdom import __version__, inventory
from fiefdom.inventory import secret
from helpers import forked

ROOT = Path(__file__).resolve().parents[3]
FIEFDOM = Path(sys.executable).with_name("fiefdom")
VALID = (ROOT / "inventories/lab.yaml").read_text()


def started(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The installed command itself, from a cold start."""
    return subprocess.run(
        [str(FIEFDOM), *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def fiefdom(*arguments: str, folder: Path = ROOT, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return forked.fiefdom(*arguments, cwd=folder, stdin=stdin)


def refusal(
    *arguments: str, folder: Path = ROOT, run: Callable[..., subprocess.CompletedProcess[str]] = fiefdom
) -> str:
    done = run(*arguments, folder=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(
            "plan",
            "apply",
            "status",
            "build",
            "keygen",
            "rollout",
            "reboot",
            "rotate-key",
            "unlock",
            "audit",
            "upgrade",
        ),
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
        (["secret", "set", "x.yaml"], "NAME"),
        (["secret", "set", "x.yaml", "token", "hunter2"], "hunter2"),
        (["lock", "x.yaml", "--why"], "--why"),
        (["status", "x.yaml", "--watch", "--check"], "--watch is for a person's eyes"),
        (["status", "x.yaml", "--watch"], "there is none"),
        (["status", "x.yaml", "--wait", "0"], "--wait"),
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
    path.write_text(VALID.replace("    build: ../images/predictor\n", ""))
    assert "fiefdom keygen" in refusal("plan", str(path), folder=tmp_path)


@pytest.mark.long
def test_a_wrong_option_exits_1_not_2() -> None:
    assert "No such option" in refusal("plan", "inventories/lab.yaml", "--frobnicate", run=started)


def test_a_limit_that_matches_nothing_is_told_before_any_login() -> None:
    assert "--limit 'app7'" in refusal("plan", "inventories/lab.yaml", "--limit", "app7")


NO_HOST = "--without 'app7': no such host; hosts are gw1, app1, app2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *((f"{verb} --without app7", NO_HOST) for verb in ("plan", "apply", "rollout", "rollback predictor", "lock")),
        ("apply --without gw1", "--without gw1: leaves no gateway"),
        ("rollout --without gw1", "--without gw1: leaves no gateway"),
        ("apply --limit app1 --without app1", "--without app1: leaves no host"),
        ("rollout --canary app1 --without app1", "--canary app1: is left out by --without"),
        *((verb, "say --yes") for verb in ("rollback predictor", "rollback predictor 1.0.0 --json", "rotate-key")),
        *((verb, "say --yes") for verb in ("retire app1", "retire app1 --json --force")),
        ("retire app7 --yes", "'app7' is no host of this inventory"),
    ],
)
def test_what_may_not_be_is_told_before_any_login(arguments: str, words: str) -> None:
    verb, *rest = arguments.split()
    done = fiefdom(verb, "inventories/lab.yaml", *rest)
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_help_names_every_command_and_version_is_told() -> None:
    helped = started("--help")
    assert helped.returncode == 0
    for command in (
        *("plan", "apply", "status", "build", "keygen", "schema", "demo", "lab", "compose", "dev"),
        *(
            "rollout",
            "rollback",
            "reboot",
            "retire",
            "rotate-key",
            "lock",
            "unlock",
            "audit",
            "secret",
            "init",
            "upgrade",
        ),
    ):
        assert f"  {command} " in helped.stdout
    assert started("--version").stdout == f"fiefdom, version {__version__}\n"


def test_schema_is_the_file_that_the_inventories_name() -> None:
    assert fiefdom("schema").stdout == (ROOT / "schema/fiefdom.schema.json").read_text()


def test_lab_is_told_how_many_hosts_it_may_have() -> None:
    assert "--app-hosts" in refusal("lab", "up", "--app-hosts", "10")


# --- Secrets

# No lab and no Docker: a host is never asked by these.
ENCRYPTED = "secrets:\n  file: secrets.age\n  recipients: [{recipient}]\n"


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an operator whose inventory names an encrypted file and whose key opens it."""
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "key.txt").write_text(str(identity))
    (tmp_path / "key.txt").chmod(0o600)
    monkeypatch.setenv("FIEFDOM_IDENTITY", str(tmp_path / "key.txt"))
    text = VALID.replace("key_file: ../.lab/gossip.key", "key: {secret: gossip-key}")
    text = text.replace("    build: ../images/predictor\n", "")
    (tmp_path / "group_data").symlink_to(ROOT / "group_data")
    (tmp_path / "mine.yaml").write_text(text + ENCRYPTED.format(recipient=identity.to_public()))
    return tmp_path


def put(folder: Path, name: str, text: str) -> subprocess.CompletedProcess[str]:
    return fiefdom("secret", "set", str(folder / "mine.yaml"), name, stdin=text)


@pytest.mark.long
def test_a_secret_is_set_listed_rekeyed_and_removed(operator: Path) -> None:
    path = str(operator / "mine.yaml")
    for name, text in (("web.token", "hunter2\n"), ("api_key", "two words")):
        done = put(operator, name, text)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{name} is set. `fiefdom plan {path}` shows what it changes.\n"
    assert fiefdom("secret", "list", path).stdout == "api_key\nweb.token\n"
    before = (operator / "secrets.age").read_bytes()
    assert fiefdom("secret", "rekey", path).stdout.startswith("Encrypted anew; recipients: 1. ")
    assert (operator / "secrets.age").read_bytes() != before
    assert fiefdom("secret", "remove", path, "api_key").returncode == 0
    assert fiefdom("secret", "list", path).stdout == "web.token\n"
    identity = pyrage.x25519.Identity.from_str((operator / "key.txt").read_text())
    assert pyrage.decrypt((operator / "secrets.age").read_bytes(), [identity]) == b"web.token: hunter2\n"


def test_one_of_many_lines_is_kept_as_it_is_for_a_file_of_a_service(operator: Path) -> None:
    pem = "-----BEGIN KEY-----\nhunter2\n-----END KEY-----\n"
    assert put(operator, "tls", pem).returncode == 0
    path = operator / "mine.yaml"
    own = '    user: "1000"\n    files: {/run/tls.key: {secret: tls}}\n'
    path.write_text(path.read_text().replace("    instances: 2\n", f"    instances: 2\n{own}", 1))
    assert fiefdom("keygen", str(path)).returncode == 0
    (found,) = secret.load(inventory.load(path)).contents.values()
    assert found == pem.encode()


@pytest.mark.parametrize("text", ["", "\n", "hunter2\rhunter2", "hunter2\0"])
def test_what_no_host_could_be_given_is_refused_and_not_told(operator: Path, text: str) -> None:
    done = put(operator, "token", text)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the value of token ") and done.stderr.count("\n") == 1
    assert "hunter2" not in done.stdout + done.stderr
    assert not (operator / "secrets.age").exists()


def test_a_gossip_key_is_made_in_the_encrypted_file_once(operator: Path) -> None:
    path = str(operator / "mine.yaml")
    assert "fiefdom secret set INVENTORY NAME" in refusal("plan", path)
    done = fiefdom("keygen", path)
    assert (done.returncode, done.stdout) == (0, "secrets.age holds a new gossip key as gossip-key.\n")
    assert secret.load(inventory.load(path)).gossip_key not in (operator / "secrets.age").read_text()
    assert "gossip-key: is in the encrypted file already" in refusal("keygen", path)


def test_a_gossip_key_is_not_made_where_fiefdom_cannot_put_it(operator: Path) -> None:
    path = operator / "mine.yaml"
    path.write_text(path.read_text().replace("{secret: gossip-key}", "{command: [pass, show, gossip]}"))
    assert "serf.key: comes from the command `pass show gossip`" in refusal("keygen", str(path))
    assert "pass" in refusal("plan", str(path))


@pytest.mark.parametrize("command", ["set x", "list", "remove x", "rekey"])
def test_an_inventory_without_an_encrypted_file_says_how_to_name_one(tmp_path: Path, command: str) -> None:
    verb, *name = command.split()
    (tmp_path / "lab.yaml").write_text(VALID)
    done = fiefdom("secret", verb, str(tmp_path / "lab.yaml"), *name, folder=tmp_path, stdin="value")
    says = "secrets: the inventory names no encrypted file; add `secrets` with file and recipients"
    assert (done.returncode, done.stderr) == (1, f"error: {says}\n")
