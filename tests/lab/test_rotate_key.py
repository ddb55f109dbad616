"""Another gossip key under traffic: no request fails, no member is lost, and the old key opens nothing any more."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom import RELEASE
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, LAB_YAML, ROOT, Site, await_true, started, tell

pytestmark = pytest.mark.proof

URL = f"{GATEWAY_URL}/predict"
AT_LEAST = 20_000
AGENTS = {
    "gw1": "/etc/fiefdom/gateway/agent.json",
    "app1": "/etc/fiefdom/serf/agent.json",
    "app2": "/etc/fiefdom/serf/agent.json",
}
# An agent beside app2's own, of which Fiefdom does not know.
INTRUDER = "intruder"


@pytest.fixture
def keyed(site: Site, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An inventory whose key file is a copy, and that file. What it holds at the end is the lab's key from then on."""
    own = (ROOT / "inventories" / yaml.safe_load((ROOT / LAB_YAML).read_text())["serf"]["key_file"]).resolve()
    path = tmp_path / "gossip.key"
    path.touch(mode=0o600)
    path.write_text(own.read_text())

    def change(data: dict[str, Any]) -> None:
        data["serf"] |= {"key_file": str(path)}

    yield site.inventory("keyed", change), path
    if path.with_name("gossip.key.next").exists():
        rotate_after_silence(site, site.inventory("keyed", change), "--force")
    own.write_text(path.read_text())
    assert site.plan()[0] == 0


def keys_on(site: Site, host: str) -> list[str]:
    """Keys in the agent's configuration on a host, and in what lies beside it."""
    folder = AGENTS[host].rpartition("/")[0]
    found = site.ssh(host, f"cat {folder}/agent*.json")
    return [line.split('"')[-2] for line in found.splitlines() if line.rstrip(",").endswith('="')]


def members_of(site: Site, host: str) -> dict[str, str]:
    """Members and their status as a host's Serf agent has them."""
    container = "gateway" if host == "gw1" else "serf-agent"
    listed = site.ssh(host, f"docker exec {container} serf members -format json", check=False)
    return {m["name"]: m["status"] for m in json.loads(listed)["members"]} if listed.startswith("{") else {}


def all_alive(site: Site) -> bool:
    return all(members_of(site, host) == dict.fromkeys(AGENTS, "alive") for host in AGENTS)


