"""How long the first converge of bare hosts takes, over what nobody could leave out: Debian's packages and the images.

Both run on hosts that have just been made, in turn, with all images built before:
- floor: on every host at once, over ssh, `apt-get update`, `apt-get install` of the packages that the plan has for it,
  until dockerd answers; then `docker save` of the images that it is to get, here, into `docker load` there;
- Fiefdom: `fiefdom apply --yes`, from its start to its end.

Where the time of an apply goes is told by what its `--verbose` says of each round trip: for each phase, the seconds in
which any host was at it, and each host's own. Phases of different hosts may overlap. What is left are seconds in which
hosts were only asked, and such in which none was busy.

It wants hosts that are bare, so it takes a running lab down where `--down` allows that. The last lab, which is
converged, stays up.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from fiefdom import inventory, lab
from fiefdom.converge.steps import PHASES
from fiefdom.desired import concerns
from fiefdom.errors import FiefdomError
from fiefdom.images import build
from fiefdom.inventory import secret

ROOT = Path(__file__).resolve().parents[1]
INVENTORY = ROOT / "inventories/lab.yaml"
SCRATCH = ROOT / "inventories/bench-first.yaml"
FIEFDOM = [sys.executable, "-m", "fiefdom"]
TARGET = 1.5
DOCKER_S = 60
NEW = "app1"
"""The host that is made anew beside a gateway which serves already."""

# As steps.sh calls it.
INSTALL = """
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold "$@"; }
apt update && apt install --no-install-recommends "$@" || exit
timeout "$0" sh -c 'until docker version >/dev/null 2>&1; do sleep 0.1; done' && exit
echo "dockerd does not answer $0 s after its package was installed"
exit 1
"""
TRIP = re.compile(r" *(?P<end>\d+\.\d+) s  (?P<host>\S+) +(?P<what>.+) (?:took|broke off after) (?P<took>\d+\.\d+) s")


@dataclass(frozen=True)
class Floor:
    """One run of the floor, in seconds: of all, and until the last host had its packages."""

    seconds: float
    packages_s: float


@dataclass(frozen=True)
class Trip:
    """A round trip to a host: what for, from when to when."""

    host: str
    what: str
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Apply:
    """One apply: its seconds, and its round trips."""

    seconds: float
    trips: tuple[Trip, ...]


Run = TypeVar("Run", Floor, Apply)


@dataclass(frozen=True)
class Scene:
    """Hosts that are bare once `bare` was called, and how to make them so."""

    title: str
    names: tuple[str, ...]
    bare: Callable[[], None]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="runs of each, in turn; the median counts (default 1)")
    parser.add_argument("--one", action="store_true", help="one new host beside a gateway that serves, and no others")
    parser.add_argument(
        "--app-hosts", type=int, nargs="+", choices=(1, 2), default=(1, 2), help="labs of so many, and a gateway"
    )
    parser.add_argument("--down", action="store_true", help="take down a lab that is up")
    options = parser.parse_args()
    # Where it is set, each start compiles all of Fiefdom anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.runs < 1:
        sys.exit("--runs: 1 or more")
    try:
        lab.ensure_docker(print)
        up = [host.name for host in lab.status() if host.state != "missing"]
        if up and not options.down:
            sys.exit(f"a lab is up ({', '.join(up)}), and this needs bare hosts: --down takes it down")
        lab.ensure_base_images(print)
        if options.one:
            _measure(_one(), options.runs)
        else:
            for count in options.app_hosts:
                _measure(_lab(count), options.runs)
    except FiefdomError as error:
        sys.exit(str(error))
    finally:
        SCRATCH.unlink(missing_ok=True)


def _lab(app_hosts: int) -> Scene:
    names = ("gw1", *(f"app{number}" for number in range(1, app_hosts + 1)))

    def bare() -> None:
        lab.down()
        lab.up(app_hosts)

    _write(names)
    return Scene(f"{len(names)} bare hosts", names, bare)


def _one() -> Scene:
    lab.down()
    lab.up(1)
    _write(("gw1", NEW))
    _apply()

    def bare() -> None:
        lab.remove(NEW)
        lab.up(1)

    return Scene("1 bare host, beside a gateway that serves", (NEW,), bare)


def _write(names: Sequence[str]) -> None:
    """The lab's inventory with these hosts, and its images built."""
    data = yaml.safe_load(INVENTORY.read_text())
    data["hosts"] = {name: data["hosts"][name] for name in names}
    SCRATCH.write_text(yaml.safe_dump(data, sort_keys=False))
    cluster = inventory.load(str(SCRATCH))
    build.ensure(cluster, [wanted.ref for wanted in build.wanted(cluster)], print)


