"""How long a release's images take to many hosts, over the time that one host takes on a link of the same speed.

The hosts are real sshds on loopback addresses of a network namespace of this process's own, one sshd each, and the
kernel lets no more through to an address than its link has (`tc`, htb). At both ends `docker` is a script: here it says
an archive of random bytes and writes down that it was asked, there it reads to the end. Between them are the engine's
session and the fan-out as an apply uses them. So what is measured is the operator's machine, which enciphers for all
hosts at once, while the sshds of all hosts take their share of the same processors.

What is wanted is a ratio of 2 at most, and one `docker save`, however many hosts there are. It needs root, sshd and
iproute2; nothing of it is left behind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))

from fiefdom import engine, inventory  # noqa: E402 -- before what it patches
from fiefdom.converge.steps import Phase  # noqa: E402
from helpers import crowd, sshds  # noqa: E402 -- they are the tests'

TARGET = 2.0
IMAGE = "bench/archive:1"
INSIDE = "FIEFDOM_BENCH_INSIDE"  # set in the namespace
BURST_KIB = 256
"""What a link lets through at once: no less than the largest packet that loopback has."""

# At a host: everything that is asked runs with the `docker` of the bench.
SHELL = '#!/bin/sh\nPATH="@BIN@:$PATH"\nexport PATH BENCH_AT=host\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
DOCKER = """#!/bin/sh
case "${BENCH_AT:-here} $1" in
"here save") echo "$*" >>"@FOLDER@/saves"; exec cat "@FOLDER@/archive" ;;
"host info") echo '[["Backing Filesystem","extfs"]]' ;;
"host image") ;;
"host load") exec cat >/dev/null ;;
*) exit 1 ;;
esac
"""


@dataclass(frozen=True)
class Sent:
    """One release to some hosts: seconds until all have it, and seconds of a processor that this process took."""

    seconds: float
    processor_s: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2, help="runs of each, in turn; the median counts (default 2)")
    parser.add_argument("--hosts", type=int, default=20, help="hosts, against one (default 20)")
    parser.add_argument("--mbit", type=float, nargs="+", default=[20, 50], help="of each link (default 20 and 50)")
    parser.add_argument("--mib", type=int, default=40, help="of the archive (default 40)")
    options = parser.parse_args()
    _require(options.hosts)
    if INSIDE not in os.environ:
        _enter()
    for mbit in options.mbit:
        _measure(options.hosts, mbit, options.mib, options.runs)


def _require(hosts: int) -> None:
    if os.geteuid() != 0:
        sys.exit("Run this as root: it makes a network namespace and limits what goes through it.")
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("tc", "iproute2")):
        if shutil.which(program) is None:
            sys.exit(f"no {program} on this machine: apt install {package}")
    if reason := sshds.missing():
        sys.exit(reason)
    least = crowd.GATEWAYS + 1  # and an app host
    if not least <= hosts <= 250:
        sys.exit(f"--hosts: {least} to 250")


def _enter() -> None:
    """Go on in a network namespace that goes away with this process."""
    environment = {**os.environ, INSIDE: "1"}
    os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], environment)  # noqa: S606


def _measure(count: int, mbit: float, mib: int, runs: int) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, ExitStack() as stack:
        folder = Path(name)
        _limit(count, mbit)
        archive = folder / "archive"
        archive.write_bytes(os.urandom(mib << 20))
        written = stack.enter_context(_hosts(folder, count))
        stack.callback(os.environ.__setitem__, "PATH", os.environ["PATH"])
        os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
        os.environ["HOME"] = str(folder)  # nobody's ~/.ssh/config
        cluster = inventory.load(str(written))
        names = tuple(cluster.hosts)
        session = stack.enter_context(engine.Session(cluster, names))
        few: list[Sent] = []
        many: list[Sent] = []
        for _ in range(runs):
            few.append(_send(session, names[:1], folder))
            many.append(_send(session, names, folder))
    link_s = (mib << 20) * 8 / (mbit * 1e6)
    print(f"{mib} MiB at {mbit:g} Mbit/s a link, which takes {link_s:.1f} s; load {os.getloadavg()[0]:.1f}")
    for hosts, sent in ((1, few), (count, many)):
        seconds = statistics.median(each.seconds for each in sent)
        own_s = statistics.median(each.processor_s for each in sent)
        print(f"  {hosts:>3} host{'s' if hosts > 1 else ' '} {seconds:6.2f} s, {own_s:5.2f} s of a processor here")
    ratio = statistics.median(b.seconds for b in many) / statistics.median(a.seconds for a in few)
    print(f"  {count} hosts over one: {ratio:.2f} (at most {TARGET:g}); one docker save each time", flush=True)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(
            f"{' '.join(argv)} exited {done.returncode}: {done.stderr.strip()}; does this kernel have htb and u32?"
        )


def _address(number: int) -> str:
    return f"127.0.1.{number + 1}"


def _limit(count: int, mbit: float) -> None:
    """A link of its own to each host's address. What hosts answer goes to another one, and is not limited."""
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], capture_output=True, check=False)
    _run("ip", "link", "set", "lo", "up")
    _run("tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb")  # what has no class is not limited
    for number in range(count):
        own = f"1:{number + 1:x}"
        rate, burst = f"{round(mbit * 1e6)}bit", f"{BURST_KIB}kb"
        _run(*f"tc class add dev lo parent 1: classid {own} htb rate {rate} burst {burst} cburst {burst}".split())
        match = f"u32 match ip dst {_address(number)}/32 flowid {own}"
        _run(*f"tc filter add dev lo protocol ip parent 1: {match}".split())


@contextmanager
def _hosts(folder: Path, count: int) -> Iterator[Path]:
    """An sshd for each host; the inventory of all."""
    folder.chmod(0o755)
    (folder / "bin").mkdir()
    for path, text in ((folder / "bin/docker", DOCKER), (folder / "shell", SHELL)):
        path.write_text(text.replace("@FOLDER@", str(folder)).replace("@BIN@", str(folder / "bin")))
        path.chmod(0o755)
    key = sshds.keygen(folder / "key")
    data = crowd.inventory(count)
    known = []
    with ExitStack() as stack:
        for number, name in enumerate(data["hosts"]):
            lines, address = [f"ForceCommand {folder / 'shell'}"], _address(number)
            found = stack.enter_context(sshds.sshd(folder / name, [key], lines, address=address))
            data["hosts"][name]["ssh"] = {"address": address, "port": found.port, "user": sshds.USER}
            known.append(f"{found.known_as} {found.host_key()}\n")
        (folder / "known").write_text("".join(known))
        data["ssh"] = {"known_hosts": str(folder / "known"), "key": str(key)}
        written = folder / "crowd.yaml"
        written.write_text(yaml.safe_dump(data, sort_keys=False))
        yield written


def _send(session: engine.Session, names: Sequence[str], folder: Path) -> Sent:
    """One release to ``names``, whose images are packed anew."""
    saves = folder / "saves"
    saves.unlink(missing_ok=True)
    begun_s, own_s = time.monotonic(), time.process_time()
    session.on_all(lambda name: session.run(name, Phase("images", images=(IMAGE,))), names)
    sent = Sent(time.monotonic() - begun_s, time.process_time() - own_s)
    if saves.read_text().splitlines() != [f"save {IMAGE}"]:
        sys.exit(f"images were packed more than once:\n{saves.read_text()}")
    return sent


if __name__ == "__main__":
    main()
