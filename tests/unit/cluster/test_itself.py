"""What a host tells of itself without an inventory: the script with a Docker of its own, and its answer as values."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiefdom.cluster.itself import INSTANCES, MEMBER, SCRIPT, instances, membership
from fiefdom.errors import FiefdomError

DOCKER = """#!/bin/sh
case $1 in
version) exit "$(cat "$ROOT/down" 2>/dev/null || echo 0)" ;;
ps) cat "$ROOT/ps" ;;
exec) shift; printf '%s\\n' "$*" >>"$ROOT/asked"; cat "$ROOT/$3.json" ;;
esac
"""
PS = """\
web-8000\tweb-8000\trunning\t1.0
web-8001\tweb-8001\texited\t1.0
web-8002.failed\tweb-8002\texited\t2.0
"""
INFO = {"agent": {"name": "app1"}, "tags": {"role": "app", "svc:web": "1.0;8000-8001", "svc:api": "2;9000-9000;9100"}}
GATEWAYS = [
    {"name": "gw1", "status": "alive", "tags": {"role": "gateway"}},
    {"name": "gw2", "status": "failed", "tags": {"role": "gateway"}},
]


def listed(status: str = "alive") -> dict[str, Any]:
    return {"members": [{"name": "app1", "status": status, "tags": INFO["tags"]}, *GATEWAYS]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    for folder in ("containers", "offers"):
        (tmp_path / folder).mkdir()
    return tmp_path


def asked(root: Path, word: str) -> list[str]:
    """What the script prints, whose host is the folder."""
    script = SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={root}:")
    for constant, place in (
        ("socket=/run/docker.sock", "socket=/nowhere"),
        ("conf_dir=/etc/fiefdom/containers", f"conf_dir={root}/containers"),
        ("made_dir=/run/fiefdom/offers", f"made_dir={root}/offers"),
    ):
        assert constant in script
        script = script.replace(constant, place)
    argv = ["sh", "-c", script, "fiefdom", "", word]
    done = subprocess.run(argv, env={"ROOT": str(root)}, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.splitlines()


def test_a_hosts_instances(root: Path) -> None:
    for name in ("web-8000", "web-8001", "web-8002", "serf-agent"):
        (root / f"containers/{name}.conf").write_text("spec\n")
    (root / "ps").write_text(PS)
    (root / "offers/web.offer").write_text("1.0;8000-8001\n")
    (root / "offers/tags.json").write_text("{}")
    found = instances(asked(root, INSTANCES))
    assert [tuple(one.values()) for one in found] == [
        ("web", 8000, "1.0", "running", True),
        ("web", 8001, "1.0", "exited", True),
        ("web", 8002, "", "missing", False),
    ]
    (root / "down").write_text("1")
    (root / "ps").write_text("")
    assert {one["state"] for one in instances(asked(root, INSTANCES))} == {"unknown"}


def test_a_host_of_nobodys_has_nothing_and_is_no_member(root: Path) -> None:
    (root / "ps").write_text("")
    assert instances(asked(root, INSTANCES)) == []
    found = membership(asked(root, MEMBER))
    assert (found["member"], found["state"], found["gateways"]) == (False, "absent", [])


def test_a_member(root: Path) -> None:
    (root / "containers/serf-agent.conf").write_text("")
    (root / "info.json").write_text(json.dumps(INFO, indent=2))
    (root / "members.json").write_text(json.dumps(listed(), indent=2))
    assert membership(asked(root, MEMBER)) == {
        "member": True,
        "state": "alive",
        "name": "app1",
        "role": "app",
        "offers": {"api": "2", "web": "1.0"},
        "gateways": ["gw1"],
    }
    assert (root / "asked").read_text() == "serf-agent serf info -format=json\nserf-agent serf members -format=json\n"


def test_what_a_member_offers_in_one_tag_is_told_by_the_host(root: Path) -> None:
    (root / "containers/serf-agent.conf").write_text("")
    (root / "offers/web.offer").write_text("1.0;8000-8001\n")
    (root / "offers/api.offer").write_text("2;9000-9000;9100\n")
    (root / "offers/tags.json").write_text("{}")
    (root / "members.json").write_text(json.dumps(listed(), indent=2))
    for tags, offers in (
        ({"role": "app", "o": "H0AAABBBCCC"}, {"api": "2", "web": "1.0"}),
        ({"role": "app", "svc:web": "0.9;8000-8001"}, {"web": "0.9"}),
        ({"role": "app"}, {}),
    ):
        (root / "info.json").write_text(json.dumps({**INFO, "tags": tags}, indent=2))
        assert membership(asked(root, MEMBER))["offers"] == offers


def said(info: object, listing: object) -> list[str]:
    return ["docker\tup", "agent\tserf-agent", f"info\t{json.dumps(info)}", f"members\t{json.dumps(listing)}"]


@pytest.mark.parametrize(
    ("lines", "state", "member"),
    [
        (said(INFO, listed()), "alive", True),
        (said({**INFO, "tags": {**INFO["tags"], "state": "leaving"}}, listed()), "leaving", False),
        (said(INFO, listed("left")), "left", False),
        (said(INFO, listed("failed")), "failed", False),
        (said(INFO, {"members": GATEWAYS}), "silent", False),
        (said(INFO, {"members": 1}), "silent", False),
        (said([], listed()), "silent", False),
        (["docker\tdown", "agent\tserf-agent", "info\t", "members\t"], "silent", False),
        (["docker\tup"], "absent", False),
    ],
)
def test_the_states_of_a_member(lines: list[str], state: str, member: bool) -> None:
    found = membership(lines)
    assert (found["state"], found["member"]) == (state, member)


@pytest.mark.parametrize("read", [instances, membership])
def test_who_may_not_ask_is_told_so(read: Any) -> None:
    with pytest.raises(FiefdomError, match="may not use Docker; let it use sudo without a password, or join the group"):
        read(["docker\tclosed"])
    with pytest.raises(FiefdomError, match="the host's answer is none"):
        read(["", "sudo: no"])


KINDS = st.sampled_from(["docker\tup", "agent\ta", "info", "members", "instance", "wanted", "offer", "a-1", "1;1-1"])


@given(st.lists(st.lists(KINDS | st.text(max_size=9), max_size=5).map("\t".join), max_size=9))
def test_no_answer_raises_anything_but_a_sentence(lines: list[str]) -> None:
    for read in (instances, membership):
        try:
            assert json.dumps(read(lines))
        except FiefdomError as error:
            assert "\n" not in str(error)