def _measure(scene: Scene, runs: int) -> None:
    floors: list[Floor] = []
    applies: list[Apply] = []
    for _ in range(runs):
        scene.bare()
        floors.append(_floor(scene.names))
        scene.bare()
        applies.append(_apply())
    floor, ours = _middle(floors), _middle(applies)
    print(f"\n{scene.title}: {', '.join(scene.names)}; load {os.getloadavg()[0]:.1f}")
    print(
        f"  apt and image load alone {floor.seconds:6.1f} s  packages {floor.packages_s:.1f} s, "
        f"then images {floor.seconds - floor.packages_s:.1f} s"
    )
    print(f"  fiefdom apply            {ours.seconds:6.1f} s")
    print(f"  apply over these two alone: {ours.seconds / floor.seconds:.2f} (at most {TARGET:g})")
    print(f"  where the {ours.seconds:.1f} s go:")
    for line in _where(ours):
        print(f"    {line}", flush=True)


def _middle(found: Sequence[Run]) -> Run:
    """The run with the median; of two in the middle, the faster."""
    median_s = statistics.median_low(each.seconds for each in found)
    return next(each for each in found if each.seconds == median_s)


# --- the floor


def _floor(names: Sequence[str]) -> Floor:
    """Packages and images that the plans have for hosts which have nothing."""
    cluster = inventory.load(str(SCRATCH))
    secrets = secret.load(cluster)
    states = {name: concerns.states_of(cluster, name, secrets)[lab.host(name).codename] for name in names}
    packages = {name: [package.name for package in state.packages] for name, state in states.items()}
    images = {name: [image.ref for image in state.images if not image.pull] for name, state in states.items()}
    begun_s = time.monotonic()

    def converge(name: str) -> float:
        _ssh(name, INSTALL, str(DOCKER_S), *packages[name])
        installed_s = time.monotonic() - begun_s
        _load(name, images[name])
        return installed_s

    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        installed = list(pool.map(converge, names))
    return Floor(time.monotonic() - begun_s, max(installed))


def _ssh(name: str, script: str, *arguments: str) -> None:
    argv = lab.ssh_argv(name, [shlex.join(["sh", "-c", script, *arguments])])
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise FiefdomError(f"{name}: {' '.join(arguments[1:])}: exit {done.returncode}\n{_end_of(done.stdout)}")


def _load(name: str, refs: Sequence[str]) -> None:
    with subprocess.Popen(["docker", "save", *refs], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as save:
        assert save.stdout is not None and save.stderr is not None
        loaded = subprocess.run(
            lab.ssh_argv(name, ["docker load --quiet"]), stdin=save.stdout, capture_output=True, text=True, check=False
        )
        save.stdout.close()  # where nobody reads any more, it ends
        words = save.stderr.read().decode(errors="replace")
    if save.returncode or loaded.returncode:
        raise FiefdomError(
            f"{name}: docker save {' '.join(refs)} exited {save.returncode}, docker load {loaded.returncode}:\n"
            f"{_end_of(words + loaded.stdout + loaded.stderr)}"
        )


def _end_of(text: str) -> str:
    return text.strip()[-2000:]


# --- Fiefdom


def _apply() -> Apply:
    argv = [*FIEFDOM, "apply", str(SCRATCH), "--yes", "--all", "--verbose"]
    begun_s = time.monotonic()
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - begun_s
    if done.returncode:
        raise FiefdomError(
            f"fiefdom apply exited {done.returncode}:\n{_end_of(done.stdout)}\n{_end_of(_without_trips(done.stderr))}"
        )
    trips = tuple(_trips(done.stderr.splitlines()))
    if not any(trip.what in _PHASE_OF for trip in trips):
        raise FiefdomError(f"fiefdom apply --verbose told of no phase; were the hosts bare?\n{_end_of(done.stdout)}")
    return Apply(seconds, trips)


_PHASE_OF: Mapping[str, str] = {f"the phase {phase}": phase for phase in PHASES}


def _trips(lines: Iterable[str]) -> Iterable[Trip]:
    for line in lines:
        if found := TRIP.fullmatch(line):
            end_s = float(found["end"])
            yield Trip(found["host"], found["what"], end_s - float(found["took"]), end_s)


def _without_trips(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not TRIP.fullmatch(line))


def _where(ours: Apply) -> Iterable[str]:
    """Lines that tell where the time of an apply goes."""
    for what, phase in _PHASE_OF.items():
        own = [trip for trip in ours.trips if trip.what == what]
        if own:
            each = ", ".join(f"{trip.host} {trip.end_s - trip.begin_s:.1f}" for trip in own)
            first_s = min(trip.begin_s for trip in own)
            yield f"{phase:<20} {_covered_s(own):6.1f} s  from second {first_s:.1f} on  ({each})"
    at_phases = _covered_s(trip for trip in ours.trips if trip.what in _PHASE_OF)
    busy = _covered_s(ours.trips)
    yield f"{'hosts only asked':<20} {busy - at_phases:6.1f} s"
    yield f"{'no host busy':<20} {ours.seconds - busy:6.1f} s"


def _covered_s(trips: Iterable[Trip]) -> float:
    """Seconds in which at least one of the trips was under way."""
    total_s = reached_s = 0.0
    for trip in sorted(trips, key=lambda each: each.begin_s):
        total_s += max(0.0, trip.end_s - max(reached_s, trip.begin_s))
        reached_s = max(reached_s, trip.end_s)
    return total_s


if __name__ == "__main__":
    main()
