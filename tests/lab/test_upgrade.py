"""A cluster of an older Fiefdom is taken to this one under traffic: by `fiefdom upgrade`, and by `fiefdom apply`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiefdom import RELEASE, lab
from fiefdom.desired.account import UID
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, started, tell

BEFORE_OFFERS = "42ad0c5"
"""The last commit whose hosts are in rotation as a whole or not at all."""
BEFORE_PREFIX = "2e312de"
"""The last commit whose units of containers have no prefix, and whose containers run as 990."""
BEFORE_UPGRADE = "ed06471"
"""The last commit without `fiefdom upgrade`."""
OLDER = "0.0.9"
"""What it is called here, for all of them have one version until a release is made."""
AT_LEAST = 10_000
HOSTS = ("gw1", "app1", "app2")
OWNERS = "find /etc/fiefdom /etc/sysusers.d /run/fiefdom /var/lib/fiefdom -printf '%U:%G\\n' | sort -u"
INSTANCES = ("predictor-8000", "predictor-8001")


@pytest.fixture
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The tree of the test's commit."""
    tree = tmp_path / "fiefdom"
    made = subprocess.run(
        ["git", "worktree", "add", "--detach", "--force", str(tree), request.param],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no history here to take {request.param} from: {made.stderr.strip()}")
    yield tree
    subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True, capture_output=True)


def apply_with(tree: Path) -> None:
    """`fiefdom apply` of that tree: its library, templates and images."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", "import sys; from fiefdom.cli.main import main; sys.exit(main())"),
            *("apply", LAB_YAML, "--yes"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tree / "deploys")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def site(first_converge: tuple[Site, str], before: Path) -> Site:
    """A cluster that the test's commit made on bare hosts."""
    lab.down()
    lab.up(2)
    apply_with(before)
    return first_converge[0]


@pytest.fixture
def older_site(first_converge: tuple[Site, str], before: Path) -> Site:
    """As `site`, where the commit has a version that comes before this one's."""
    own = before / "deploys/fiefdom/__init__.py"
    own.write_text(re.sub("(?m)^__version__ = .*$", f'__version__ = "{OLDER}"', own.read_text()))
    lab.down()
    lab.up(2)
    apply_with(before)
    return first_converge[0]


def become_this_one(site: Site, what: str) -> None:
    with Load(f"{GATEWAY_URL}/predict", at_least=AT_LEAST) as load:
        site.apply()
        await_true(site.whole, what="the whole cluster")
    tell(f"{what} taken to this one", load)
    assert load.failed == 0, load.report()
    # The gateway before goes when its last requests are answered, and its image with it.
    nameless = "docker image ls -q --filter dangling=true --filter label=fiefdom.context"
    await_true(lambda: not any(site.ssh(host, nameless) for host in HOSTS), 90, "replaced builds gone")


def squat(site: Site) -> None:
    """The number that containers run as is somebody's: sshd's or messagebus's, on many a Debian 13."""
    for host in HOSTS:
        site.ssh(host, "useradd --system --uid 990 --no-create-home squatter")
        assert "990" in site.ssh(host, OWNERS)


def require_own_account(site: Site) -> None:
    """All is the new account's, and nothing can be read by who has the former number."""
    for host in HOSTS:
        container, key = ("gateway", "gateway") if host == "gw1" else ("serf-agent", "serf")
        # A gateway's container reads the ledger, and nobody but root writes it.
        read = [f"0:{UID}"] if host == "gw1" else []
        assert site.ssh(host, OWNERS).splitlines() == ["0:0", *read, f"{UID}:{UID}"], host
        assert site.ssh(host, f"docker exec {container} id -u") == str(UID)
        assert site.ssh(host, "getent passwd _fiefdom").startswith(f"_fiefdom:x:{UID}:{UID}:")
        await_true(lambda host=host: not site.ssh(host, "docker ps --all --quiet --filter status=exited"), 60)  # type: ignore[misc]
        reading = f"setpriv --reuid=990 --clear-groups --regid=990 cat /etc/fiefdom/{key}/agent.json"
        assert site.ssh(host, reading, check=False) == ""


def starts(site: Site) -> dict[str, str]:
    """By app host, which containers its instances are, and since when they run."""
    shown = f"docker inspect --format '{{{{.Id}}}} {{{{.State.StartedAt}}}}' {' '.join(INSTANCES)}"
    return {host: site.ssh(host, shown) for host in HOSTS[1:]}


def units_of_old_names(site: Site) -> list[str]:
    """What systemd knows or would start by a name without prefix, of units and of files for them."""
    patterns = ("predictor@*", "serf-agent.*", "gateway.*")
    units = " ".join(f"'{pattern}'" for pattern in patterns)
    files = " -o ".join(f"-name '{pattern}'" for pattern in patterns)
    text = (
        f"systemctl list-units --all --plain --no-legend {units}; systemctl list-unit-files --no-legend {units}; "
        f"find /etc/systemd /run/systemd/system {files}; "
        "grep -E '(predictor|serf-agent|gateway)[@.].*service' /var/lib/fiefdom/manifest | grep -v fiefdom-"
    )
    return [f"{host}: {line}" for host in HOSTS for line in site.ssh(host, text, check=False).splitlines()]


def units_that_run(site: Site) -> dict[str, set[str]]:
    text = "systemctl list-units --state=active --plain --no-legend 'fiefdom-*' | cut -d ' ' -f 1"
    return {host: set(site.ssh(host, text).split()) for host in HOSTS}


