"""Real registries in the lab's network, with TLS and, where asked for, a password."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from fiefdom import RELEASE
from fiefdom.images import bases
from helpers.operator_view import ROOT, Site, await_true

HOSTS = ("gw1", "app1", "app2")
IMAGES = (f"fiefdom/gateway:{RELEASE}", f"fiefdom/serf:{RELEASE}", "fiefdom/predictor:1.0.0")


@dataclass(frozen=True)
class Place:
    """Where a registry is: its container's name, its address for hosts, and where this machine pushes to."""

    name: str
    address: str
    push: str
    """Docker trusts registries on loopback without asking for their certificate."""

    @property
    def server(self) -> str:
        """What an inventory calls it."""
        return f"{self.address}:5000"


ONE = Place("scratch-registry-test", "10.99.0.250", "127.0.0.1:5443")
OTHER = Place("scratch-registry-test-2", "10.99.0.251", "127.0.0.1:5444")


def docker(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout.strip()


@contextmanager
def running(site: Site, login: tuple[str, str] | None = None, place: Place = ONE) -> Iterator[str]:
    """Address of a registry that holds the cluster's images and that the hosts' daemons trust.

    It is for who knows a user and password alone where ``login`` is given.
    """
    context = ROOT / "tests/lab/images/registry"
    docker("build", "--quiet", *bases.build_arguments(context), "--tag", "fiefdom-test/registry", str(context))
    docker("rm", "--force", place.name, check=False)
    where = ("--network", "fiefdom-lab", "--ip", place.address, "--publish", f"{place.push}:5000")
    certificates = f"/etc/docker/certs.d/{place.server}"
    tags = []
    with tempfile.TemporaryDirectory() as folder:
        guard = guarded(Path(folder), *login, place) if login else ()
        docker("run", "--detach", "--name", place.name, *where, *guard, "fiefdom-test/registry")
        try:
            certificate = docker("exec", place.name, "cat", "/srv/registry/cert.pem")
            for image in IMAGES:
                tags.append(f"{place.push}/{image}")
                docker("tag", image, tags[-1])
                await_true(lambda tag=tags[-1]: pushed(tag, folder), timeout_s=30, what=f"{image} in the registry")  # type: ignore[misc]
            for host in HOSTS:
                site.ssh(host, f"mkdir -p {certificates} && printf '%s\\n' '{certificate}' > {certificates}/ca.crt")
            yield place.server
        finally:
            site.converge()
            for host in HOSTS:
                site.ssh(host, f"rm -rf {certificates}")
            docker("rm", "--force", place.name)
            docker("image", "rm", *tags, check=False)


def guarded(folder: Path, user: str, password: str, place: Place) -> tuple[str, ...]:
    """Options of a registry that asks for a password, which never stands in a command line; ``folder`` lets us push."""
    users = folder / "htpasswd"
    users.write_bytes(user.encode() + b":" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)) + b"\n")
    (folder / "config.json").touch(mode=0o600)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {place.push: {"auth": auth}}}))
    settings = {"": "htpasswd", "_HTPASSWD_REALM": "test", "_HTPASSWD_PATH": "/srv/registry/htpasswd"}
    environment = (f"--env=REGISTRY_AUTH{key}={value}" for key, value in settings.items())
    return (f"--volume={users}:/srv/registry/htpasswd:ro", *environment)


def pushed(tag: str, folder: str) -> bool:
    """The registry may still be starting, which is the only reason to ask again."""
    push = ["docker", "--config", folder, "push", "--quiet", tag]
    return subprocess.run(push, capture_output=True, check=False).returncode == 0


def digest_of(tag: str) -> str:
    """The digest that a registry knows an image of this machine by, once it was pushed there as ``tag``."""
    known = json.loads(docker("image", "inspect", "--format", "{{json .RepoDigests}}", tag))
    (digest,) = (name.rpartition("@")[2] for name in known if name.startswith(f"{tag.rpartition(':')[0]}@"))
    return str(digest)
