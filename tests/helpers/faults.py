"""Ways to break a lab host, and what must hold once it is mended."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fiefdom import lab
from helpers.operator_view import LAB_YAML, ROOT, Site, await_true

LOCK_FILE = (
    "use Fcntl; open(F, '>>', $ARGV[0]) or die; my $lock = pack('ssx4qqi', F_WRLCK, 0, 0, 0, 0); "
    "fcntl(F, F_SETLK, $lock) or die 'taken'; print qq(held\\n); close(STDOUT); sleep $ARGV[1]"
)

PYTHON_IMAGE = "fiefdom/predictor:1.0.0"
SLOW_LINK = (Path(__file__).parent / "slow_link.py").read_text()
SLOW_QUEUE = 7


def docker(*argv: str, check: bool = True, stdin: str = "") -> str:
    """Output of docker on this machine."""
    done = subprocess.run(["docker", *argv], input=stdin, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, f"docker {argv[0]}: {done.stderr}"
    return done.stdout.strip()


def console(host: str, command: str, check: bool = True) -> str:
    """Output of a root shell on a host that needs no network and no sshd."""
    done = subprocess.run(
        ["docker", "exec", lab.host(host).container, "sh", "-euc", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def one_message(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence with which a run failed, and below it last words, if there are any."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    line, *words = done.stderr.rstrip().splitlines()
    assert line.startswith("error: ")
    assert all(word.startswith("    ") for word in words), done.stderr
    return "\n".join([line, *words])


def settle(site: Site, inventory: str = LAB_YAML) -> None:
    """The next run converges, and the one after it has nothing to do."""
    site.apply(inventory)
    again = site.quick("apply", inventory, "--yes", "--json")
    assert again.returncode == 0, again.stderr
    assert not any(json.loads(again.stdout)["hosts"].values()), again.stdout
    site.await_serving(inventory)


def with_hello(data: dict[str, Any], instances: int = 1) -> None:
    """A second service: an image, files, units and containers for every app host."""
    data["services"]["hello"] = {
        "image": "fiefdom-test/hello",
        "version": "1",
        "build": str(ROOT / "tests/lab/images/hello"),
        "instances": instances,
        "base_port": 9000,
        "container_port": 8080,
        "user": "1000:1000",
        "health": {"path": "/hello/index.html"},
        "limits": {"memory_mib": 32, "pids": 32},
        "route": {"path_prefix": "/hello"},
    }


@contextmanager
def locked(host: str, path: str, seconds: int) -> Iterator[None]:
    """Another process holds a lock of apt or dpkg, for so long at most."""
    holder = subprocess.Popen(
        ["docker", "exec", lab.host(host).container, "perl", "-e", LOCK_FILE, path, str(seconds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
    finally:
        console(host, f"pkill -f '^perl -e use Fcntl.*{path}' || :")
        holder.wait(timeout=30)


@contextmanager
def small(host: str, folder: str, size: str) -> Iterator[None]:
    """A folder is a file system of its own, with what was in it."""
    mount = (
        f"d=$(mktemp -d) && mount -t tmpfs -o mode=$(stat -c %a {folder}),size={size} tmpfs $d && "
        f"cp -a {folder}/. $d/ && mount --bind $d {folder} && umount $d && rmdir $d"
    )
    console(host, mount)
    try:
        yield
    finally:
        # Steps of a run that was told of its failure may still be ending.
        await_true(lambda: console(host, f"umount {folder} && echo gone", check=False), what=f"{folder} free")


@contextmanager
def full(host: str, folder: str, size: str = "1m") -> Iterator[None]:
    """A folder is a file system of its own, with what was in it, and has no room."""
    with small(host, folder, size):
        console(host, f"cat /dev/zero > {folder}/ballast 2>/dev/null || :")
        yield


def cut_ssh(host: str) -> None:
    """Every SSH session of a host drops."""
    console(host, "pkill -KILL -f '^sshd(-session)?: (root|operator)' || :")


@contextmanager
def slow(host: str, round_trip_s: float, loss: float) -> Iterator[None]:
    """A host whose packets take their time, half of it each way, and get lost: see `slow_link`."""
    name = f"fiefdom-slow-{host}"
    rules = [("PREROUTING", "-i"), ("POSTROUTING", "-o")]
    rule = "iptables -t mangle -{} {} {} eth0 -j NFQUEUE --queue-num {} --queue-bypass"
    docker("rm", "--force", name, check=False)
    run = ["run", "--detach", f"--name={name}", "--label=fiefdom.lab=1", "--cap-add=NET_ADMIN", "--user=0"]
    run += [f"--network=container:{lab.host(host).container}", "--entrypoint=python3", PYTHON_IMAGE, "-c", SLOW_LINK]
    docker(*run, str(SLOW_QUEUE), str(round_trip_s / 2), str(loss))
    try:
        await_true(lambda: docker("logs", name) == "bound", timeout_s=10, what="the slow link")
        for chain, way in rules:
            console(host, rule.format("A", chain, way, SLOW_QUEUE))
        yield
    finally:
        for chain, way in rules:
            console(host, rule.format("D", chain, way, SLOW_QUEUE), check=False)
        docker("rm", "--force", name)


@contextmanager
def split(host: str, others: list[str]) -> Iterator[None]:
    """A host hears nothing of some others and they nothing of it."""
    addresses = ", ".join(others)
    cut = (
        "nft add table inet split; "
        "nft add chain inet split in '{ type filter hook prerouting priority -400; }'; "
        "nft add chain inet split out '{ type filter hook output priority -400; }'; "
        f"nft add rule inet split in ip saddr {{ {addresses} }} drop; "
        f"nft add rule inet split out ip daddr {{ {addresses} }} drop"
    )
    console(host, cut)
    try:
        yield
    finally:
        console(host, "nft delete table inet split")


STORM_ADDRESS = "10.99.0.201"
_STORM = """
umask 077; mkdir /tmp/storm; cd /tmp/storm; key=$(cat)
n=0; while [ $n -lt {members} ]; do
  printf '{{"node_name":"storm-%s","bind":"{address}:%s","rpc_addr":"127.0.0.1:%s","encrypt_key":"%s","tags":{tags}}}' \
    $n $((10000 + n)) $((20000 + n)) "$key" >$n.json
  n=$((n + 1))
