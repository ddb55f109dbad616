"""How a run grows with its hosts, from 3 to 100 and beyond, without a lab.

`make bench` runs it and prints ratios of things measured in the same minute:
- pure: states, questions and plans of hosts with twelve instances each, in processor time and memory. Each number of
  hosts has a process of its own, the least of some runs counts;
- commands: `plan`, a no-op `apply`, `status` and `doctor` over SSH. The hosts are real sshds on addresses of this
  machine's loopback, sixteen of them to a process, that give recorded answers; so what is measured is the operator's
  side. The floor is one login to each host, in parallel, and a Python start that imports pyinfra.

Where --write is given, it writes docs/assets/growth.svg and commands.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import plot
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from fiefdom import inventory  # noqa: E402
from fiefdom.cluster import gossip  # noqa: E402
from fiefdom.cluster.views import GATEWAY_STATUS  # noqa: E402
from fiefdom.converge import look  # noqa: E402
from fiefdom.converge.run import Known  # noqa: E402
from fiefdom.converge.snapshot import Snapshot  # noqa: E402
from fiefdom.images import build  # noqa: E402
from fiefdom.model import Secrets  # noqa: E402
from helpers import crowd, sshds  # noqa: E402 -- they are the tests'
from helpers.example import GOSSIP_KEY  # noqa: E402
from helpers.simulated import answer, converged  # noqa: E402

PURE = (3, 10, 25, 50, 100, 250, 500)
HOSTS = (3, 10, 30, 100)
FLOOR = "ssh true + import pyinfra"
ADMIN = "192.0.2.7"
IMPORT = "import pyinfra, pyinfra.api, pyinfra.connectors.ssh"
SOCKETS = 16
"""Addresses that one sshd listens at, at most."""

# What a host says by what it is asked; it has its own folder by the address that it was reached at.
ANSWERS = r"""#!/bin/sh
set -- $SSH_CONNECTION
printf '\nfiefdom-answers\n'
printf '\nfiefdom-answers\n' >&2
case $SSH_ORIGINAL_COMMAND in
*'What a host holds'*) cat >/dev/null; exec cat "@FOLDER@/$3/snapshot" ;;
*'Serf agent says of others'*) exec cat "@FOLDER@/$3/gossip" ;;
*' status'*) exec cat "@FOLDER@/$3/view" ;;
esac
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of each, of which the least counts (default 3)")
    parser.add_argument("--hosts", type=int, nargs="+", default=HOSTS, help="how many answer to commands")
    parser.add_argument("--write", action="store_true", help="write the plots into docs/assets")
    parser.add_argument("--only", choices=["pure", "commands"], help="leave the other part out")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # where it is set, each start would compile what it imports
    if options.child:
        print(json.dumps(_pure(options.child)))
        return
    lines: dict[str, list[tuple[float, float]]] = {}
    if options.only != "commands":
        lines = _pure_part(options.runs)
        if options.write:
            text = plot.svg("Processor seconds of states and plans by the number of hosts", "hosts", "seconds", lines)
            (ROOT / "docs/assets/growth.svg").write_text(text)
    if options.only != "pure":
        if reason := sshds.missing():
            sys.exit(reason)
        lines = _commands_part(options.hosts, options.runs)
        if options.write:
            text = plot.svg("Seconds of a command by the number of hosts", "hosts", "seconds", lines)
            (ROOT / "docs/assets/commands.svg").write_text(text)


def _pure(count: int) -> dict[str, float]:
    """Processor seconds of a cluster of ``count`` bare hosts, in this process, and its MiB."""
    known = crowd.known(count)
    names = tuple(known.cluster.hosts)
    bare = answer(Snapshot(0, "debian", "trixie", client=ADMIN, hostname="old", static_hostname="old"))

    class Bare:
        def snapshot_lines(self, queries: dict[str, str]) -> dict[str, list[str]]:
            return dict.fromkeys(queries, bare)

    crowd_of_one = crowd.known(crowd.GATEWAYS + 1)
    look.see(crowd_of_one, tuple(crowd_of_one.cluster.hosts), Bare()).plan()  # type: ignore[arg-type] # templates read
    begun = time.process_time()
    seen = look.see(known, names, Bare())  # type: ignore[arg-type]
    seen_s = time.process_time()
    wanted = seen.plan()
    assert wanted.hash
    planned_s = time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"states": seen_s - begun, "plan": planned_s - seen_s, "MiB": memory}


def _pure_part(runs: int) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {"states": [], "plans of bare hosts": []}
    print(f"{'hosts':>6} {'states':>9} {'plan':>9} {'memory':>10}   a host's states and plan, over those of ten")
    of_ten = 0.0
    for count in PURE:
        found = [json.loads(_output([sys.executable, __file__, "--child", str(count)])) for _ in range(runs)]
        least = {what: min(each[what] for each in found) for what in found[0]}
        one_s = (least["states"] + least["plan"]) / count
        of_ten = one_s if count == 10 else of_ten
        lines["states"].append((count, least["states"]))
        lines["plans of bare hosts"].append((count, least["plan"]))
        ratio = f"{one_s / of_ten:.2f} x" if of_ten else ""
        print(f"{count:>6} {least['states']:>7.2f} s {least['plan']:>7.2f} s {least['MiB']:>6.0f} MiB   {ratio}")
    return lines


