"""A cluster's services on a developer's laptop: up, when each answers as hosts would want it, and down again."""

from __future__ import annotations

import errno
import http.client
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fiefdom.desired.compose import LOOPBACK, Check, Composed, Container, port_mend
from fiefdom.errors import FiefdomError, HostError, HostErrors
from fiefdom.images import build, compose, docker
from fiefdom.model.passthrough import host_path
from fiefdom.waiting import now_s, pause
from fiefdom.wording import Tell, dotted, from_here

_HELD_S = 0.3
"""Docker's proxy accepts for a container in which nobody listens, and closes at once: what is held so long is open."""


@dataclass(frozen=True)
class Running:
    """A container that answers, and where."""

    name: str
    service: str
    image: str
    url: str


def up(composed: Composed, values: Mapping[str, str], *, all_of_it: bool, say: Tell) -> list[Running]:
    """Build or pull what is missing, start what is not as the document says, and wait until each one answers.

    ``values`` are of the document's secrets. If it is ``all_of_it``, what else the project has is removed.

    Raises:
        FiefdomError: nothing was started for it: no Compose, no daemon, a port that is taken, an image that cannot be
            had or would run as root.
        HostErrors: containers that do not answer, with their last words; they stay for who looks into them.
    """
    way = compose.find()
    compose.require_daemon()
    _require_sources(composed.containers)
    _require_free_ports(composed)
    _ensure_images(composed.containers, say)
    _require_users(composed.containers)
    say(f"starting {', '.join(container.name for container in composed.containers)}")
    orphans = ["--remove-orphans"] if all_of_it else []
    compose.do(way, composed.project, composed.text, values, "up", "--detach", "--no-build", *orphans)
    _await_answers(composed, say)
    return [Running(c.name, c.of, c.image, _url(c)) for c in composed.containers]


def down(composed: Composed, *, volumes: bool) -> tuple[str, ...]:
    """Stop and remove a project's containers and network, with ``volumes`` its data as well; volumes that stay."""
    way = compose.find()
    compose.require_daemon()
    options = ["--remove-orphans", *(["--volumes"] if volumes else [])]
    compose.do(way, composed.project, composed.text, _nothing(composed), "down", *options)
    left = compose.volumes(composed.project)
    if left and volumes:  # of what the inventory does not have any more
        compose.remove_volumes(left)
        return ()
    return tuple(left)


def logs(composed: Composed, names: Sequence[str], *, follow: bool, last: int | None) -> None:
    """Print what containers said, where this program prints."""
    way = compose.find()
    compose.require_daemon()
    options = [*(["--follow"] if follow else []), *([f"--tail={last}"] if last is not None else [])]
    values = _nothing(composed)
    compose.do(way, composed.project, composed.text, values, "logs", *options, *names, seen=True)


def _nothing(composed: Composed) -> dict[str, str]:
    """Stands for secrets where nothing is started, so that nobody is asked for them."""
    return dict.fromkeys(composed.secrets, "")


def _url(container: Container) -> str:
    speaks_http = container.check.path is not None
    return f"{'http://' if speaks_http else ''}{LOOPBACK}:{container.port}{'/' if speaks_http else ''}"


# --- Before anything is started


def _require_sources(containers: Iterable[Container]) -> None:
    """Docker may make a folder, root's, of a file or a folder that is not there."""
    for container in containers:
        for mount in container.spec.get("volumes", ()):
            if isinstance(mount, dict) and mount["type"] == "bind":
                path = Path(mount["source"].replace("$$", "$"))
                if not path.exists():
                    raise FiefdomError(
                        f"{dotted(container.key)}: there is no {from_here(path)} on this machine, and {container.name} "
                        f"is to have it at {mount['target']}; make it, or name the services to run"
                    )
        for device in container.spec.get("devices", ()):
            if not Path(host_path(device)).exists():
                raise FiefdomError(
                    f"{dotted((*container.key, 'devices'))}: there is no {host_path(device)} on this machine; plug it "
                    "in, or name the services to run"
                )


def _require_free_ports(composed: Composed) -> None:
    own = {port for found in compose.containers(composed.project) if found.state == "running" for port in found.ports}
    for container in composed.containers:
        for port, key in container.ports.items():
            if port not in own and _is_taken(port):
                raise FiefdomError(
                    f"{dotted(key)}: port {port} for {container.name} is taken on this machine; stop what listens "
                    f"there, or {port_mend(container, key)}"
                )


def _is_taken(port: int) -> bool:
    with socket.socket() as tried:
        # A connection that was closed just now keeps nobody from listening.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((LOOPBACK, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # dockerd may bind what this user may not
    return False


