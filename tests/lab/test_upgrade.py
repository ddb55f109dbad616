"""A cluster of an earlier commit is taken to this one by `fiefdom apply`, under traffic."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiefdom import lab
from fiefdom.desired.account import UID
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, tell

# The last commit whose hosts are in rotation as a whole or not at all, and the last one whose containers run as 990.
WHOLE_HOSTS, FORMER_USER = "42ad0c5", "2e312de"
AT_LEAST = 10_000
HOSTS = {"gw1": "gateway", "app1": "serf-agent", "app2": "serf-agent"}
OWNERS = "find /etc/fiefdom /etc/sysusers.d /run/fiefdom /var/lib/fiefdom -printf '%U:%G\\n' | sort -u"


@pytest.fixture(params=[WHOLE_HOSTS, FORMER_USER])
def commit(request: pytest.FixtureRequest) -> str:
    """The commit that hosts come from."""
    return str(request.param)


@pytest.fixture
def before(commit: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """That commit's tree."""
    tree = tmp_path_factory.mktemp("before") / "fiefdom"
    made = subprocess.run(
        ["git", "worktree", "add", "--detach", "--force", str(tree), commit],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no history here to take {commit} from: {made.stderr.strip()}")
    yield tree
    subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True, capture_output=True)


def with_tree(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`fiefdom` of that tree: its library, templates and images."""
    return subprocess.run(
        [sys.executable, "-c", "import sys; from fiefdom.cli.main import main; sys.exit(main())", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tree / "deploys")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.proof
def test_the_release_before_becomes_this_one_under_traffic(
    first_converge: tuple[Site, str], before: Path, commit: str
) -> None:
    site, _ = first_converge
    lab.down()
    lab.up(2)
    done = with_tree(before, "apply", LAB_YAML, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    offers = "svc:predictor" in site.ssh("app1", "cat /etc/fiefdom/serf/agent.json")
    assert offers == (commit == WHOLE_HOSTS), "hosts offer at run time already, or not yet"
    for host in HOSTS:
        # As sshd's or messagebus's account on a Debian 13 of more than the minimum.
        site.ssh(host, "useradd --system --uid 990 --no-create-home squatter")
        assert "990" in site.ssh(host, OWNERS)
    with Load(f"{GATEWAY_URL}/predict", at_least=AT_LEAST) as load:
        site.apply()
        await_true(site.whole, what="the whole cluster")
    tell("the release before taken to this one", load)
    assert load.failed == 0, load.report()
    assert (
        site.ssh("app1", "ls /usr/local/lib/fiefdom /etc/fiefdom").split()
        == site.ssh("app2", "ls /usr/local/lib/fiefdom /etc/fiefdom").split()
    )
    assert "rotation" not in site.ssh("app1", "ls /usr/local/lib/fiefdom /etc/fiefdom")
    for host, container in HOSTS.items():
        assert site.ssh(host, OWNERS).splitlines() == ["0:0", f"{UID}:{UID}"], host
        assert site.ssh(host, f"docker exec {container} id -u") == str(UID)
        assert site.ssh(host, "getent passwd fiefdom").startswith(f"fiefdom:x:{UID}:{UID}:")
        await_true(lambda host=host: not site.ssh(host, "docker ps --all --quiet --filter status=exited"), 60)
        key = f"/etc/fiefdom/{'gateway' if host == 'gw1' else 'serf'}/agent.json"
        assert site.ssh(host, f"setpriv --reuid=990 --clear-groups --regid=990 cat {key}", check=False) == ""
    # What the new containers need of what the old ones wrote is theirs: they take up changes and start again.
    site.ssh("gw1", "systemctl restart gateway")
    site.ssh("app1", "systemctl restart serf-agent")
    await_true(site.whole, what="the whole cluster")