def require_new_names(site: Site) -> None:
    assert units_of_old_names(site) == []
    found = units_that_run(site)
    instances = {f"fiefdom-{name.replace('-', '@')}.service" for name in INSTANCES}
    for host in HOSTS[1:]:
        assert found[host] >= instances | {"fiefdom-serf-agent.service", "fiefdom-offer-predictor.service"}, found
    assert "fiefdom-gateway.service" in found["gw1"], found


@pytest.mark.proof
@pytest.mark.parametrize("before", [BEFORE_OFFERS], indirect=True)
def test_the_release_before_offers_becomes_this_one_under_traffic(site: Site) -> None:
    assert "svc:predictor" in site.ssh("app1", "cat /etc/fiefdom/serf/agent.json"), "hosts offer at run time already"
    squat(site)
    become_this_one(site, "the release before offers")
    assert (
        site.ssh("app1", "ls /usr/local/lib/fiefdom /etc/fiefdom").split()
        == site.ssh("app2", "ls /usr/local/lib/fiefdom /etc/fiefdom").split()
    )
    assert "rotation" not in site.ssh("app1", "ls /usr/local/lib/fiefdom /etc/fiefdom")
    require_own_account(site)
    require_new_names(site)
    for host in HOSTS:
        hosts = site.ssh(host, "cat /etc/hosts; grep /etc/hosts /var/lib/fiefdom/manifest")
        assert hosts.startswith("127.0.0.1") and hosts.count("# fiefdom: begin") == 1, hosts
        assert "Managed by Fiefdom" not in hosts and hosts.endswith("# fiefdom: end\nblock\t/etc/hosts"), hosts


@pytest.mark.proof
@pytest.mark.parametrize("before", [BEFORE_PREFIX], indirect=True)
def test_units_get_their_prefix_under_traffic_and_no_instance_stops(site: Site) -> None:
    assert any("predictor@8000.service" in line for line in units_of_old_names(site)), "units have a prefix already"
    squat(site)
    ran = starts(site)
    become_this_one(site, "units without a prefix")
    assert starts(site) == ran
    require_new_names(site)
    require_own_account(site)

    with Load(f"{GATEWAY_URL}/predict", at_least=AT_LEAST) as load:
        rebooted = site.fiefdom("reboot", LAB_YAML)
    assert rebooted.returncode == 0, rebooted.stdout + rebooted.stderr
    tell("a reboot of hosts whose units got a prefix", load)
    assert load.failed == 0, load.report()
    assert site.fiefdom("reboot", LAB_YAML, "--limit", "gw1", "--force").returncode == 0
    await_true(site.whole, what="the whole cluster")
    require_new_names(site)


def fiefdoms(site: Site) -> dict[str, str]:
    """By host, which Fiefdom made it what it is."""
    return {host["name"]: host["fiefdom"] for host in site.status()["hosts"]}


def upgrade_killed_at(turn: str) -> None:
    """`fiefdom upgrade`, which is gone as soon as it has begun the turn of a host."""
    process = started("upgrade", LAB_YAML, "--yes")
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.split()[1:] == ["s", turn, "containers"]:
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, said


@pytest.mark.proof
@pytest.mark.parametrize("before", [BEFORE_UPGRADE], indirect=True)
def test_a_cluster_is_upgraded_under_traffic_by_a_run_that_is_killed_at_each_host(older_site: Site) -> None:
    site = older_site
    assert fiefdoms(site) == dict.fromkeys(HOSTS, OLDER)
    ran = starts(site)
    foreseen = site.fiefdom("upgrade", LAB_YAML, "--dry")
    assert foreseen.returncode == 0, foreseen.stdout + foreseen.stderr
    assert f"Fiefdom {OLDER} -> {RELEASE}: gw1, app1, app2." in foreseen.stdout
    assert "Turns, each when all others serve: gw1, app1, app2." in foreseen.stdout
    assert fiefdoms(site) == dict.fromkeys(HOSTS, OLDER)

    with Load(f"{GATEWAY_URL}/predict", at_least=AT_LEAST) as load:
        for turn in HOSTS:
            upgrade_killed_at(turn)
        done = site.fiefdom("upgrade", LAB_YAML, "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        await_true(site.whole, what="the whole cluster")
    tell("an upgrade of Fiefdom, killed (-9) at each host, and run again", load)
    assert load.failed == 0, load.report()

    assert fiefdoms(site) == dict.fromkeys(HOSTS, RELEASE)
    assert starts(site) == ran, "an instance stopped"
    again = site.fiefdom("upgrade", LAB_YAML, "--yes")
    assert (again.returncode, again.stdout) == (0, f"Every host is of Fiefdom {RELEASE} already.\n"), again.stderr
    acts = json.loads(site.fiefdom("audit", LAB_YAML, "--json").stdout)["acts"]
    outcomes = [act["outcome"] for act in acts if act["what"] == "upgrade"]
    assert outcomes[-1] == "ok" and set(outcomes[:-1]) == {"died"}, acts

    code = f"import sys, fiefdom; fiefdom.RELEASE = '{OLDER}'; from fiefdom.cli.main import main; sys.exit(main())"
    for verb in ("plan", "apply", "upgrade"):
        taken_back = site.run("python", "-c", code, verb, LAB_YAML)
        assert taken_back.returncode == 1
        assert f"it is of Fiefdom {RELEASE}, and this is {OLDER}: it would be taken back" in taken_back.stderr