done
end=$(($(date +%s) + {seconds}))
n=0; while [ $n -lt {members} ]; do
  (while [ $(date +%s) -lt $end ]; do
    timeout -s INT -k 5 $((5 + n % 11)) serf agent -config-file $n.json -join {join} >$n.log 2>&1
    grep -c 'EventMemberJoin: storm-'"$n " $n.log >>joined
  done) &
  n=$((n + 1))
done
wait
awk '{{ all += $1 }} END {{ print all }}' joined
"""


def storm(members: int, seconds: int, gossip_key: str) -> int:
    """So many Serf agents join and leave again and again; how often one joined.

    Each claims instances of the service like an app host that the inventory does not know.
    """
    name = "fiefdom-storm"
    tags = json.dumps({"role": "app", "svc:predictor": "1.0.0;8000-8001"})
    script = _STORM.format(
        members=members, seconds=seconds, address=STORM_ADDRESS, join=f"{lab.host('gw1').address}:7946", tags=tags
    )
    image = serf_image()
    docker("rm", "--force", name, check=False)
    run = ["docker", "run", "--rm", "--interactive", f"--name={name}", "--label=fiefdom.lab=1"]
    run += [f"--network={lab.NETWORK}", f"--ip={STORM_ADDRESS}", "--user=0", "--entrypoint=sh", image, "-c", script]
    try:
        done = subprocess.run(run, input=gossip_key, capture_output=True, text=True, check=False, timeout=seconds + 120)
    finally:
        docker("rm", "--force", name, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def serf_image() -> str:
    """The newest image of the agents on this machine."""
    return docker("images", "--format", "{{.Repository}}:{{.Tag}}", "fiefdom/serf").splitlines()[0]
