"""A third host joins a serving cluster, by a run that is killed again and again and finished by the next."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from fiefdom import lab
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, ROOT, Site, answers, await_true, started, tell

# With a static address, so that the network changes hands while the host is being made.
APP3 = {
    "address": "10.99.0.23",
    "groups": ["app_hosts"],
    "static": {"interface": "eth0", "prefix_length": 24, "gateway": "10.99.0.1"},
}


@pytest.fixture(scope="module")
def with_app3(_site: Site) -> Iterator[str]:
    """An inventory with a third, bare app host that runs."""
    lab.up(3)
    yield _site.inventory("three", lambda data: data["hosts"].update(app3=APP3))
    lab.remove("app3")
    _site.apply()


def phases_of(inventory: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A run on app3 and the phases it says it enters."""
    process = started("apply", inventory, "--limit", "app3", "--yes")
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if len(words) == 4 and words[1] == "s" and words[2] == "app3":
            yield process, words[3]
    process.wait()


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param("packages", marks=pytest.mark.proof),
        "files",
        pytest.param("images", marks=pytest.mark.proof),
        "containers",
    ],
)
@pytest.mark.parametrize("delay_s", [0.0, pytest.param(0.7, marks=pytest.mark.proof)])
def test_a_run_killed_in_any_phase_leaves_something_to_do(
    site: Site, with_app3: str, phase: str, delay_s: float
) -> None:
    for process, entered in phases_of(with_app3):
        if entered == phase:
            time.sleep(delay_s)  # how far it gets is the point; no condition is being waited for
            process.send_signal(signal.SIGKILL)
    # The remote end may still be busy with its last step; the next run waits for its lock.
    assert site.plan(with_app3, "--limit", "gw1,app1,app2")[1]["app1"] == ["~ block /etc/hosts"]


def test_the_next_run_finishes_it_and_traffic_follows_untouched_gateway(site: Site, with_app3: str) -> None:
    booted = site.ssh("gw1", "docker inspect gateway --format '{{.State.StartedAt}}'; md5sum /etc/fiefdom/gateway/*")
    with Load(f"{GATEWAY_URL}/predict") as load:
        site.apply(with_app3, "--limit", "app3")
        site.await_serving(with_app3)
        assert {"app3:8000", "app3:8001"} <= set(answers(60))
    tell("a third host added", load)
    assert load.failed == 0, load.report()
    assert site.plan(with_app3, "--limit", "app3") == (0, {"app3": []})
    assert (
        site.ssh("gw1", "docker inspect gateway --format '{{.State.StartedAt}}'; md5sum /etc/fiefdom/gateway/*")
        == booted
    )


@pytest.mark.proof
def test_its_static_address_outlives_a_reboot(site: Site, with_app3: str) -> None:
    shown = site.ssh("app3", "networkctl status eth0 --no-pager")
    assert "/etc/systemd/network/10-fiefdom.network" in shown
    assert "routable (configured)" in shown
    boot = lab.boot_of("app3")
    site.ssh("app3", "systemctl reboot", check=False)
    await_true(lambda: lab.boot_of("app3") != boot, what="a new boot of app3")
    lab.await_booted(["app3"])
    site.await_serving(with_app3)
    assert site.plan(with_app3, "--limit", "app3") == (0, {"app3": []})
    assert site.ssh("app3", "ip -4 -o addr show dev eth0 | grep -c 'inet 10.99.0.23/24'") == "1"


def test_the_readmes_undo_takes_fiefdom_off_a_host(site: Site, with_app3: str) -> None:
    section = (ROOT / "docs/operations.md").read_text().partition("## How to undo it")[2].partition("\n## ")[0]
    commands = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    assert commands.startswith("cd /var/lib/fiefdom\n") and commands.count("\n") > 5
    site.await_serving(with_app3)
    with Load(f"{GATEWAY_URL}/predict") as load:
        site.ssh("app3", commands)
        await_true(lambda: not any(a.startswith("app3:") for a in answers(30)), what="app3 out of rotation")
    tell("Fiefdom taken off a host", load)
    assert load.failed == 0, load.report()
    assert site.ssh("app3", "docker ps -aq; nft list tables | grep fiefdom || :; ls /etc/fiefdom/containers || :") == ""
    assert site.ssh("app3", "ls /etc/systemd/system | grep -E 'predictor|serf|fiefdom' || :") == ""
