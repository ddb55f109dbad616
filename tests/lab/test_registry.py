"""Images from a registry instead of over SSH: a real one, with TLS, in the lab's network."""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest

from fiefdom.images import bases
from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, ROOT, Site, await_true, tell

ADDRESS = "10.99.0.250"
NAME = "scratch-registry-test"
PUSH = "127.0.0.1:5443"  # Docker trusts registries on loopback without asking for their certificate
HOSTS = ("gw1", "app1", "app2")


def docker(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout.strip()


@pytest.fixture
def registry(site: Site) -> Iterator[str]:
    """Address of a registry that holds the cluster's images and that the hosts' daemons trust."""
    with running(site) as address:
        yield address


@contextmanager
def running(site: Site, login: tuple[str, str] | None = None) -> Iterator[str]:
    """Address of such a registry; for who knows this user and password alone where ``login`` is given."""
    context = ROOT / "tests/lab/images/registry"
    docker("build", "--quiet", *bases.build_arguments(context), "--tag", "fiefdom-test/registry", str(context))
    docker("rm", "--force", NAME, check=False)
    where = ("--network", "fiefdom-lab", "--ip", ADDRESS, "--publish", f"{PUSH}:5000")
    certificates = f"/etc/docker/certs.d/{ADDRESS}:5000"
    tags = []
    with tempfile.TemporaryDirectory() as folder:
        guard = guarded(Path(folder), *login) if login else ()
        docker("run", "--detach", "--name", NAME, *where, *guard, "fiefdom-test/registry")
        try:
            certificate = docker("exec", NAME, "cat", "/srv/registry/cert.pem")
            for image in ("fiefdom/gateway:0.1.0", "fiefdom/serf:0.1.0", "fiefdom/predictor:1.0.0"):
                tags.append(f"{PUSH}/{image}")
                docker("tag", image, tags[-1])
                await_true(lambda tag=tags[-1]: pushed(tag, folder), timeout_s=30, what=f"{image} in the registry")  # type: ignore[misc]
            for host in HOSTS:
                site.ssh(host, f"mkdir -p {certificates} && printf '%s\\n' '{certificate}' > {certificates}/ca.crt")
            yield f"{ADDRESS}:5000"
        finally:
            site.converge()
            for host in HOSTS:
                site.ssh(host, f"rm -rf {certificates}")
            docker("rm", "--force", NAME)
            docker("image", "rm", *tags, check=False)


def guarded(folder: Path, user: str, password: str) -> tuple[str, ...]:
    """Options of a registry that asks for a password, which never stands in a command line; ``folder`` lets us push."""
    users = folder / "htpasswd"
    users.write_bytes(user.encode() + b":" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(5)) + b"\n")
    (folder / "config.json").touch(mode=0o600)
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {PUSH: {"auth": auth}}}))
    settings = {"": "htpasswd", "_HTPASSWD_REALM": "test", "_HTPASSWD_PATH": "/srv/registry/htpasswd"}
    environment = (f"--env=REGISTRY_AUTH{key}={value}" for key, value in settings.items())
    return (f"--volume={users}:/srv/registry/htpasswd:ro", *environment)


def pushed(tag: str, folder: str) -> bool:
    """The registry may still be starting, which is the only reason to ask again."""
    push = ["docker", "--config", folder, "push", "--quiet", tag]
    return subprocess.run(push, capture_output=True, check=False).returncode == 0


@pytest.mark.proof
def test_hosts_pull_from_the_registry_that_the_inventory_names(site: Site, registry: str) -> None:
    inventory = site.inventory("registry", lambda d: d.update(registry={"server": registry}))
    with Load(f"{GATEWAY_URL}/predict") as load:
        site.apply(inventory, "--limit", "app_hosts")
        done = site.fiefdom("rollout", inventory, "--force")  # the gateway's own image stays as it is
        assert done.returncode == 0, done.stdout + done.stderr
        site.await_serving(inventory)
    tell("instances replaced by the registry's", load)
    assert load.failed == 0, load.report()
    assert site.plan(inventory, "--limit", "app_hosts")[0] == 0
    assert f"{registry}/fiefdom/predictor:1.0.0" in site.ssh("app1", "docker ps --format '{{.Image}}'")


def test_an_image_that_the_registry_lacks_is_told(site: Site, registry: str) -> None:
    def missing(data: dict[str, object]) -> None:
        data["registry"] = {"server": registry}
        data["services"]["predictor"]["version"] = "9.9.9"  # type: ignore[index]

    done = site.fiefdom("rollout", site.inventory("missing", missing), "--force")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: app1: {registry}/fiefdom/predictor:9.9.9: cannot be pulled: ")
    assert done.stderr.count("\n") == 1
    assert "predictor:1.0.0" in site.ssh("app1", "docker ps --format '{{.Image}}'")
    assert "9.9.9" not in site.ssh("app1", "cat /etc/fiefdom/containers/*.conf"), (
        "a crash would start what is not there"
    )
