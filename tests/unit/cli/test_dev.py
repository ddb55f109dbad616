"""`fiefdom compose` and `fiefdom dev` as a person meets them where no Docker is asked."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from fiefdom.cli.dev import _left_to_you
from fiefdom.model import Cluster
from fiefdom.procedures.laptop import Running
from helpers import forked
from helpers.inventories import changed

DEVELOPMENT = {
    "overrides": {"web": {"links": ["redis"], "instances": 1}},
    "services": {"redis": {"image": "redis:7.4", "port": 6379, "volumes": {"data": "/data"}}},
}
SECRET = {"services/web/environment": {"TOKEN": {"env": "WEB_TOKEN"}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(changed({"development": DEVELOPMENT, **SECRET}), sort_keys=False)
    )
    (tmp_path / "bin").mkdir()
    return tmp_path


def fiefdom(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Where there are no programs but those of this folder's bin/."""
    environ = {**os.environ, "PATH": str(folder / "bin"), **variables}
    return forked.run(forked.COMMAND, *arguments, cwd=folder, env=environ)


def test_compose_prints_a_document_that_tells_no_secret(folder: Path) -> None:
    done = fiefdom(folder, "compose", "mine.yaml", WEB_TOKEN="hunter2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter2" not in done.stdout
    services = yaml.safe_load(done.stdout)["services"]
    assert list(services) == ["web-8000", "api-9000", "redis"]
    assert services["web-8000"]["environment"]["TOKEN"].startswith("${FIEFDOM_SECRET_WEB_TOKEN?")
    one = fiefdom(folder, "compose", "mine.yaml", "api")
    assert list(yaml.safe_load(one.stdout)["services"]) == ["api-9000"]


def test_compose_writes_what_it_would_print_whole_or_not_at_all(folder: Path) -> None:
    printed = fiefdom(folder, "compose", "mine.yaml").stdout
    (folder / "out.yaml").write_text("older")
    (folder / "out.yaml").chmod(0o640)
    done = fiefdom(folder, "compose", "mine.yaml", "--output", "out.yaml")
    assert (done.returncode, done.stdout) == (0, "out.yaml has web-8000, api-9000, redis.\n")
    assert (folder / "out.yaml").read_text() == printed
    assert (folder / "out.yaml").stat().st_mode & 0o777 == 0o640
    before = sorted(path.name for path in folder.iterdir())
    refused = fiefdom(folder, "compose", "mine.yaml", "--output", "nowhere/out.yaml")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: nowhere/out.yaml: cannot be written (No such file")
    wrong = fiefdom(folder, "compose", "mine.yaml", "postgres", "--output", "out.yaml")
    assert wrong.stderr == "error: postgres: no such service; known are web, api, redis\n"
    assert (folder / "out.yaml").read_text() == printed
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("compose nowhere.yaml", "nowhere.yaml"),
        ("dev up nowhere.yaml", "nowhere.yaml"),
        ("dev up mine.yaml postgres", "postgres: no such service; known are web, api, redis"),
        ("dev up mine.yaml", "services.web.environment.TOKEN: the environment variable WEB_TOKEN is not set; set it"),
        (
            "dev up mine.yaml api",
            "there is no docker compose on this machine; install it (Debian, Ubuntu: sudo apt",
        ),
        ("dev down mine.yaml", "there is no docker compose on this machine"),
        ("dev logs mine.yaml web -f", "there is no docker compose on this machine"),
        ("dev logs mine.yaml postgres", "postgres: no such service; known are web, api, redis"),
        ("dev logs mine.yaml --last 0", "--last"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_1(folder: Path, arguments: str, says: str) -> None:
    done = fiefdom(folder, *arguments.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and says in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_json_is_one_document_when_it_is_refused(folder: Path) -> None:
    done = fiefdom(folder, "dev", "up", "mine.yaml", "api", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["outcome"], told["project"], told["log"]) == ("refused", "fiefdom-dev-test", [])
    assert told["error"].startswith("there is no docker compose on this machine")


def test_nothing_to_run_is_told(folder: Path) -> None:
    off = {"overrides": {"web": {"instances": 0}, "api": {"instances": 0}}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(changed({"development": off})))
    done = fiefdom(folder, "dev", "up", "mine.yaml")
    assert done.stderr.startswith("error: nothing is left to run; give a service of development.overrides more")


def test_what_runs_on_hosts_alone_is_told_of_what_runs_here() -> None:
    job = {"command": ["tidy"], "schedule": "daily"}
    own = {"services/web/release": ["manage", "migrate", "a b"], "services/api/jobs": {"tidy": job, "dump": job}}
    cluster = Cluster.model_validate(changed(own))
    rows = [Running(f"{name}-{n}", name, "x", "") for name in ("web", "api", "redis") for n in range(2)]
    assert list(_left_to_you(cluster, rows)) == [
        "web: its release command is not run here; run it in its container where you want it: manage migrate 'a b'",
        "api: no clock runs its jobs here (tidy, dump); run one in its container where you want it",
    ]
