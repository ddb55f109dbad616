"""One lab for all lab tests: booted bare, converged once, and whole again after every test.

`FIEFDOM_TEST_KEEP_LAB=1` takes the lab that is there, which saves a minute while a test is being written.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fiefdom import lab
from helpers.operator_view import ADDRESSES, LAB_YAML, LOCKOUTS, TRAFFIC, Site

# What tests with hosts build. Those without run beside them, and each takes its own away.
SCRATCH_IMAGES = "fiefdom-test/*"
# These want a Docker daemon and no hosts, so that `make test` runs several at once; the longest first.
NO_HOSTS = (
    "test_gateway_container",
    "test_gateway_refuses",
    "test_container_script",
    "test_images",
    "test_laptop",
    "test_layers_travel",
    "test_originals",
    "test_pythons",
    "test_snapshot_script",
    "test_steps_script",
)
# All files run in this order: then what wants bare hosts, the first converge, and what is slow last.
ORDER = (
    *NO_HOSTS,
    "test_lab_hosts",
    "test_converge",
    "test_drift",
    "test_refusals",
    "test_access",
    "test_sshd_holds",
    "test_strangers",
    "test_lockout",
    "test_secrets",
    "test_rotation",
    "test_offers",
    "test_offers_moments",
    "test_losses",
    "test_releases",
    "test_page",
    "test_one_off",
    "test_jobs",
    "test_hooks",
    "test_logs",
    "test_volumes",
    "test_settings",
    "test_middleware",
    "test_model",
    "test_technologies",
    "test_tls",
    "test_acme",
    "test_open_gateway",
    "test_rotate_key",
    "test_registry",
    "test_resume",
    "test_faults",
    "test_metrics",
    "test_foreign",
    "test_two_gateways",
    "test_address",
    "test_upgrade",
    "test_tutorial",
)


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As a shell has it for what it starts in the background; every command that a test interrupts would be deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TRAFFIC:
        terminalreporter.section("traffic during events")
        for line in TRAFFIC:
            terminalreporter.line(line)
    if LOCKOUTS:
        recovered = sum(tried.recovered_s is not None for tried in LOCKOUTS)
        terminalreporter.section("lock-outs")
        terminalreporter.line(f"recovered without a console: {recovered} of {len(LOCKOUTS)}")
        for tried in LOCKOUTS:
            took = "not recovered" if tried.recovered_s is None else f"{tried.recovered_s:.0f} s"
            terminalreporter.line(f"{tried.event}: {took}")


@pytest.hookimpl(tryfirst=True)  # before -m is heeded
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker("lab")
        if item.path.stem not in NO_HOSTS:
            item.add_marker("hosts")
    rank = {name: number for number, name in enumerate(ORDER)}
    here.sort(key=lambda item: rank.get(item.path.stem, len(ORDER)))
    items[:] = [item for item in items if item not in here] + here


@pytest.fixture(scope="session")
def docker_here() -> None:
    """A Docker daemon on this machine, with the base images; made by one process while others wait."""
    with (Path(tempfile.gettempdir()) / f"fiefdom-test-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lab.ensure_docker(lambda _: None)
        lab.ensure_base_images(lambda _: None)


@pytest.fixture(scope="session")
def bare_lab(docker_here: None) -> Iterator[None]:
    """Hosts without a trace of Fiefdom, unless asked to keep what is there; gone when the tests are through."""
    keep = bool(os.environ.get("FIEFDOM_TEST_KEEP_LAB"))
    if not keep:
        lab.down()
    lab.up(2)
    yield
    if not keep:
        lab.down()
        for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
            left = subprocess.run(
                ["docker", *kind, "--quiet", "--filter=label=fiefdom.lab"], capture_output=True, check=True
            )
            assert left.stdout == b"", f"`lab down` left something of docker {kind[0]}"
        assert not lab.lab_root().exists()
    listing = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", SCRATCH_IMAGES]
    for tag in subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split():
        subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, check=True)


@pytest.fixture(scope="session")
def first_converge(bare_lab: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, str]:
    """The converged cluster, and what the run that made it printed."""
    site = Site(tmp_path_factory.mktemp("inventories"))
    for name in ("gw1", "app1", "app2"):
        # Every address that a host gets from here on, for a bridge may have a wrong one for a moment only.
        site.ssh(name, f"setsid ip -o -4 monitor address >{ADDRESSES} 2>&1 </dev/null &")
    done = site.fiefdom("apply", LAB_YAML, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    site.await_serving()
    return site, done.stdout


@pytest.fixture(scope="session")
def _site(first_converge: tuple[Site, str]) -> Site:
    return first_converge[0]


@pytest.fixture
def site(_site: Site) -> Iterator[Site]:
    """The converged, serving cluster; mended after a test that left it otherwise, so that failures stay single."""
    yield _site
    if not _site.whole():
        lab.up(2)
        if not _site.whole():
            _site.converge()
            _site.await_serving()
