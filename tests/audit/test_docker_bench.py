"""Controls of the CIS Docker Benchmark as docker-bench-security 1.6 numbers them; no registry here has it.

Left out is what it only tells a person to look at, and what says nothing of a host without the thing: 1.1.1 and 1.1.3
to 1.1.18 (partitions and auditd), 2.1 (rootless), 3.7 to 3.14 (certificates of a daemon that listens on TCP), 5.2 and
5.3 (the machine's kernel has no AppArmor), 7 (swarm).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from helpers.audited import Control, Target, each

SENSITIVE = {"/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/run/docker.sock", "/var/run/docker.sock"}
PROBED = (
    "the host's supervisor and every gateway ask each instance; a HEALTHCHECK adds a process and nobody asks for it"
)


@cache
def daemon(target: Target) -> dict[str, Any]:
    file = target.host.file("/etc/docker/daemon.json")
    found: dict[str, Any] = json.loads(file.content_string) if file.exists else {}
    return found


@cache
def info(target: Target) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(target.run("docker info --format '{{json .}}'"))
    return found


@cache
def containers(target: Target) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(target.run("docker inspect $(docker ps -q)"))
    assert found, f"no container runs on {target.name}"
    return found


def config(key: str, *values: object) -> Callable[[Target], bool]:
    return lambda target: daemon(target).get(key) in values


def every(wanted: Callable[[dict[str, Any]], object]) -> Callable[[Target], bool]:
    """Whether ``wanted`` is true of what `docker inspect` says of each container."""
    return lambda target: all(wanted(found) for found in containers(target))


@cache
def statuses(target: Target) -> list[dict[str, str]]:
    """What the kernel says of every process in a container: /proc/PID/status."""
    pids = target.run("for c in $(docker ps -q); do docker top $c -o pid | tail -n +2; done").split()
    assert pids, f"no container runs on {target.name}"
    texts = target.run(f"for pid in {' '.join(pids)}; do cat /proc/$pid/status; echo; done").strip().split("\n\n")
    pairs = [[line.partition(":") for line in text.splitlines()] for text in texts]
    return [{name: value.strip() for name, _, value in lines} for lines in pairs]


def processes(wanted: Callable[[dict[str, str]], bool]) -> Callable[[Target], bool]:
    """Whether ``wanted`` is true of every process in a container."""
    return lambda target: all(wanted(found) for found in statuses(target))


def file(path: str, most: int, owner: str = "root:root") -> Callable[[Target], bool]:
    def check(target: Target) -> bool:
        found = target.host.file(path)
        return f"{found.user}:{found.group}" == owner and not found.mode & ~most

    return check


CONTROLS = (
    Control("1.1.2", "only root controls Docker", lambda t: t.host.group("docker").members == []),
    Control("2.2", "containers of one bridge do not talk", config("icc", False)),
    Control("2.3", "log level", config("log-level", "info")),
    Control("2.4", "Docker writes its rules", config("iptables", None, True)),
    Control("2.5", "no insecure registry", config("insecure-registries", None, [])),
    Control("2.6", "storage driver", lambda t: info(t)["Driver"] != "aufs"),
    Control(
        "2.7", "no TCP socket", lambda t: "tcp:" not in t.run("cat /proc/$(pidof dockerd)/cmdline /etc/docker/*.json")
    ),
    Control("2.8", "default limits", lambda t: "nofile" in daemon(t).get("default-ulimits", {})),
    Control(
        "2.9",
        "user namespaces",
        lambda t: "userns-remap" in daemon(t),
        "impossible beside containers in the host's network, which the gateway and the agents are; none runs as root",
    ),
    Control("2.10", "cgroups", config("cgroup-parent", None)),
    Control("2.11", "base device size", config("storage-opts", None)),
    Control(
        "2.12",
        "authorisation plugin",
        lambda t: "authorization-plugins" in daemon(t),
        "there is nobody to authorise: the socket is root's alone (1.1.2)",
    ),
    Control("2.13", "bounded or central logs", lambda t: info(t)["LoggingDriver"] != "json-file"),
    Control("2.14", "no new privileges", config("no-new-privileges", True)),
    Control("2.15", "live restore", lambda t: info(t)["LiveRestoreEnabled"]),
    Control("2.16", "no userland proxy", config("userland-proxy", False)),
    Control("2.17", "seccomp", lambda t: any("name=seccomp" in o for o in info(t)["SecurityOptions"])),
    Control("2.18", "no experiments", lambda t: not info(t)["ExperimentalBuild"]),
    Control("3.1", "docker.service", file("/lib/systemd/system/docker.service", 0o644)),
    Control("3.3", "docker.socket", file("/lib/systemd/system/docker.socket", 0o644)),
    Control("3.5", "/etc/docker", file("/etc/docker", 0o755)),
    Control("3.15", "Docker's socket", file("/run/docker.sock", 0o660, "root:docker")),
    Control("3.17", "daemon.json", file("/etc/docker/daemon.json", 0o644)),
    Control("3.19", "/etc/default/docker", file("/etc/default/docker", 0o644)),
    Control("3.23", "containerd's socket", file("/run/containerd/containerd.sock", 0o660)),
    Control("4.1", "no root in a container", processes(lambda s: "0" not in s["Uid"].split())),
    Control(
        "4.5",
        "content trust",
        lambda t: t.run("printenv DOCKER_CONTENT_TRUST || true").strip() == "1",
        "images come over SSH and are told by their ids; what it signs is a registry's",
    ),
    Control("4.6", "health check of the image", every(lambda c: c["Config"].get("Healthcheck")), PROBED),
    Control("5.1", "no swarm", lambda t: info(t)["Swarm"]["LocalNodeState"] == "inactive"),
    Control(
        "5.4", "no capability", processes(lambda s: {s[f"Cap{k}"].strip("0") for k in ("Eff", "Bnd", "Amb")} == {""})
    ),
    Control("5.5", "not privileged", every(lambda c: not c["HostConfig"]["Privileged"])),
    Control("5.6", "no folder of the host's own", every(lambda c: not {m["Source"] for m in c["Mounts"]} & SENSITIVE)),
    Control("5.7", "no sshd", processes(lambda s: not s["Name"].startswith("sshd"))),
    Control(
        "5.8",
        "no privileged port",
        every(lambda c: all(int(port.split("/")[0]) >= 1024 for port in c["NetworkSettings"]["Ports"] or ())),
    ),
    Control(
        "5.10",
        "no host network",
        every(lambda c: c["HostConfig"]["NetworkMode"] != "host"),
        "HAProxy and Serf speak for the host's own address; services' instances are behind a bridge",
    ),
    Control("5.11", "memory limit", every(lambda c: c["HostConfig"]["Memory"] > 0)),
    Control(
        "5.12",
        "CPU limit",
        every(lambda c: c["HostConfig"]["NanoCpus"] or c["HostConfig"]["CpuShares"]),
        "instances have one; the gateway and the agents must not be the ones that wait",
    ),
    Control("5.13", "read-only root", every(lambda c: c["HostConfig"]["ReadonlyRootfs"])),
    Control(
        "5.14",
        "bound to an address",
        every(lambda c: all(b["HostIp"] not in ("", "0.0.0.0", "::") for b in bindings(c))),
    ),
    Control("5.15", "no restart without end", every(lambda c: c["HostConfig"]["RestartPolicy"]["Name"] != "always")),
    Control("5.16", "processes of its own", every(lambda c: c["HostConfig"]["PidMode"] != "host")),
    Control("5.17", "memory of its own", every(lambda c: c["HostConfig"]["IpcMode"] != "host")),
    Control("5.18", "no device", every(lambda c: not c["HostConfig"]["Devices"])),
    Control("5.19", "open files", every(lambda c: c["HostConfig"]["Ulimits"])),
    Control(
        "5.20", "no shared mounts", every(lambda c: all("shared" not in m.get("Propagation", "") for m in c["Mounts"]))
    ),
    Control("5.21", "host name of its own", every(lambda c: c["HostConfig"]["UTSMode"] != "host")),
    Control("5.22", "seccomp stays on", processes(lambda s: s["Seccomp"] == "2")),
    Control("5.25", "cgroup", every(lambda c: not c["HostConfig"]["CgroupParent"])),
    Control("5.26", "no new privileges", processes(lambda s: s["NoNewPrivs"] == "1")),
    Control("5.27", "health at run time", every(lambda c: "Health" in c["State"]), PROBED),
    Control("5.29", "process limit", every(lambda c: (c["HostConfig"]["PidsLimit"] or 0) > 0)),
    Control(
        "5.30",
        "not on docker0",
        every(lambda c: c["HostConfig"]["NetworkMode"] not in ("default", "bridge")),
        "only there does icc: false keep instances from each other",
    ),
    Control("5.31", "user namespace", every(lambda c: c["HostConfig"]["UsernsMode"] != "host")),
    Control("5.32", "no Docker socket", every(lambda c: not any("docker.sock" in m["Source"] for m in c["Mounts"]))),
)


def bindings(container: dict[str, Any]) -> list[dict[str, str]]:
    return [b for found in (container["NetworkSettings"]["Ports"] or {}).values() for b in found or ()]


@each(CONTROLS)
def test_control(control: Control, target: Target) -> None:
    if control.id == "5.30" and all(c["HostConfig"]["NetworkMode"] == "host" for c in containers(target)):
        pytest.skip("no instance of a service runs here")
    assert control.wanted(target), control.about
