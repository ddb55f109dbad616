"""ssh-audit on the sshd that runs, and its policies on the one that `ssh.crypto: pq` would run."""

from __future__ import annotations

import json
import shlex
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest

from fiefdom.converge import trial
from fiefdom.desired import sshd
from fiefdom.desired.state import HostState
from helpers.audited import CONFIG, Target
from helpers.example import context

SSH_AUDIT = [str(Path(sys.executable).parent / "ssh-audit"), "--skip-rate-test"]  # the rate test gets us locked out
POLICY = {"bookworm": "Hardened Debian 12 (version 3)", "trixie": "Hardened Debian 13 (version 1)"}
# paramiko 4, which pyinfra pins, needs them.
WARNED_OF = {"curve25519-sha256", "curve25519-sha256@libssh.org"}
SCRATCH = "/run/fiefdom-audit"


def test_no_failure_and_only_the_warnings_that_pyinfras_client_costs(target: Target) -> None:
    found = findings(target)
    target.say("ssh-audit", f"{len(found['fail'])} failures, {len(found['warn'])} warnings")
    assert found == {"fail": [], "warn": sorted(WARNED_OF)}


def findings(target: Target) -> dict[str, list[str]]:
    asked = subprocess.run([*SSH_AUDIT, "--json", target.address], capture_output=True, text=True, check=False)
    assert asked.returncode in (0, 2, 3), asked.stdout + asked.stderr
    said = json.loads(asked.stdout)
    offered = [algorithm for kind in ("kex", "key", "enc", "mac") for algorithm in said[kind]]
    return {
        level: sorted(a["algorithm"] for a in offered if a.get("notes", {}).get(level)) for level in ("fail", "warn")
    }


@pytest.fixture
def candidate(target: Target) -> Iterator[str]:
    """Path of sshd's configuration under `ssh.crypto: pq` on the host, beside the one that runs, with its keys made."""
    state = pq(target)
    unit = f"/run/systemd/system/{sshd.KEYS_UNIT}"
    path = f"{SCRATCH}/sshd.conf"
    target.run(f"mkdir -p -m 0755 {SCRATCH}")
    try:
        for name, text in ((path, config(state)), (unit, state.file(f"/etc/systemd/system/{sshd.KEYS_UNIT}").content)):
            moved = (text if isinstance(text, str) else text.decode()).replace("/etc/ssh/fiefdom", f"{SCRATCH}/fiefdom")
            moved = moved.replace("ReadWritePaths=/etc/ssh", f"ReadWritePaths={SCRATCH}")
            target.run(f"umask 077; printf %s {shlex.quote(moved)} >{name}")
        target.run(f"systemctl daemon-reload && systemctl start {sshd.KEYS_UNIT}")
        yield path
    finally:
        target.run(f"systemctl stop {sshd.KEYS_UNIT}; rm -rf {unit} {SCRATCH}; systemctl daemon-reload")


def pq(target: Target) -> HostState:
    return sshd.desired(context("app2", target.codename, ssh={"crypto": "pq"}))


def config(state: HostState) -> str:
    return state.file(sshd.CONFIG).content.decode()


def test_the_policy_of_the_release_passes_with_pq(target: Target, candidate: str) -> None:
    # No second port: each of its connections is an sshd of its own at the far end of an SSH session.
    with door(target.ssh_argv("/usr/sbin/sshd", "-i", "-f", candidate)) as port:
        asked = subprocess.run(
            [*SSH_AUDIT, "-P", POLICY[target.codename], "-p", str(port), "127.0.0.1"],
            capture_output=True,
            text=True,
            check=False,
        )
    target.say(
        "ssh-audit", f"policy {POLICY[target.codename]} with pq: {'passed' if asked.returncode == 0 else 'failed'}"
    )
    assert asked.returncode == 0, asked.stdout + asked.stderr


def test_a_key_that_is_whole_stays(target: Target, candidate: str) -> None:
    key = f"{SCRATCH}/fiefdom_host_rsa_key"
    before = target.run(f"ssh-keygen -lf {key}.pub; sha256sum {key}")
    assert before.startswith("4096 ")
    assert target.host.file(key).mode == 0o600
    target.run(f"systemctl restart {sshd.KEYS_UNIT}")
    assert target.run(f"ssh-keygen -lf {key}.pub; sha256sum {key}") == before
    target.run(f"truncate -s 100 {key} && systemctl restart {sshd.KEYS_UNIT}")
    assert target.run(f"ssh-keygen -lf {key}.pub").startswith("4096 ")


@pytest.mark.parametrize("user", ["root", "operator"])
def test_the_trial_tells_before_it_is_too_late(target: Target, user: str) -> None:
    compat = config(sshd.desired(context("app2", target.codename)))
    assert tried(target, user, compat) is None
    # What the client knows decides, so this goes on holding when pyinfra takes up a newer one.
    known = set(paramiko.Transport._preferred_kex) & set(sshd.PQ[target.codename]["KexAlgorithms"])
    said = tried(target, user, config(pq(target)))
    assert (said is None) == bool(known), said
    assert said is None or "no algorithm in common" in said
    assert "Foo" in (tried(target, user, f"Foo yes\n{compat}") or "")
    assert target.run("find /tmp -maxdepth 1 -name 'tmp.*' -newer /proc/1 -size -9k -type f") == ""


def tried(target: Target, user: str, text: str) -> str | None:
    known = paramiko.SSHConfig.from_path(str(CONFIG)).lookup(target.name)
    with paramiko.SSHClient() as client:
        client.load_host_keys(known["userknownhostsfile"].strip('"'))
        client.connect(known["hostname"], username=user, key_filename=known["identityfile"][0].strip('"'))
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session()
        channel.exec_command(shlex.join(["sudo", "-n", "sh", "-c", trial.SCRIPT, "trial", text]))
        return trial.negotiates(channel)


@contextmanager
def door(argv: list[str]) -> Iterator[int]:
    """A port on loopback; each connection to it becomes standard input and output of a process of its own."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            subprocess.run(argv, stdin=self.request, stdout=self.request, stderr=subprocess.DEVNULL, check=False)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
