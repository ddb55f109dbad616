"""The lab's cluster as an operator sees it: commands, files, and conditions to wait for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fiefdom import lab
from helpers.load import KINDS, Load
from helpers.watch import Watch

ROOT = Path(__file__).resolve().parents[2]
LAB_YAML = "inventories/lab.yaml"
BIN = Path(sys.executable).parent
GATEWAY_URL = "http://10.99.0.11"
ADDRESSES = "/run/addresses-since-it-was-bare"
"""On each lab host, all that was told of addresses since before its first converge."""
WATCH = Watch()
TRAFFIC: list[str] = []
"""What the load generator counted during each event, for the end of the test run's report."""


@dataclass
class LockOut:
    """A way to lock oneself out, and the seconds until the host had taken it back; None where it did not."""

    event: str
    recovered_s: float | None = None


LOCKOUTS: list[LockOut] = []
"""Every one that a test tried."""


def started(*arguments: str) -> subprocess.Popen[str]:
    """A command of `fiefdom` at work; what it says, errors too, can be read line by line."""
    return subprocess.Popen(
        [str(BIN / "fiefdom"), *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def tell(event: str, load: Load) -> None:
    """Keep the count of ``load`` for the report, whether the test passes or not."""
    TRAFFIC.append(f"{event}: {load.report()}")


def await_true(condition: Callable[[], object], timeout_s: float = 60, what: str = "the condition") -> None:
    """Wait until ``condition`` holds; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout_s} s"
        time.sleep(0.1)


def ok(done: subprocess.CompletedProcess[str]) -> str:
    """What a command printed that must have worked."""
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def undisturbed(
    event: str, urls: Mapping[str, str], at_least: int, rate: float, kinds: Sequence[str] = KINDS
) -> Iterator[None]:
    """Traffic on services, each by its name and URL, during an event of which no request may fail."""
    loads = {name: Load(url, at_least=at_least, rate=rate, kinds=kinds) for name, url in urls.items()}
    with ExitStack() as stack:
        for load in loads.values():
            stack.enter_context(load)
        yield
    for name, load in loads.items():
        tell(f"{event}: {name}", load)
    for load in loads.values():
        assert load.failed == 0, load.report()


@dataclass(frozen=True)
class Site:
    """The lab's cluster as an operator sees it: commands and files."""

    scratch: Path

    def run(self, *argv: str, timeout_s: float = 600, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command of the virtual environment, in the repository, without a terminal."""
        return subprocess.run(
            [str(BIN / argv[0]), *argv[1:]],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            **options,
        )

    def fiefdom(self, *arguments: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        """The `fiefdom` command."""
        return self.run("fiefdom", *arguments, timeout_s=timeout_s)

    def quick(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The `fiefdom` command, where its effect is what is wanted: without the second that a new Python costs.

        A test of what a command says, or of how it ends, takes `fiefdom`.
        """
        return WATCH.command(*arguments) or self.fiefdom(*arguments)

    def whole(self, inventory: str = LAB_YAML) -> bool:
        """Whether there is nothing to change and everything serves."""
        found = WATCH.whole(inventory)
        if found is None:
            return self.plan(inventory)[0] == 0 and bool(self.status(inventory)["serving"])
        return found

    def plan(self, inventory: str = LAB_YAML, *options: str) -> tuple[int, dict[str, list[str]]]:
        """Exit code, and by host the changes as `sign kind name`."""
        done = self.quick("plan", inventory, "--json", *options)
        assert done.returncode in (0, 2), done.stderr
        hosts = json.loads(done.stdout)["hosts"]
        return done.returncode, {h: [f"{c['sign']} {c['kind']} {c['name']}" for c in cs] for h, cs in hosts.items()}

    def apply(self, inventory: str = LAB_YAML, *options: str) -> str:
        """Converge; what it printed. Fails the test where it did not work."""
        done = self.quick("apply", inventory, "--yes", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def converge(self, inventory: str = LAB_YAML) -> None:
        """Bring hosts to an inventory with both commands: what is due, then the releases that wait."""
        self.apply(inventory)
        done = self.quick("rollout", inventory, "--force")
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self, inventory: str = LAB_YAML) -> dict[str, Any]:
        """The status as data."""
        done = self.quick("status", inventory, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rotation(self, inventory: str = LAB_YAML, service: str | None = None) -> set[str]:
        """Instances that every gateway has up, as `host:port`; of one service, if it is named."""
        found = [i for i in self.status(inventory)["instances"] if service in (None, i["service"])]
        return {f"{i['host']}:{i['port']}" for i in found if set(i["servers"]) == {"up"}}

    def await_serving(self, inventory: str = LAB_YAML, timeout_s: float = 60) -> None:
        """Wait until every instance of the inventory is in rotation."""
        await_true(lambda: self.status(inventory)["serving"], timeout_s, "serving")

    def ssh(self, host: str, command: str, check: bool = True) -> str:
        """Output of a shell command as root on a lab host."""
        done = subprocess.run(
            lab.ssh_argv(host, [command]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def inventory(self, name: str, change: Callable[[dict[str, Any]], object]) -> str:
        """Path of the lab's inventory with a change."""
        data = yaml.safe_load((ROOT / LAB_YAML).read_text())
        inventories = ROOT / "inventories"
        for holder, key in ((data["ssh"], "key"), (data["ssh"], "known_hosts"), (data["serf"], "key_file")):
            holder[key] = str((inventories / holder[key]).resolve())
        for service in data["services"].values():
            service["build"] = str((inventories / service["build"]).resolve())
        change(data)
        path = self.scratch / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        if not (self.scratch / "group_data").exists():
            (self.scratch / "group_data").symlink_to(ROOT / "group_data")
        return str(path)


def answers(count: int, path: str = "/predict?features=5.1,3.5,1.4,0.2") -> Counter[str]:
    """Which instances answered ``count`` requests to the gateway, as `host:port`."""
    found: Counter[str] = Counter()
    for _ in range(count):
        with urllib.request.urlopen(GATEWAY_URL + path, timeout=5) as reply:
            body = json.load(reply)
        found[f"{body['host']}:{body['port']}"] += 1
    return found
