"""An inventory on a laptop: Debian's docker-compose runs the predictor and the redis that it links to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom.errors import FiefdomError
from fiefdom.images import compose
from fiefdom.lab import machine
from helpers.operator_view import BIN, ROOT

pytestmark = pytest.mark.proof

PROJECT = "fiefdom-dev-laptop-test"
PORT, REDIS_PORT = 18000, 16379
SECRET = 'a $secret ${of} "this" # machine'
IMAGES = ("fiefdom-test/laptop-predictor:1.0.0", "fiefdom-test/laptop-redis:1", f"{PROJECT}/redis:latest")
# In the predictor's own container, by what its link told it: the argument is what redis is asked.
ASK_REDIS = """
import os, socket, sys
with socket.create_connection((os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"])), 5) as redis:
    redis.sendall(sys.argv[1].encode() + b"\\r\\n")
    print(redis.recv(100).decode().split()[-1])
"""


@pytest.fixture(scope="module")
def _compose_here(docker_here: None) -> None:
    """Debian's docker-compose, of whichever Debian this machine has."""
    try:
        compose.find()
    except FiefdomError:
        try:
            machine.apt_install(["docker-compose"])
        except FiefdomError as error:
            pytest.fail(f"this test wants Debian's docker-compose, which apt could not install here: {error}")
    compose.find()


def docker(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout.strip()


def left(kind: str) -> list[str]:
    """What Docker has of the project: containers, networks or volumes."""
    command = {"container": ["ps", "--all"]}.get(kind, [kind, "ls"])
    return docker(*command, "--quiet", f"--filter=label=com.docker.compose.project={PROJECT}").split()


class Laptop:
    def __init__(self, folder: Path) -> None:
        self.inventory = folder / "laptop.yaml"
        self.write()

    def write(self, **override: object) -> None:
        """The lab's inventory with the laptop's part; ``override`` is more of the latter for the predictor."""
        cluster: dict[str, Any] = yaml.safe_load((ROOT / "inventories/lab.yaml").read_text())
        predictor = cluster["services"]["predictor"]
        cluster["cluster"] = "laptop-test"
        predictor |= {"build": str(ROOT / "images/predictor"), "image": "fiefdom-test/laptop-predictor"}
        predictor["environment"] |= {"TOKEN": {"env": "LAPTOP_TOKEN"}}
        redis = {"build": str(ROOT / "tests/lab/images/redis"), "port": 6379, "host_port": REDIS_PORT}
        cluster["development"] = {
            "overrides": {"predictor": {"base_port": PORT, "instances": 2, "links": ["redis"], **override}},
            "services": {"redis": {**redis, "volumes": {"data": "/var/lib/redis"}}},
        }
        self.inventory.write_text(yaml.safe_dump(cluster))

    def fiefdom(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "fiefdom"), *arguments],
            env={**os.environ, "LAPTOP_TOKEN": SECRET},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def dev(self, verb: str, *options: str) -> subprocess.CompletedProcess[str]:
        done = self.fiefdom("dev", verb, str(self.inventory), *options)
        assert SECRET not in done.stdout + done.stderr
        return done

    def up(self) -> dict[str, Any]:
        done = self.dev("up", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @staticmethod
    def id_of(name: str) -> str:
        return docker("ps", "--quiet", "--no-trunc", f"--filter=label=com.docker.compose.service={name}")

    def ask_redis(self, words: str) -> str:
        return docker("exec", self.id_of(f"predictor-{PORT}"), "python3", "-c", ASK_REDIS, words)


@pytest.fixture
def laptop(_compose_here: None, tmp_path: Path) -> Iterator[Laptop]:
    it = Laptop(tmp_path)
    yield it
    it.write()
    done = it.dev("down", "--volumes")
    assert done.returncode == 0, done.stderr
    assert [left(kind) for kind in ("container", "network", "volume")] == [[], [], []]
    docker("image", "rm", "--force", *IMAGES, check=False)


def predicted(port: int) -> dict[str, Any]:
    """The answer to the request that the lab's hosts get."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict?features=5.1,3.5,1.4,0.2", timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_the_inventory_of_hosts_runs_on_a_laptop(laptop: Laptop) -> None:
    told = laptop.up()
    assert [(row["name"], row["url"]) for row in told["services"]] == [
        (f"predictor-{PORT}", f"http://127.0.0.1:{PORT}/"),
        (f"predictor-{PORT + 1}", f"http://127.0.0.1:{PORT + 1}/"),
        ("redis", f"127.0.0.1:{REDIS_PORT}"),
    ]
    for port in (PORT, PORT + 1):
        answer = predicted(port)
        assert answer["prediction"] == "setosa"
        own = {name: answer[name] for name in ("service", "version", "host", "port")}
        assert own == {"service": "predictor", "version": "1.0.0", "host": "localhost", "port": port}
    assert laptop.ask_redis("PING") == "+PONG"

    # As on hosts: confined, limited, on the loopback alone; and the secret is the process's own, letter by letter.
    (found,) = json.loads(docker("inspect", laptop.id_of(f"predictor-{PORT}")))
    host = found["HostConfig"]
    assert (host["ReadonlyRootfs"], host["Init"], host["CapDrop"]) == (True, True, ["ALL"])
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        *(128 << 20, 128 << 20, 500_000_000, 64),
    )
    assert "no-new-privileges" in host["SecurityOpt"][0]
    assert {bound["HostIp"] for bounds in host["PortBindings"].values() for bound in bounds} == {"127.0.0.1"}
    assert f"TOKEN={SECRET}" in found["Config"]["Env"]
    assert found["Config"]["StopTimeout"] == 10

    # What is as it should be is left as it is.
    before = [laptop.id_of(row["name"]) for row in told["services"]]
    laptop.up()
    assert [laptop.id_of(row["name"]) for row in told["services"]] == before

    said = laptop.dev("logs", "predictor", "--last", "5")
    assert said.returncode == 0 and "predictor 1.0.0 listens on port 8000" in said.stdout


def test_a_service_that_links_to_another_finds_it_as_on_hosts(laptop: Laptop) -> None:
    cluster = yaml.safe_load(laptop.inventory.read_text())
    cluster["hosts"]["app2"]["groups"].append("middleware")
    cluster["services"]["predictor"]["links"] = ["redis"]
    cluster["services"]["redis"] = {
        "kind": "tcp",
        "image": "fiefdom-test/laptop-redis",
        "version": "1",
        "build": str(ROOT / "tests/lab/images/redis"),
        "base_port": REDIS_PORT,
        "container_port": 6379,
        "groups": ["middleware"],
        "user": "6379:6379",
        "volumes": [{"name": "data", "path": "/var/lib/redis"}],
        "health": {"command": ["redis-cli", "ping"]},
    }
    cluster["development"] = {"overrides": {"predictor": {"base_port": PORT, "instances": 2}}}
    laptop.inventory.write_text(yaml.safe_dump(cluster))
    assert [row["name"] for row in laptop.up()["services"]][-1] == f"redis-{REDIS_PORT}"
    assert laptop.ask_redis("PING") == "+PONG"


def test_data_stays_until_it_is_told_to_go(laptop: Laptop) -> None:
    laptop.up()
    assert laptop.ask_redis("SET flower setosa") == "+OK"
    down = laptop.dev("down")
    assert down.returncode == 0 and f"{PROJECT}_redis_data" in down.stdout
    assert [left(kind) for kind in ("container", "network")] == [[], []]
    laptop.up()
    assert laptop.ask_redis("GET flower") == "setosa"
    laptop.dev("down", "--volumes")
    laptop.up()
    assert laptop.ask_redis("GET flower") == "$-1"


def test_what_does_not_answer_is_told_and_stays_to_be_looked_at(laptop: Laptop) -> None:
    laptop.write(environment={"FAIL_HEALTH": "1"})
    cluster = yaml.safe_load(laptop.inventory.read_text())
    cluster["services"]["predictor"]["health"]["start_timeout_s"] = 3
    laptop.inventory.write_text(yaml.safe_dump(cluster))
    done = laptop.dev("up")
    assert done.returncode == 1
    assert f"error: predictor-{PORT}: answered 503, wanted 200-399 for " in done.stderr
    assert f"error: predictor-{PORT + 1}: " in done.stderr and "error: redis" not in done.stderr
    assert laptop.id_of(f"predictor-{PORT}")


def test_a_port_where_nobody_listens_in_the_container_is_no_answer(laptop: Laptop) -> None:
    """Docker accepts connections to it all the same."""
    cluster = yaml.safe_load(laptop.inventory.read_text())
    cluster["development"]["services"]["redis"] |= {"port": 6380, "start_timeout_s": 3}
    laptop.inventory.write_text(yaml.safe_dump(cluster))
    done = laptop.dev("up")
    assert done.returncode == 1
    assert "error: redis: nobody listens for " in done.stderr and "error: predictor" not in done.stderr


def test_a_port_of_somebody_elses_is_told_before_anything_starts(laptop: Laptop) -> None:
    with socket.create_server(("127.0.0.1", REDIS_PORT)):
        done = laptop.dev("up")
    assert done.returncode == 1
    assert f"development.services.redis.host_port: port {REDIS_PORT} for redis is taken on this machine" in done.stderr
    assert left("container") == []
