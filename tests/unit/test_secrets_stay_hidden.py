"""Nothing that Fiefdom prints, shows or hashes tells a secret; on hosts, closed files do alone."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fiefdom.cli import show
from fiefdom.converge import diffs, plan, run, steps
from fiefdom.converge.snapshot import FoundContainer, FoundFile, FoundImage, FoundUnit, Snapshot
from fiefdom.desired import concerns
from fiefdom.desired.account import UID
from fiefdom.desired.containers import STAMP_DIR
from fiefdom.desired.context import Context
from fiefdom.desired.membership import rpc_auth
from fiefdom.desired.state import CODENAMES, Directory, HostState, digest
from fiefdom.model import Cluster, Secrets
from helpers.example import GOSSIP_KEY, INVENTORY, merged

SOURCES = {"BY_ENV": {"env": "X"}, "BY_COMMAND": {"command": ["pass", "show", "x"]}, "BY_FILE": {"secret": "x"}}
FILES = {"/run/key": {"env": "KEY"}, "/run/pem": {"command": ["pass", "show", "pem"]}, "/etc/x": {"text": "plain"}}
CLUSTER = Cluster.model_validate(
    merged(
        INVENTORY,
        {
            "services": {
                "predictor": {"environment": SOURCES, "user": "7:8", "files": FILES},
                "web": {"registry": "other"},
            },
            "registries": {"other": {"server": "ghcr.io", "user": "ann", "password": {"command": ["print-token"]}}},
            "registry": {"server": "registry.example.org/team", "user": "ann", "password": {"env": "PASSWORD"}},
            "secrets": {
                "file": "secrets.age",
                "recipients": ["age1g3wca0mag5tcesluvzsvhqwgqukltsy83tdsnfdszxv2s4y22g2q4azqtw"],
            },
        },
    )
)
HOSTS = ("gw1", "app1", "app2")


def secrets(suffix: str) -> Secrets:
    found = dict(CLUSTER.secret_sources()).values()
    values = {source: f"hunter-{i}-{suffix}" for i, source in enumerate(dict.fromkeys(found))}
    return Secrets(GOSSIP_KEY, values, {source: text.encode() for source, text in values.items()})


ONE, TWO = secrets("one"), secrets("two")


def words(context: Context) -> set[str]:
    """What must not be seen: each secret, as it is, in base64 and as a digest that a guess could be tried against."""
    plain = {*context.secrets.values.values(), GOSSIP_KEY, rpc_auth(context)}
    plain |= {f"ann:{text}" for text in context.secrets.values.values()}
    coded = {base64.b64encode(text.encode()).decode().rstrip("=") for text in plain}
    return plain | coded | {hashlib.sha256(text.encode()).hexdigest() for text in plain}


def context(name: str, known: Secrets = ONE) -> Context:
    return Context(name, CLUSTER, "trixie", known)


def digests(state: HostState) -> set[str]:
    """Digests that cover a secret: of closed files, and of what is made from them."""
    files = {f.digest for f in state.files if f.secret}
    return files | {state.stamp(c.config) for c in state.containers}


def bare(_: HostState) -> Snapshot:
    return Snapshot(0, "debian", "trixie", docker="up")


def drifted(state: HostState) -> Snapshot:
    """A host where everything is there and nothing is right."""
    return replace(
        bare(state),
        files={f.path: FoundFile("regular file", 0o644, 1, 1, digest("old")) for f in state.files},
        units={u.name: FoundUnit("loaded", "active", "disabled") for u in state.units},
        images={i.ref: FoundImage("sha256:1") for i in state.images},
        containers={c.name: FoundContainer(True, "sha256:2", "s", c.role, "0", True, "f") for c in state.containers},
    )


def planned(known: Secrets, now: object) -> plan.Plan:
    hosts = []
    for name in HOSTS:
        state = concerns.state_of(context(name, known))
        hosts.append(plan.of_host(name, state, now(state), {}, hold=frozenset(CLUSTER.services)))  # type: ignore[operator]
    return plan.merge(hosts)


@pytest.mark.long
@pytest.mark.parametrize("now", [bare, drifted])
def test_no_face_of_a_plan_tells_one(now: object) -> None:
    wanted = planned(ONE, now)
    texts = diffs.of_plan(wanted, lambda _, path: f"what was at {path}\n")
    console = Console(record=True, width=200, file=io.StringIO())
    for line in show.plan_tree(wanted, "x.yaml"):
        console.print(line)
    for (host, path), text in texts.items():
        console.print(show.diff(host, path, text))
    faces = [
        console.export_text(),
        json.dumps(wanted.as_data()),
        "".join(texts.values()),
        repr(wanted),
        repr([h.state for h in wanted.hosts]),
        repr([c.resource for h in wanted.hosts for c in h.changes]),
        repr(ONE),
        repr(CLUSTER),
        repr(run.Known(CLUSTER, ONE, {})),
        repr(context("app1")),
    ]
    assert "(secret: content not shown)" in faces[0] and "predictor-8000.env" in faces[0]
    for host in wanted.hosts:
        for word in words(context(host.host)) | digests(host.state):
            assert not [face for face in faces if word in face], word


@pytest.mark.parametrize("now", [bare, drifted])
def test_neither_hash_nor_json_of_a_plan_depends_on_one(now: object) -> None:
    one, two = planned(ONE, now), planned(TWO, now)
    assert one.hash == two.hash
    assert one.as_data() == two.as_data()


def test_another_value_is_another_container_all_the_same() -> None:
    one, two = (concerns.state_of(context("app1", known)) for known in (ONE, TWO))
    changed = {old.path for old, new in zip(one.files, two.files, strict=True) if old != new}
    names = [f"predictor-{port}" for port in range(8000, 8004)]
    assert changed == {
        "/etc/fiefdom/docker/config.json",
        *(f"/etc/fiefdom/containers/{name}.{kind}" for name in names for kind in ("env", "conf")),
        *(f"/etc/fiefdom/files/{name}/run%2F{kind}" for name in names for kind in ("key", "pem")),
    }


@pytest.mark.parametrize("name", HOSTS)
def test_on_hosts_they_are_in_closed_files_alone(name: str) -> None:
    for codename in CODENAMES:
        it = Context(name, CLUSTER, codename, ONE)
        state = concerns.state_of(it)
        for word in words(it):
            assert word not in repr([(c.args, c.command, c.probe) for c in state.containers])
            for file in state.files:
                assert file.secret or word.encode() not in file.content, file.path
        for file in state.files:
            if file.secret:
                owners = {(0, 0): 0o600, (UID, UID): 0o400, (7, 8): 0o400}
                assert file.mode == owners[file.uid, file.gid], file.path
        # What the supervisor notes of a container is a digest of its environment, too.
        assert Directory(STAMP_DIR, mode=0o700) in state.directories


def test_steps_carry_one_in_the_content_of_a_closed_file_alone() -> None:
    for host in planned(ONE, bare).hosts:
        closed = {f.path for f in host.state.files if f.secret}
        for phase in steps.phases(host):
            for step in phase.steps:
                shown = step[:5] if step[0] == "stage" and step[1] in closed else step
                assert not [w for w in words(context(host.host)) | digests(host.state) if w in repr(shown)], step[:2]


@pytest.mark.long
@pytest.mark.parametrize(
    "options", ["--dry -vvv --debug-all --diff", "--debug-operations", "--debug-operations --json", "--dry --json -vvv"]
)
def test_pyinfra_at_its_most_talkative_does_not_show_what_a_host_is_sent(tmp_path: Path, options: str) -> None:
    (tmp_path / "deploy.py").write_text(
        "from fiefdom.converge import steps_script as apply\n"
        "from fiefdom.engine import session as engine\n"
        "steps = apply.steps_text([('stage', '/x', '0600', '0', '0', 'aHVudGVyMg==')])\n"
        "engine.take(name='Fiefdom: files', steps=steps, _sudo=False)\n"
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("pyinfra")), "--yes", *options.split(), "@local", "deploy.py"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Fiefdom: files" in done.stdout + done.stderr
    assert "aHVudGVyMg" not in done.stdout + done.stderr