def _commands_part(counts: Sequence[int], runs: int) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    memory: dict[int, float] = {}
    for count in counts:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as name, _answering(Path(name), count) as written:
            fiefdom = [sys.executable, "-m", "fiefdom"]
            contenders: dict[str, Callable[[], float]] = {
                FLOOR: lambda written=written: _floor(written),
                **{
                    words[0]: lambda argv=[*fiefdom, *words], written=written: _run(
                        [*argv[:4], str(written), *argv[4:]], written
                    )
                    for words in (["plan"], ["apply", "--yes"], ["status"], ["doctor"])
                },
            }
            for contender in contenders.values() if count == counts[0] else ():
                contender()  # everything is in the page cache
            for what, contender in contenders.items():
                seconds = min(contender() for _ in range(runs))
                lines.setdefault(what, []).append((count, seconds))
                floor = lines[FLOOR][-1][1]
                print(f"{count:>6} hosts  {what:<26} {seconds:7.2f} s  {seconds / floor:6.2f} x the floor")
            memory[count] = _memory_mib([*fiefdom, "apply", str(written), "--yes"], written)
            print(f"{count:>6} hosts  apply takes {memory[count]:.0f} MiB at most")
    for what, points in lines.items():
        (few, first_s), (most, last_s) = points[0], points[-1]
        print(
            f"{what:<26} {last_s / first_s:5.1f} x from {few:g} to {most:g} hosts, which are {most / few:.1f} x as many"
        )
    return lines


@contextmanager
def _answering(folder: Path, count: int) -> Iterator[Path]:
    """The inventory of hosts that answer as converged ones do."""
    folder.chmod(0o755)
    key = sshds.keygen(folder / "key")
    data = crowd.inventory(count, registry={"server": "registry.example.org"})
    names = list(data["hosts"])
    at = {name: f"127.0.{1 + number // 200}.{1 + number % 200}" for number, name in enumerate(names)}
    answers = folder / "answers"
    answers.write_text(ANSWERS.replace("@FOLDER@", str(folder)))
    answers.chmod(0o755)
    with ExitStack() as stack:
        known_hosts = []
        for first in range(0, count, SOCKETS):
            own = [at[name] for name in names[first : first + SOCKETS]]
            lines = [f"ForceCommand {answers}", "MaxStartups 1000", "MaxSessions 20"]
            found = stack.enter_context(
                sshds.sshd(folder / f"sshd{first}", [key], lines, address=own[0], others=own[1:])
            )
            for name in names[first : first + SOCKETS]:
                data["hosts"][name]["ssh"] = {"address": at[name], "port": found.port, "user": sshds.USER}
                known_hosts.append(f"[{at[name]}]:{found.port} {found.host_key()}\n")
        (folder / "known").write_text("".join(known_hosts))
        data["ssh"] = {"known_hosts": str(folder / "known"), "key": str(key)}
        written = folder / "crowd.yaml"
        written.write_text(yaml.safe_dump(data, sort_keys=False))
        _record(written, at, folder)
        yield written


def _record(written: Path, at: dict[str, str], folder: Path) -> None:
    """What every host answers, from hosts that an apply has brought to the inventory."""
    cluster = inventory.load(str(written))
    known = Known(cluster, Secrets(GOSSIP_KEY), build.identities(cluster))
    hosts = converged(known, folder)
    for name, address in at.items():
        own = folder / address
        own.mkdir()
        now = replace(hosts.hosts[name].now, client=ADMIN)
        (own / "snapshot").write_text("\n".join(answer(now)) + "\n")
        role = "gateway" if name in cluster.gateways else "serf-agent"
        (own / "gossip").write_text(hosts.script(name, gossip.SCRIPT, [role, "7946", "app", "0"])[1] + "\n")
        if name in cluster.gateways:
            (own / "view").write_text(hosts.shell(name, GATEWAY_STATUS)[1] + "\n")


def _environment(written: Path) -> dict[str, str]:
    own = {"FIEFDOM_GOSSIP_KEY": GOSSIP_KEY, "HOME": str(written.parent), "COLUMNS": "120"}
    path = os.pathsep.join(filter(None, (str(ROOT / "deploys") if "PYTHONPATH" in os.environ else "",)))
    return {n: v for n, v in os.environ.items() if n != "SSH_AUTH_SOCK"} | own | ({"PYTHONPATH": path} if path else {})


def _run(argv: Sequence[str], written: Path) -> float:
    """Seconds that a command takes; 2 is what `doctor`, `plan` and `status` end with where they have something."""
    begun = time.monotonic()
    done = subprocess.run(
        argv, cwd=written.parent, env=_environment(written), capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 2):
        sys.exit(f"{' '.join(argv)} exited {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - begun


def _memory_mib(argv: Sequence[str], written: Path) -> float:
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    return float(_output([sys.executable, "-c", program, *argv], _environment(written)))


def _floor(written: Path) -> float:
    """Seconds of a login to every host, in parallel, and of a Python start that imports pyinfra."""
    hosts = yaml.safe_load(written.read_text())["hosts"].values()
    begun = time.monotonic()
    options = [f"UserKnownHostsFile={written.parent}/known", "BatchMode=yes", "IdentitiesOnly=yes"]
    common = ["ssh", "-F", "none", "-i", str(written.parent / "key"), *(f"-o{option}" for option in options)]
    logins = [
        subprocess.Popen(
            [*common, "-p", str(host["ssh"]["port"]), f"{sshds.USER}@{host['ssh']['address']}", "true"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for host in hosts
    ]
    codes = [login.wait() for login in logins]
    if any(codes):
        sys.exit("ssh true failed")
    _output([sys.executable, "-c", IMPORT])
    return time.monotonic() - begun


def _output(argv: Sequence[str], environment: dict[str, str] | None = None) -> str:
    return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
