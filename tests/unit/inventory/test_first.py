"""`fiefdom init`: what is asked and refused, and what comes of the answers, held against the commands themselves."""

from __future__ import annotations

import base64
import os
import pty
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom import RELEASE
from fiefdom.files import DRAFTS
from fiefdom.inventory import first, load
from fiefdom.inventory.reference import schema_text
from helpers import forked
from helpers.tutorial import blocks, missing

LEAST = ("--gateway", "10.20.0.11", "--app-host", "10.20.0.21", "--image", "team/predictor:1.4.2")
FLAGS: dict[str, tuple[str, ...]] = {
    "the least": LEAST,
    "two gateways, names of one's own, GitLab": (
        *(
            "--cluster",
            "shop",
            "--gateway",
            "edge1=10.1.0.1",
            "--gateway",
            "edge2=10.1.9.2",
            "--app-host",
            "big=10.1.3.4",
        ),
        *("--admin-cidr", "10.1.0.0/16", "--admin-cidr", "192.168.1.7/32", "--user", "jane@corp", "--ci", "gitlab"),
        *("--service", "api", "--image", "registry.example.org:5000/team/api", "--version", "2.0", "--instances", "1"),
        *("--container-port", "3000", "--health-path", "/up?deep=1"),
    ),
    "a key, no CI": (
        *("--gateway", "10.20.0.11", "--app-host", "10.20.0.21", "--ci", "none", "--key", "~/.ssh/other_key"),
        *("--image", "nginx", "--version", "1.10", "--cidr", "10.0.0.0/8"),
    ),
    "words that YAML would take for others": (*LEAST[:4], "--image", "yes/no", "--version", "1e3", "--user", "0123"),
    "names that YAML would take for others": (
        *("--cluster", "no", "--gateway", "on=10.20.0.11", "--app-host", "null=10.20.0.21", "--service", "yes"),
        *("--image", "off", "--version", "true", "--ci", "gitlab"),
    ),
}


