"""Secrets on real hosts: they arrive, and nobody but root and the process itself ever sees them on the way.

Everything that can be asked is asked at its most talkative, while samplers look at command lines and at files that
others may read, on every host and on the operator's machine. Words that must not be seen never stand in a command line
of these tests either: hosts get them backwards.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyrage
import pytest

from fiefdom import inventory
from fiefdom.desired import docker
from fiefdom.desired.context import Context
from fiefdom.desired.membership import rpc_auth
from fiefdom.inventory import secret
from fiefdom.model import Cluster, Secrets
from helpers.operator_view import ROOT, Site, await_true
from helpers.registry import running

pytestmark = pytest.mark.proof

HOSTS = ("gw1", "app1", "app2")
FIRST = {"env": "swordfish-by-env-1", "command": "swordfish-by-command-1", "secret": "swordfish-by-file-1"}
REGISTRY_USER, REGISTRY_PASSWORD = "ann", "swordfish-by-registry"
SECOND = {kind: text.replace("-1", "-2") for kind, text in FIRST.items()}
WORDS = "/root/fiefdom-test-words"
CANARY = "canary-that-is-seen"
AS_NOBODY = "setpriv --reuid=nobody --regid=nogroup --clear-groups"

# Runs on a host until it is told to stop. The first loop is for command lines, which are short-lived; the second for
# files that are not their owner's alone, wherever a run could leave one, and for what a user without rights can read.
# containerd's own bundles hold what `docker inspect` shows: mode 0644, in a folder that is root's alone.
SAMPLER = f"""
cd /root || exit
umask 077
(
    while [ ! -e fiefdom-test-stop ]; do
        cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -aoFf {WORDS} && echo in a command line
        sleep 0.02
    done
) >fiefdom-test-argv 2>/dev/null &
while [ ! -e fiefdom-test-stop ]; do
    find /tmp /var/tmp /run /dev/shm /etc /usr/local /var/lib/fiefdom /var/lib/docker/containers /home /root \\
        -path '/run/*containerd' -prune -o -type f -perm /077 -exec grep -alFf {WORDS} {{}} + 2>/dev/null
    {AS_NOBODY} grep -rlaFf - --devices=skip \\
        /tmp /var/tmp /run /dev/shm /var/lib/fiefdom /var/lib/docker 2>/dev/null <{WORDS}
    sleep 0.1
done >fiefdom-test-files
wait
"""

# Where a host may keep one, each for root or the agent's user alone.
MAY_HOLD = ("/etc/fiefdom/containers/", "/etc/fiefdom/serf/agent.json", "/etc/fiefdom/gateway/agent.json")
MAY_HOLD += ("/etc/fiefdom/docker/config.json", "/var/lib/fiefdom/previous/", "/var/lib/docker/containers/")
BUNDLES = ("/run/docker/containerd/", "/run/containerd/", "/var/lib/containerd/")


def words(cluster: Cluster, known: Secrets) -> list[str]:
    """Every secret of the cluster, as it is and in base64."""
    plain = [known.gossip_key, *FIRST.values(), *SECOND.values()]
    plain += [REGISTRY_PASSWORD, f"{REGISTRY_USER}:{REGISTRY_PASSWORD}"]
    plain += [rpc_auth(Context(name, cluster, "trixie", known)) for name in cluster.hosts]
    return plain + [base64.b64encode(text.encode()).decode().rstrip("=") for text in plain]


def start_sampler(site: Site, host: str, seen: list[str]) -> None:
    backwards = shlex.quote("\n".join(word[::-1] for word in [*seen, CANARY]))
    site.ssh(
        host,
        f"umask 077; rm -f /root/fiefdom-test-*; printf '%s\\n' {backwards} | rev >{WORDS}; "
        f"printf %s {shlex.quote(SAMPLER)} >/root/fiefdom-test-sampler; "
        "systemd-run --quiet --collect --unit=fiefdom-test-sampler sh /root/fiefdom-test-sampler",
    )
    # This command line and this file are what the sampler is there to find.
    site.ssh(host, f"echo {CANARY} >/tmp/fiefdom-test-canary; sleep 3; rm /tmp/fiefdom-test-canary")


def stop_sampler(site: Site, host: str) -> set[str]:
    """What it found besides the canary, which it must have found in both ways."""
    over = "while systemctl -q is-active fiefdom-test-sampler; do sleep 0.1; done"
    site.ssh(host, f"touch /root/fiefdom-test-stop; {over}; sed -i '$d' {WORDS}")
    argv = set(site.ssh(host, "cat /root/fiefdom-test-argv").splitlines())
    files = set(site.ssh(host, "cat /root/fiefdom-test-files").splitlines())
    expected = {CANARY, "in a command line", "/tmp/fiefdom-test-canary"}
    assert expected <= argv | files, f"{host}: the sampler is blind"
    return (argv | files) - expected


def careless_files(folder: Path, seen: list[str]) -> Iterator[str]:
    """Files below a folder that others may open, or that hold a secret."""
    for path in folder.rglob("*"):
        try:
            if not path.is_file():
                continue
            mode, text = path.stat().st_mode & 0o777, path.read_bytes().decode(errors="replace")
        except OSError:  # it is gone by now
            continue
        if mode & 0o177:
            yield f"{path} has the mode {mode:o}"
        yield from (f"{path} holds a secret" for word in seen if word in text)


@contextmanager
def watched_here(seen: list[str], folder: Path) -> Iterator[list[str]]:
    """Command lines of this machine that hold a secret, and careless temporary files, while the block runs.

    Lab hosts share its kernel, and so its command lines.
    """
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            found.extend(careless_files(folder, seen))
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes().decode(errors="replace")
                except OSError:
                    continue
                found.extend(line[:80] for word in seen if word in line)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        canary = folder / "canary"
        canary.write_text(seen[0])
        canary.chmod(0o640)
        wanted = {f"{canary} has the mode 640", f"{canary} holds a secret"}
        await_true(lambda: wanted <= {*found}, 5, "a look at temporary files")
        canary.unlink()
        yield found
    finally:
        over.set()
        thread.join()
    found[:] = [line for line in found if line not in wanted]


@pytest.fixture
def registry(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a registry that asks for a password, which the environment holds."""
    monkeypatch.setenv("FIEFDOM_TEST_REGISTRY", REGISTRY_PASSWORD)
    with running(site, (REGISTRY_USER, REGISTRY_PASSWORD)) as address:
        yield address