def rotate(site: Site, inventory: str, *options: str) -> str:
    done = site.fiefdom("rotate-key", inventory, "--yes", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_key_gives_way_to_another_under_traffic(site: Site, keyed: tuple[str, Path]) -> None:
    inventory, path = keyed
    old = path.read_text().strip()
    with Load(URL, at_least=AT_LEAST) as load:
        printed = rotate(site, inventory)
    tell("the gossip key rotated", load)
    assert load.failed == 0, load.report()
    new = path.read_text().strip()
    assert new != old and path.stat().st_mode & 0o777 == 0o600
    assert not path.with_name("gossip.key.next").exists()
    assert {host: keys_on(site, host) for host in AGENTS} == {host: [new] for host in AGENTS}
    await_true(lambda: all_alive(site), what="every member alive at every other")
    assert site.plan(inventory) == (0, {host: [] for host in AGENTS})
    assert site.status(inventory)["serving"]
    for host in AGENTS:
        seen = site.ssh(host, "ps axww -o args; journalctl -q --no-pager -o cat; docker inspect $(docker ps -aq)")
        assert old not in seen and new not in seen
    audit = site.fiefdom("audit", inventory, "--json").stdout
    assert '"rotate-key"' in audit
    assert old not in printed + audit and new not in printed + audit
    # Who has the old key alone is let in nowhere, and apply does not let it back.
    path.write_text(old)
    refused = site.fiefdom("apply", inventory, "--yes")
    path.write_text(new)
    assert refused.returncode == 1 and "the gossip key there is not this machine's" in refused.stderr
    for key, may in ((old, False), (new, True)):
        assert joins(site, key) is may
    forget = f"docker exec gateway serf force-leave -prune {INTRUDER}"
    await_true(lambda: [site.ssh("gw1", forget, check=False)] and all_alive(site), what="the intruder forgotten")


def joins(site: Site, key: str) -> bool:
    """Whether an agent on app2 that holds ``key`` gets into the cluster by asking the gateway; it is forgotten then."""
    config = {
        "node_name": INTRUDER,
        "bind": "10.99.0.22:7947",
        "encrypt_key": key,
        "rpc_addr": "127.0.0.1:7374",
        "leave_on_terminate": True,
        "disable_name_resolution": True,
    }
    site.ssh(
        "app2",
        f"install -d /run/intruder && printf '%s' '{json.dumps(config)}' > /run/intruder/agent.json",
    )
    try:
        site.ssh(
            "app2",
            "docker run -d --name intruder --network host -v /run/intruder:/etc/fiefdom/serf:ro "
            f"fiefdom/serf:{RELEASE}",
        )
        ask = "docker exec intruder serf join -rpc-addr=127.0.0.1:7374 10.99.0.11:7946"
        await_true(lambda: site.ssh("app2", "ss -Hltn sport = :7374"), what="the intruder's agent")
        site.ssh("app2", ask, check=False)
        return "gw1" in site.ssh("app2", "docker exec intruder serf members -rpc-addr=127.0.0.1:7374")
    finally:
        site.ssh("app2", "docker stop intruder; docker rm -f intruder; rm -rf /run/intruder", check=False)


def test_a_host_that_left_the_inventory_is_left_out_and_forgotten(site: Site, keyed: tuple[str, Path]) -> None:
    """Taken out of the file without `fiefdom retire`, its agent goes on: with the old key."""
    inventory, _ = keyed
    without = Path(inventory).with_name("without.yaml")
    data = yaml.safe_load(Path(inventory).read_text())
    del data["hosts"]["app2"]
    without.write_text(yaml.safe_dump(data, sort_keys=False))
    refused = site.fiefdom("rotate-key", str(without), "--yes")
    assert refused.returncode == 1
    assert "app2 (10.99.0.22:7946) is a member and no host of the inventory" in refused.stderr
    applied = site.fiefdom("apply", str(without), "--yes")
    assert applied.returncode == 0, applied.stderr
    assert "app2 (10.99.0.22:7946) is a member and no host of the inventory, and gets traffic" in applied.stderr
    (notice,) = site.status(str(without))["notices"]
    assert notice.startswith("app2 (10.99.0.22) is a member and no host of the inventory, and gets traffic")
    rotate(site, str(without), "--force")
    assert members_of(site, "gw1") == {"gw1": "alive", "app1": "alive"}
    site.ssh("app2", "systemctl restart fiefdom-serf-agent", check=False)
    assert members_of(site, "gw1") == {"gw1": "alive", "app1": "alive"}
    assert members_of(site, "app2") == {"app2": "alive"}
    # Back in the inventory, it is given the key and is a member again.
    assert site.fiefdom("apply", inventory, "--yes").returncode == 0
    await_true(lambda: all_alive(site), what="app2 back")


@pytest.mark.parametrize("seen", [0, 3, 5, 8])
def test_a_rotation_that_is_killed_is_gone_on_with(site: Site, keyed: tuple[str, Path], seen: int) -> None:
    """Killed after so many hosts' turns, in the middle of the next; no member is lost meanwhile."""
    inventory, path = keyed
    old = path.read_text()
    with Load(URL) as load:
        process = started("rotate-key", inventory, "--yes")
        assert process.stdout is not None
        left = seen
        for line in process.stdout:
            left -= line.split()[-1:] == ["done"]
            if left == 0 and " key" in line:
                time.sleep(0.5)  # into the turn; how far is the point
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert path.read_text() == old
        await_true(lambda: all_alive(site), what="every member alive at every other")
        # An agent that starts again by itself comes back, whatever it was given so far.
        site.ssh("app1", "docker kill serf-agent")
        await_true(lambda: all_alive(site), what="app1 back")
        rotate_after_silence(site, inventory)
    tell(f"a rotation of the key killed after {seen} turns, and finished", load)
    assert load.failed == 0, load.report()
    assert path.read_text() != old
    assert all_alive(site) and site.plan(inventory)[0] == 0


def rotate_after_silence(site: Site, inventory: str, *options: str) -> None:
    """The lock of a run that died is taken over when it has been silent for 15 s."""
    deadline = time.monotonic() + 60
    while (done := site.fiefdom("rotate-key", inventory, "--yes", "--take-over", *options)).returncode:
        assert "so it is at work" in done.stderr and time.monotonic() < deadline, done.stderr
        time.sleep(1)