def _ensure_images(containers: Iterable[Container], say: Tell) -> None:
    wanted = {
        c.image: build.Wanted(c.image, f"{dotted(c.key)}.image", Path(c.build) if c.build else None) for c in containers
    }
    build.ensure_images([w for w in wanted.values() if w.context is not None], say)
    for image in wanted.values():
        if image.context is None and docker.run("image", "inspect", image.ref).returncode:
            say(f"pulling {image.ref}")
            done = docker.run("pull", "--quiet", image.ref)
            if done.returncode:
                words = (done.stderr.strip() or "it says nothing").splitlines()[-1]
                raise FiefdomError(f"{image.key}: {image.ref} is not here and cannot be pulled ({words})")


def _require_users(containers: Iterable[Container]) -> None:
    """Hosts refuse what would run as root: so does a laptop, where it is still easy to mend."""
    for container in containers:
        if container.needs_user:
            user = docker.run("image", "inspect", "--format={{.Config.User}}", container.image).stdout.strip()
            if user.partition(":")[0].strip("0") in ("", "root"):
                raise FiefdomError(
                    f"{dotted(container.key)}: {container.image} would run as root, which hosts refuse: give the "
                    "service a user, such as 1000:1000, or the Dockerfile a USER"
                )


# --- Until they answer


def _await_answers(composed: Composed, say: Tell) -> None:
    begun_s = now_s()
    waiting = {container.name: container for container in composed.containers}
    failed: list[FiefdomError] = []
    with ThreadPoolExecutor(max_workers=max(1, len(waiting))) as pool:
        while waiting:
            # Whether its time is over is asked first, so that no verdict rests on what was seen before.
            passed_s = now_s() - begun_s
            found = {one.name: one for one in compose.containers(composed.project)}
            asked = tuple(waiting.values())
            ids = [found[c.name].id if c.name in found else "" for c in asked]
            checks = [c.check for c in asked]
            for container, why in zip(asked, pool.map(why_not, checks, ids), strict=True):
                own = found.get(container.name)
                if gone := _gone(own):
                    failed.append(HostError(container.name, gone, compose.last_words(own) if own else ()))
                elif not why:
                    say(f"{container.name} answers after {now_s() - begun_s:.1f} s")
                elif own and passed_s > container.check.start_timeout_s:
                    failed.append(HostError(container.name, f"{why} for {passed_s:.0f} s", compose.last_words(own)))
                else:
                    continue
                del waiting[container.name]
            if waiting:
                pause()
    if failed:
        errors = HostErrors(failed)
        errors.recorded = True
        raise errors


def _gone(found: compose.Found | None) -> str:
    """Why a container will never answer; empty where it may."""
    if found is None:
        return "its container is gone"
    return f"its process ended with exit code {found.exit_code}" if found.state in ("exited", "dead") else ""


def why_not(check: Check, container_id: str = "") -> str:
    """Why a container is not up, for the words "for N s" to follow; empty where it is."""
    if check.command:
        return _why_command_fails(check, container_id)
    return _why_not_open(check) if check.path is None else _why_not_healthy(check, check.path)


def _why_not_open(check: Check) -> str:
    try:
        with socket.create_connection((LOOPBACK, check.port), check.timeout_s) as connection:
            connection.settimeout(_HELD_S)
            try:
                return "" if connection.recv(1) else "nobody listens"
            except TimeoutError:
                return ""  # it waits for the first word
    except OSError:
        return "nobody listens"


def _why_command_fails(check: Check, container_id: str) -> str:
    code = docker.code_of(["exec", container_id, *check.command], check.timeout_s)
    if code is None:
        return f"{check.command[0]} gave no answer within {check.timeout_s:g} s"
    return f"{check.command[0]} ended with {code}" if code else ""


def _why_not_healthy(check: Check, path: str) -> str:
    """As hosts and gateways ask: this path, this Host header, and the status of a good answer; no redirect followed."""
    connection = http.client.HTTPConnection(LOOPBACK, check.port, timeout=check.timeout_s)
    try:
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", check.host)
        connection.putheader("Connection", "close")
        connection.endheaders()
        status = connection.getresponse().status
    except TimeoutError:
        return f"no answer within {check.timeout_s:g} s"
    except ConnectionRefusedError:
        return "refused the connection"
    except (OSError, http.client.RemoteDisconnected):
        return "closed the connection without an answer"
    except http.client.HTTPException:
        return "answered, but not in HTTP"
    finally:
        connection.close()
    return "" if is_wanted(status, check.status) else f"answered {status}, wanted {','.join(check.status)}"


def is_wanted(status: int, ranges: Collection[str]) -> bool:
    """Whether a status is in one of ``ranges``, such as 204 or 200-399."""
    bounds = (one.partition("-") for one in ranges)
    return any(int(first) <= status <= int(last or first) for first, _, last in bounds)