@pytest.fixture
def operator(site: Site, registry: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An inventory whose predictor has a secret from every source, and whose images come with another.

    Its hosts are cleaned of the samplers' files.
    """
    identity = pyrage.x25519.Identity.generate()
    key = site.scratch / "identity"
    key.write_text(str(identity))
    key.chmod(0o600)
    monkeypatch.setenv("FIEFDOM_IDENTITY", str(key))

    def change(data: dict[str, Any]) -> None:
        data["registry"] = {"server": registry, "user": REGISTRY_USER}
        data["registry"]["password"] = {"env": "FIEFDOM_TEST_REGISTRY"}
        data["secrets"] = {"file": "secrets.age", "recipients": [str(identity.to_public())]}
        service = data["services"]["predictor"]
        # One instance more, so that `apply` has one to start as well as a rollout some to replace.
        service["instances"] = 3
        service["environment"] |= {
            "BY_ENV": {"env": "FIEFDOM_TEST_SECRET"},
            "BY_COMMAND": {"command": ["cat", "printed"]},
            "BY_FILE": {"secret": "token"},
        }

    path = site.inventory("secrets", change)
    Path(path).with_suffix(".py").write_text((ROOT / "inventories/lab.py").read_text())
    give(site, path, FIRST, monkeypatch)
    yield path
    for host in HOSTS:
        site.ssh(host, "systemctl stop fiefdom-test-sampler 2>/dev/null; rm -f /root/fiefdom-test-*", check=False)


def give(site: Site, path: str, values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every source say these."""
    monkeypatch.setenv("FIEFDOM_TEST_SECRET", values["env"])
    printed = site.scratch / "printed"
    printed.touch(mode=0o600)
    printed.write_text(values["command"] + "\n")
    command = [str(Path(ROOT / ".venv/bin/fiefdom")), "secret", "set", path, "token"]
    subprocess.run(command, input=values["secret"], text=True, check=True, capture_output=True)


def test_no_secret_is_seen_on_its_way_or_left_where_others_may_look(
    site: Site, operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    cluster = inventory.load(operator)
    seen = words(cluster, secret.load(cluster))
    python = str(Path(operator).with_suffix(".py"))
    printed: list[tuple[str, str]] = []

    def run(*argv: str, codes: tuple[int, ...] = (0,)) -> str:
        done = site.run(*argv)
        printed.append((" ".join(argv), done.stdout + done.stderr))
        assert done.returncode in codes, done.stderr
        return done.stdout

    for host in HOSTS:
        start_sampler(site, host, seen)
    with watched_here(seen, tmp_path) as lines:
        first = json.loads(run("fiefdom", "plan", operator, "--diff", "--json", codes=(2,)))
        give(site, operator, SECOND, monkeypatch)
        second = json.loads(run("fiefdom", "plan", operator, "--diff", "--json", codes=(2,)))
        give(site, operator, FIRST, monkeypatch)
        run("pyinfra", python, "debug-inventory")
        run("pyinfra", "--dry", "--diff", "--debug-all", "-vvv", python, "deploys/site.py")
        run("pyinfra", "--yes", "--json", "--diff", "--debug-all", "-vvv", python, "deploys/site.py")
        run("fiefdom", "rollout", operator, "--dry", "--json")
        run("fiefdom", "rollout", operator, "--force")
        give(site, operator, SECOND, monkeypatch)
        run("fiefdom", "apply", operator, "--yes", "--diff", "--json")
        run("fiefdom", "rollout", operator, "--force", "--json")
        clean = run("fiefdom", "plan", operator, "--diff")
        run("fiefdom", "status", operator, "--json")
        run("fiefdom", "audit", operator, "--json")
    assert "no changes on 3 hosts" in clean
    assert first["hash"] == second["hash"] and first == second
    assert [(command, word) for command, text in printed for word in seen if word in text] == []
    assert lines == []
    assert all(REGISTRY_USER in site.ssh(host, _WHO_PULLS) for host in HOSTS)
    for host in HOSTS:
        assert stop_sampler(site, host) == set(), host
        look_around(site, host)
    for host in ("app1", "app2"):
        for port in (8000, 8001, 8002):
            environment = site.ssh(host, f"docker exec predictor-{port} env").splitlines()
            assert {f"BY_{n}={SECOND[k]}" for n, k in (("ENV", "env"), ("COMMAND", "command"), ("FILE", "secret"))} <= {
                *environment
            }


# The user in the file that `docker pull` is given.
_WHO_PULLS = 'sed -n \'s/.*"auth": "\\(.*\\)".*/\\1/p\' /etc/fiefdom/docker/config.json | base64 -d | cut -d : -f 1'


def look_around(site: Site, host: str) -> None:
    """What is left on a host after it all."""
    grep = f"grep -acFf {WORDS} || :"
    everything = {
        "journal": f"journalctl --boot --all --output=export --no-pager | {grep}",
        "processes": f"ps -ww -eo args | {grep}",
        "units": f"systemctl cat '*' 2>/dev/null | {grep}",
        "what systemd knows": f"systemctl show '*' 2>/dev/null | {grep}",
        "containers' command lines": "docker ps -aq | xargs docker inspect "
        f"--format '{{{{json .Config.Cmd}}}} {{{{json .Args}}}} {{{{json .Config.Labels}}}}' | {grep}",
        "containers' logs": f"for c in $(docker ps -aq); do docker logs $c 2>&1; done | {grep}",
    }
    assert {what: site.ssh(host, command) for what, command in everything.items()} == dict.fromkeys(everything, "0")
    # The way to look is right: root finds them where they belong.
    assert int(site.ssh(host, f"cat /etc/fiefdom/containers/*.env | {grep}")) > 0
    rooms = "/etc /run /tmp /var /dev/shm /root /home /opt /srv /usr/local"
    options = "--exclude='fiefdom-test-*' --exclude-dir=overlay2 --exclude-dir=cgroup --devices=skip"
    found = site.ssh(
        host, f"grep -rlaFf {WORDS} {options} {rooms} 2>/dev/null | xargs -r stat -c '%a %U:%G %n' || :"
    ).splitlines()
    for line in found:
        mode, _, path = line.split(" ", 2)
        assert path.startswith((*MAY_HOLD, *BUNDLES)), line
        assert mode in ("600", "400") or path.startswith(BUNDLES), line
    assert any("/etc/fiefdom/containers/" in line for line in found)
    assert site.ssh(host, f"{AS_NOBODY} grep -rlaFf - {options} {rooms} 2>/dev/null <{WORDS} || :") == ""
    for command in ("docker inspect predictor-8000", "ls /var/lib/docker", "cat /etc/fiefdom/containers/*.env"):
        asked = site.ssh(host, f"{AS_NOBODY} {command} 2>&1 && echo DONE || :")
        assert "DONE" not in asked and "denied" in asked.lower(), f"{command}: {asked}"
    assert site.ssh(host, "stat -c '%a %U:%G' /run/docker.sock") in ("660 root:docker", "600 root:root")
    assert site.ssh(host, "getent group docker | cut -d : -f 4") == "", "who is in that group is root"


# --- A registry that wants a password. It needs Docker, and no host of the lab.


class _Registry(BaseHTTPRequestHandler):
    asked: list[str | None]

    def do_GET(self) -> None:
        type(self).asked.append(self.headers["Authorization"])
        self.send_response(404 if self.headers["Authorization"] else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_docker_logs_in_with_the_file_that_hosts_get(tmp_path: Path) -> None:
    _Registry.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = f"127.0.0.1:{server.server_port}"
        file = docker_config(f"{name}/team")
        (tmp_path / "config.json").write_bytes(file)
        environ = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
        command = ["docker", "pull", "-q", f"{name}/team/web:1"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        server.shutdown()
    assert "swordfish" not in done.stdout + done.stderr
    wanted = "Basic " + base64.b64encode(b"ann:swordfish").decode()
    assert wanted in _Registry.asked, done.stderr


def docker_config(server: str) -> bytes:
    cluster = inventory.load(ROOT / "inventories/lab.yaml").model_dump()
    cluster["registry"] = {"server": server, "user": "ann", "password": {"env": "PASSWORD"}}
    validated = Cluster.model_validate(cluster)
    ((_, source),) = validated.secret_sources()
    known = Secrets(gossip_key="", values={source: "swordfish"})
    return docker.desired(Context("app1", validated, "trixie", known)).file(docker.CLIENT_CONFIG).content