def init(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.fiefdom("init", str(folder), *arguments, cwd=folder.parent)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


@pytest.fixture(params=FLAGS, ids=list(FLAGS))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A folder and the inventory in it, of some flags."""
    folder = tmp_path / "mine"
    done = init(folder, *FLAGS[request.param])
    assert done.returncode == 0, done.stderr
    (inventory,) = (folder / "inventories").glob("*.yaml")
    assert done.stdout.splitlines()[-3:] == [f"  fiefdom {verb} {inventory}" for verb in ("trust", "plan", "apply")]
    assert files_in(folder) == {
        *re.findall(rf"(?m)^wrote {re.escape(str(folder))}/(.*)$", done.stdout),
    }
    return folder, inventory


def test_what_is_written_is_fine_and_says_what_was_said(
    made: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    folder, inventory = made
    for path in (inventory, inventory.with_suffix(".py")):
        done = forked.fiefdom("check", str(path), cwd=folder)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert forked.fiefdom("config", str(path), cwd=folder).returncode == 0
    cluster = load(inventory)
    text, flags = inventory.read_text(), FLAGS[request.node.callspec.params["made"]]
    said = dict(zip(flags[::2], flags[1::2], strict=True))
    (service,) = cluster.services.values()
    version = said.get("--version", "1.4.2")
    assert service.version == version and f"{service.image}:{version}".startswith(said["--image"])
    assert cluster.ssh.user == said.get("--user", "root")
    assert [cluster.hosts[name].address for name in cluster.gateways] == [
        value.rpartition("=")[2] for flag, value in zip(flags[::2], flags[1::2], strict=True) if flag == "--gateway"
    ]
    assert cluster.ssh.key == said.get("--key")
    assert (cluster.cluster, *cluster.services) == (said.get("--cluster", "mine"), said.get("--service", "web"))
    assert (folder / text.partition("$schema=../")[2].partition("\n")[0]).read_text() == schema_text()
    assert all(len(line) <= 130 for line in text.splitlines())


def test_what_comes_next_can_be_typed_as_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / "my 'own' [cluster]"
    done = init(folder, *LEAST, "--cluster", "mine")
    assert done.returncode == 0, done.stderr
    following = [shlex.split(line) for line in done.stdout.splitlines()[-3:]]
    assert following == [["fiefdom", verb, f"{folder}/inventories/mine.yaml"] for verb in ("trust", "plan", "apply")]


def test_the_gossip_key_is_its_owners_and_git_leaves_it_out(made: tuple[Path, Path]) -> None:
    folder, inventory = made
    cluster = load(inventory)
    assert cluster.serf.key_file is not None
    key = cluster.path(cluster.serf.key_file)
    assert len(base64.b64decode(key.read_text())) == 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run(["git", "-C", folder, "add", "--all"], check=True)
    committed = subprocess.run(["git", "-C", folder, "ls-files"], capture_output=True, text=True, check=True).stdout
    shown = set(committed.split())
    assert shown == {name for name in files_in(folder) if not name.startswith((".git/", "secrets/"))}
    assert all(key.read_text().strip() not in (folder / name).read_text() for name in shown)


def steps_of(text: str) -> str:
    """All shell of a workflow of either CI."""
    found: Any = yaml.safe_load(text)
    jobs = found.get("jobs", {name: job for name, job in found.items() if isinstance(job, dict) and "script" in job})
    assert set(jobs) == {"check", "plan"}
    shell = [step.get("run", "") for job in jobs.values() for step in job.get("steps", ())]
    shell += [line for job in jobs.values() for line in job.get("script", ())]
    return "\n".join(shell)


@pytest.mark.parametrize("ci", [ci for ci in first.CI if ci != "none"])
def test_a_workflow_runs_commands_that_there_are_on_the_inventory_that_there_is(tmp_path: Path, ci: str) -> None:
    folder = tmp_path / "mine"
    assert init(folder, *LEAST, "--ci", ci, "--key", "~/.ssh/deploy").returncode == 0
    text = (folder / first.workflow_path(ci, "mine")).read_text()
    assert f"fiefdom=={RELEASE}" in text and "@" not in re.sub("actions/[a-z-]+@[0-9a-f]{40}", "", text)
    assert all(re.search(r"@[0-9a-f]{40} # v[0-9]", line) for line in text.splitlines() if "uses:" in line)
    shell = steps_of(text)
    ran = re.findall(r"(?m)^\s*fiefdom ([a-z-]+) (\S+)", shell)
    assert ran == [("check", "inventories/mine.yaml"), ("plan", "inventories/mine.yaml")]
    for verb, inventory in ran:
        assert forked.fiefdom(verb, "--help").returncode == 0
        assert (folder / inventory).is_file()
    for verb in re.findall(r"`fiefdom ([a-z-]+)", text):
        assert forked.fiefdom(verb, "--help").returncode == 0, verb
    assert forked.fiefdom("check", "inventories/mine.yaml", cwd=folder).returncode == 0
    subprocess.run(["bash", "-n"], input=shell, text=True, check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, "--shell=bash", "-"], input=shell, text=True, check=True)


@pytest.mark.parametrize("ci", [ci for ci in first.CI if ci != "none"])
@pytest.mark.parametrize("code", range(4))
def test_the_gate_ends_as_plan_does_with_a_key_that_nobody_else_reads(tmp_path: Path, ci: str, code: int) -> None:
    """Its own shell, with a `fiefdom` that ends so and says what it was given."""
    folder, home = tmp_path / "mine", tmp_path / "home"
    assert init(folder, *LEAST, "--ci", ci).returncode == 0
    fake = tmp_path / "bin/fiefdom"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\n[ "$1" != plan ] || {{ stat -c %a "$HOME"/.ssh/id_ed25519; exit {code}; }}\n')
    fake.chmod(0o755)
    (tmp_path / "key").write_text("PRIVATE\n")
    given = str(tmp_path / "key") if ci == "gitlab" else "PRIVATE"
    environment = {"PATH": f"{fake.parent}:/usr/bin:/bin", "HOME": str(home), "FIEFDOM_SSH_KEY": given}
    shell = steps_of((folder / first.workflow_path(ci, "mine")).read_text()).replace('pip install "$FIEFDOM"', ":")
    done = subprocess.run(["bash", "-e"], input=shell, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (code, "600", "")
    assert (home / ".ssh/id_ed25519").read_text() == "PRIVATE\n"


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing said": ((), "--gateway, --app-host, --image, --version: missing"),
    "no image": (LEAST[:4], "--image, --version: missing"),
    "no version": ((*LEAST[:4], "--image", "registry:5000/api"), "--version: missing"),
    "no app host": (LEAST[:2] + LEAST[4:], "--app-host: missing"),
    "no address": (("--gateway", "10.20.0.300"), "--gateway 10.20.0.300: '10.20.0.300' is not an IPv4 address"),
    "no name of a host": (("--gateway", "GW_1=10.20.0.1"), "must be at most 40 lower-case letters"),
    "no name of a cluster": (("--cluster", "Mine"), "--cluster Mine: "),
    "a name twice": (("--gateway", "a=10.20.0.1", "--gateway", "a=10.20.0.2"), "'a' is there already"),
    "an address twice": (("--gateway", "10.20.0.1", "--app-host", "10.20.0.1"), "10.20.0.1 is gw1's already"),
    "hosts far apart": (("--gateway", "10.0.0.1", "--app-host", "192.168.0.1", *LEAST[4:]), "--cidr: missing"),
    "hosts outside": ((*LEAST, "--cidr", "10.30.0.0/24"), "--cidr 10.30.0.0/24: 10.20.0.11 is outside of it"),
    "host bits": ((*LEAST, "--admin-cidr", "10.0.0.1/8"), "did you mean 10.0.0.0/8?"),
    "no number": ((*LEAST, "--instances", "two"), "--instances two: must be a whole number"),
    "too many": ((*LEAST, "--instances", "1001"), "--instances 1001: must be at most 1000"),
    "no port": ((*LEAST, "--container-port", "0"), "--container-port 0: must be at least 1"),
    "no path": ((*LEAST, "--health-path", "health"), "--health-path health: "),
    "a key for a shell": ((*LEAST, "--key", "~/$(reboot)"), "--key ~/$(reboot): "),
    "no CI": ((*LEAST, "--ci", "jenkins"), "'jenkins' is not one of"),
    "a host like a group": (("--gateway", "gateways=10.20.0.1", *LEAST[2:]), "gateways"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_answer_is_one_line_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    arguments, words = REFUSED[case]
    done = init(tmp_path / "mine", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("there", "mend"),
    {
        "secrets/mine.gossip.key": "another cluster has another name; say it with --cluster",
        ".gitignore": "add the line /secrets/",
        "inventories/mine.yaml": "another cluster has another name; say it with --cluster",
        "inventories/mine.py": "another cluster has another name; say it with --cluster",
        "schema/fiefdom.schema.json": "it is another version's; `fiefdom schema >",
        ".github/workflows/fiefdom-mine.yml": "say --ci none, which leaves it out",
    }.items(),
)
def test_nothing_is_overwritten(tmp_path: Path, there: str, mend: str) -> None:
    folder = tmp_path / "mine"
    (folder / there).parent.mkdir(parents=True)
    (folder / there).write_text("mine\n")
    done = init(folder, *LEAST)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{there}: is there already and stays as it is; nothing was written: {mend}" in done.stderr
    assert files_in(folder) == {there} and (folder / there).read_text() == "mine\n"
    assert not (folder / DRAFTS).exists()


OTHER = ("--gateway", "10.30.0.11", "--app-host", "10.30.0.21", "--image", "team/predictor:1.5.0")


def test_a_second_cluster_has_its_own_beside_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert init(folder, *LEAST).returncode == 0
    first_ones = {name: (folder / name).read_bytes() for name in files_in(folder)}
    done = init(folder, *OTHER, "--cluster", "mine-next")
    assert done.returncode == 0, done.stderr
    own = {
        *("secrets/mine-next.gossip.key", "inventories/mine-next.py", "inventories/mine-next.yaml"),
        ".github/workflows/fiefdom-mine-next.yml",
    }
    assert files_in(folder) == {*first_ones, *own}
    assert {name: (folder / name).read_bytes() for name in first_ones} == first_ones
    both = [load(folder / f"inventories/{name}.yaml") for name in ("mine", "mine-next")]
    keys = [cluster.path(cluster.serf.key_file or "").read_text() for cluster in both]
    assert len(set(keys)) == 2
    for cluster in both:
        assert forked.fiefdom("check", f"inventories/{cluster.cluster}.yaml", cwd=folder).returncode == 0
    flows = [yaml.safe_load((folder / first.workflow_path("github", c.cluster)).read_text()) for c in both]
    for key in ("name", "jobs"):
        assert flows[0][key] != flows[1][key]
    assert flows[0]["jobs"]["plan"]["concurrency"] != flows[1]["jobs"]["plan"]["concurrency"]
    taken = [set(re.findall(r"secrets\.([A-Z_]+)", str(flow))) for flow in flows]
    assert taken[1] == {"FIEFDOM_SSH_KEY_MINE_NEXT", "FIEFDOM_GOSSIP_KEY_MINE_NEXT"}
    assert taken[0] == {"FIEFDOM_SSH_KEY_MINE", "FIEFDOM_GOSSIP_KEY_MINE"}


def test_a_second_cluster_of_the_same_name_or_gitlab_is_told_the_way_out(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert init(folder, *LEAST, "--ci", "gitlab").returncode == 0
    before = files_in(folder)
    for words, mend in (
        ((), "another cluster has another name; say it with --cluster"),
        (
            ("--cluster", "next", "--ci", "gitlab"),
            "say --ci none, which leaves it out, and add jobs for this cluster to it",
        ),
    ):
        done = init(folder, *OTHER, *words)
        assert done.returncode == 1 and done.stderr.endswith(f"nothing was written: {mend}\n")
        assert files_in(folder) == before
    assert init(folder, *OTHER, "--cluster", "next", "--ci", "none").returncode == 0


def test_a_schema_of_another_version_is_made_this_ones_as_it_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "my folder"
    (folder / "schema").mkdir(parents=True)
    (folder / first.SCHEMA).write_text("{}\n")
    (told,) = re.findall(r"`(.*)`", init(folder, *LEAST, "--cluster", "mine").stderr)
    verb, place = told.split(" >", 1)
    assert verb == "fiefdom schema" and shlex.split(place) == [str(folder / first.SCHEMA)]
    (folder / first.SCHEMA).write_text(forked.fiefdom("schema").stdout)
    assert init(folder, *LEAST, "--cluster", "mine").returncode == 0


@pytest.mark.parametrize("ci", first.CI)
def test_a_workflow_beneath_the_top_of_a_repository_is_told(tmp_path: Path, ci: str) -> None:
    (tmp_path / ".git").mkdir()
    done = init(tmp_path / "mine", *LEAST, "--ci", ci)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "for CI looks there alone; write mine/ before" in line]
    assert len(told) == (ci != "none")
    assert all(f" to {first.workflow_path(ci, 'mine')}, " in line for line in told)
    (tmp_path / "own/.git").mkdir(parents=True)
    assert "CI looks there" not in init(tmp_path / "own", *LEAST, "--ci", ci).stdout


def test_a_gitignore_that_keeps_the_key_out_is_as_good(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / ".gitignore").write_text("*.pyc\n/secrets/\n")
    assert init(folder, *LEAST).returncode == 0
    assert (folder / ".gitignore").read_text() == "*.pyc\n/secrets/\n"


def test_it_asks_until_an_answer_is_possible(tmp_path: Path) -> None:
    answers = ["Shop", "shop", "10.20.0.11", "10.20.0.11", "10.20.0.21, fat=10.20.3.22", "10.20.0.0/24", ""]
    answers += [
        "10.20.0.1/32 10.20.9.9/8",
        "10.20.1.1/32, 10.20.1.2/32",
        "",
        "",
        "",
        "team/shop:3",
        "0x2",
        "3",
        "",
        "up",
        "/up",
        "travis",
        "none",
    ]
    ours, theirs = pty.openpty()
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    done = forked.run(forked.COMMAND, "init", "mine", cwd=tmp_path, terminal=os.ttyname(theirs), timeout_s=60)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0, said
    assert said.count("Error: ") == 7, said
    cluster = load(tmp_path / "mine/inventories/shop.yaml")
    assert {name: host.address for name, host in cluster.hosts.items()} == {
        **{"gw1": "10.20.0.11", "app1": "10.20.0.21", "fat": "10.20.3.22"}
    }
    assert cluster.network.cidr == "10.20.0.0/22"
    assert cluster.network.admin_cidrs == ("10.20.1.1/32", "10.20.1.2/32")
    (service,) = cluster.services.values()
    assert (service.image, service.version, service.instances, service.health.path) == ("team/shop", "3", 3, "/up")
    assert not (tmp_path / "mine/.github").exists()


def test_what_the_tutorial_types_prints_what_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs/start.md").read_text()
    (block,) = (block for block in blocks(page) if block.commands.startswith("fiefdom init"))
    lines = block.commands.replace("\\\n", " ").splitlines()
    done = [forked.fiefdom(*shlex.split(line)[1:], cwd=tmp_path) for line in lines]
    assert [(one.returncode, one.stderr) for one in done] == [(0, ""), (0, "")]
    assert missing(block.prints, "".join(one.stdout for one in done)) is None


@pytest.mark.parametrize(
    ("addresses", "network"),
    [
        (["10.0.0.1"], "10.0.0.0/24"),
        (["10.0.0.1", "10.0.0.254"], "10.0.0.0/24"),
        (["10.0.0.1", "10.0.1.1"], "10.0.0.0/23"),
        (["10.0.1.1", "10.0.2.1"], "10.0.0.0/22"),
        (["10.0.0.1", "192.168.0.1"], None),
    ],
)
def test_the_network_around_hosts(addresses: list[str], network: str | None) -> None:
    assert first.network_around(addresses) == network
