"""A gateway and its app hosts as containers on a network of their own: real parts without the minutes that hosts take.

A "host" is a container that does nothing but hold a network address; what runs on the host shares its network, as
`--network host` does on a real one. Files and arguments are those of Fiefdom's concerns. Everything goes away at the
end.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fiefdom import lab
from fiefdom.desired import gateway, offers, serf, services
from fiefdom.desired.context import Context
from fiefdom.desired.state import Container, HostState
from fiefdom.images import bases
from fiefdom.model import Cluster, Secrets

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "fiefdom-bench"


@dataclass(frozen=True)
class Stage:
    """Hosts without anything on them yet, and what the concerns want there."""

    cluster: Cluster
    states: Mapping[str, HostState]
    folder: Path

    def container(self, host: str, name: str) -> Container:
        return next(each for each in self.states[host].containers if each.name == name)

    def arguments(self, host: str, container: Container) -> list[str]:
        """Arguments of `docker run` for a container of `host`, its files below this stage's folder."""
        root = self.folder / host
        arguments = [f"--network=container:{PREFIX}-{host}", f"--stop-signal={container.stop_signal}"]
        for argument in container.args:
            key, _, value = argument.partition("=")
            if key in ("--env-file", "--volume"):
                arguments.append(f"{key}={root}{value}")
            elif key not in ("--network", "--publish"):
                arguments.append(argument)
        return arguments

    def start(self, host: str, container: Container, *more: str, command: tuple[str, ...] = ()) -> str:
        """Run a container of `host`; return its name."""
        name = f"{PREFIX}-{host}-{container.name}"
        image = image_of(container.image)
        own = command or container.command
        docker("run", "--detach", "--name", name, *self.arguments(host, container), *more, image, *own)
        return name

    def process(self, host: str) -> int:
        """Return a process that lives in the host's network."""
        return int(docker("inspect", "--format={{.State.Pid}}", f"{PREFIX}-{host}"))


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        sys.exit(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


def image_of(reference: str) -> str:
    """Return the name under which this stage built an image of this project."""
    return f"{PREFIX}/{reference.rpartition('/')[2].partition(':')[0]}"


@contextmanager
def stage(hosts: tuple[str, ...], service: Mapping[str, Any]) -> Iterator[Stage]:
    """Hosts with addresses, one service, and the files of the gateway's, the agent's and the instances' concerns."""
    if os.geteuid() != 0:
        sys.exit("Run this as root: it gives files to the containers' user, and enters their network.")
    lab.ensure_docker(print)
    lab.ensure_base_images(print)
    _remove()
    try:
        for name in ("gateway", "serf", "predictor"):
            context = ROOT / "images" / name
            docker("build", "--quiet", *bases.build_arguments(context), "--tag", image_of(name), str(context))
        docker("network", "create", "--internal", PREFIX)
        addresses = {name: _start_host(name) for name in hosts}
        cidr = docker("network", "inspect", "--format={{(index .IPAM.Config 0).Subnet}}", PREFIX)
        groups = {name: "gateways" if name.startswith("gw") else "app_hosts" for name in hosts}
        inventory = {
            "cluster": "bench",
            "network": {"cidr": cidr, "admin_cidrs": [cidr], "client_cidrs": [cidr]},
            "hosts": {name: {"address": addresses[name], "groups": [groups[name]]} for name in hosts},
            "services": {"predictor": {"image": "fiefdom/predictor", "version": "1.0.0", **service}},
        }
        cluster = Cluster.model_validate(inventory)
        own = Secrets(base64.b64encode(secrets.token_bytes(32)).decode())
        with tempfile.TemporaryDirectory(prefix=f"{PREFIX}-") as folder:
            root = Path(folder)
            root.chmod(0o755)
            states = {}
            for name in hosts:
                context = Context(name, cluster, "trixie", own)
                states[name] = gateway.desired(context) + serf.desired(context) + services.desired(context)
                _write(root / name, states[name])
                if context.is_app_host:
                    _write_tags(root / name, context)
            yield Stage(cluster, states, root)
    finally:
        _remove()
        docker("image", "rm", "--force", *(image_of(name) for name in ("gateway", "serf", "predictor")), check=False)


def _start_host(name: str) -> str:
    container = f"{PREFIX}-{name}"
    docker(
        *("run", "--detach", "--name", container, f"--network={PREFIX}", "--entrypoint=sleep"),
        *("--sysctl=net.ipv4.ip_unprivileged_port_start=0", image_of("gateway"), "infinity"),
    )
    return docker("inspect", "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)


def _write(root: Path, state: HostState) -> None:
    for directory in sorted(state.directories, key=lambda each: each.path):
        path = root / directory.path.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(directory.mode)
        os.chown(path, directory.uid, directory.gid)
    for file in state.files:
        path = root / file.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
        path.chmod(file.mode)
        os.chown(path, file.uid, file.gid)


def _write_tags(root: Path, context: Context) -> None:
    """What a host's agent says from its first moment on, as `offer tags` writes it where all is offered."""
    said = {f"svc:{offer.service}": offer.word for offer in offers.desired(context).offers}
    path = root / serf.TAGS.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"tags": {"role": "app", **said}}))


def _remove() -> None:
    names = docker("ps", "--all", "--quiet", f"--filter=name=^{PREFIX}-").split()
    if names:
        docker("rm", "--force", "--volumes", *names)
    docker("network", "rm", PREFIX, check=False)


def await_servers(gateway_name: str, count: int, timeout_s: float = 30.0) -> None:
    """Wait until the gateway has `count` servers, all of them up."""

    def whole() -> bool:
        document = docker("exec", gateway_name, "fiefdom-gateway", "status", check=False)
        states = [server["state"] for server in json.loads(document)["servers"]] if document else []
        return len(states) == count and set(states) <= {"up"}

    await_true(whole, f"{count} servers up", timeout_s)


def await_true(holds: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline_s:
            sys.exit(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.05)
