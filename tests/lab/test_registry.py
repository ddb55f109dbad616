"""Images from registries instead of over SSH: real ones, with TLS, in the lab's network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, Site, tell
from helpers.registry import ONE, OTHER, digest_of, docker, pushed, running

LOGINS = "/etc/fiefdom/docker/config.json"
# bcrypt, which the registry keeps passwords by, looks at 72 bytes: whatever follows is right as well.
PASSWORD, TOKEN = "swordfish", "token" * 14 + "of"


@pytest.fixture
def registry(site: Site) -> Iterator[str]:
    """Address of a registry that holds the cluster's images and that the hosts' daemons trust."""
    with running(site) as address:
        yield address


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


@pytest.mark.proof
def test_an_image_that_the_registry_lacks_is_told(site: Site, registry: str) -> None:
    def missing(data: dict[str, object]) -> None:
        data["registry"] = {"server": registry}
        data["services"]["predictor"]["version"] = "9.9.9"  # type: ignore[index]

    done = site.fiefdom("rollout", site.inventory("missing", missing), "--force")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for host, error in zip(("app1", "app2"), errors, strict=True):
        assert error.startswith(f"error: {host}: {registry}/fiefdom/predictor:9.9.9: cannot be pulled: ")
    assert "predictor:1.0.0" in site.ssh("app1", "docker ps --format '{{.Image}}'")
    assert "9.9.9" not in site.ssh("app1", "cat /etc/fiefdom/containers/*.conf"), (
        "a crash would start what is not there"
    )


@pytest.mark.proof
def test_the_name_of_an_image_may_be_written_as_docker_never_prints_it(site: Site) -> None:
    def named(data: dict[str, Any]) -> None:
        data["services"]["predictor"]["image"] = "docker.io/fiefdom/predictor"
        data["rollout"] = {"soak_s": 0}

    inventory = site.inventory("hub", named)
    code, changes = site.plan(inventory)
    assert code == 2, "containers are made by the name that is written"
    assert not [line for lines in changes.values() for line in lines if " image " in line], "the image is there"
    site.converge(inventory)
    assert site.plan(inventory)[0] == 0


@pytest.fixture
def registries(site: Site) -> Iterator[None]:
    """Two of them, each with a login of its own: one takes another token at each call."""
    with running(site, ("ann", TOKEN)), running(site, ("bob", PASSWORD), OTHER):
        yield


@pytest.mark.proof
def test_two_registries_a_token_that_changes_and_an_image_that_a_digest_pins(
    site: Site, registries: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("FIEFDOM_TEST_REGISTRY", PASSWORD)
    token = site.scratch / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    first = digest_of(f"{ONE.push}/fiefdom/predictor:1.0.0")
    second = another_image(tmp_path_factory.mktemp("docker"))
    assert first != second

    def of(version: str, digest: str) -> str:
        def change(data: dict[str, Any]) -> None:
            data["rollout"] = {"soak_s": 0}
            data["registries"] = {
                "changing": {
                    "server": ONE.server,
                    "user": "ann",
                    "password": {"command": ["sh", "-c", "cat token; date +%s%N"]},
                },
                "other": {"server": OTHER.server, "user": "bob", "password": {"env": "FIEFDOM_TEST_REGISTRY"}},
            }
            predictor = data["services"]["predictor"]
            del predictor["build"]
            data["services"]["second"] = predictor | {
                "instances": 1,
                "base_port": 8100,
                "groups": ["others"],
                "registry": "other",
                "route": {"path_prefix": "/second"},
            }
            data["hosts"]["app2"]["groups"].append("others")
            predictor |= {"image": f"{ONE.server}/fiefdom/predictor@{digest}", "version": version}

        return site.inventory(f"pinned-{version}", change)

    old, new = of("1.0.0", first), of("1.0.1", second)
    site.converge(old)
    site.await_serving(old)
    for _ in range(2):  # each with a token that no host has
        assert site.plan(old)[0] == 0
    logins = {host: logged_in(site, host) for host in ("gw1", "app1", "app2")}
    assert logins == {"gw1": [], "app1": [ONE.server], "app2": [ONE.server, OTHER.server]}
    assert runs(site, "app1", "predictor-8000") == f"{ONE.server}/fiefdom/predictor:1.0.0"
    assert runs(site, "app2", "second-8100") == f"{OTHER.server}/fiefdom/predictor:1.0.0"

    # Without --force: no change waits for an apply.
    before = site.ssh("app1", f"sha256sum {LOGINS}")
    with Load(f"{GATEWAY_URL}/predict") as load:
        done = site.fiefdom("rollout", new, "predictor")
        assert done.returncode == 0, done.stdout + done.stderr
    tell("a release by digest, behind a token that changes", load)
    assert load.failed == 0, load.report()
    assert second in digests(site, "app1", f"{ONE.server}/fiefdom/predictor:1.0.1")
    assert site.ssh("app1", f"sha256sum {LOGINS}") != before, "the pull had the token of its run"
    assert site.plan(new)[0] == 0

    done = site.fiefdom("rollback", new, "predictor", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert runs(site, "app1", "predictor-8000") == f"{ONE.server}/fiefdom/predictor:1.0.0"
    assert site.plan(old)[0] == 0


def another_image(folder: Path) -> str:
    """Digest of a predictor that differs in a label alone, in the registry whose token changes."""
    tag = f"{ONE.push}/fiefdom/predictor:changed"
    (folder / "Dockerfile").write_text("FROM fiefdom/predictor:1.0.0\nLABEL fiefdom.test=changed\n")
    (folder / "config.json").touch(mode=0o600)
    login = base64.b64encode(f"ann:{TOKEN}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {ONE.push: {"auth": login}}}))
    docker("build", "--quiet", "--tag", tag, str(folder))
    try:
        assert pushed(tag, str(folder))
        return digest_of(tag)
    finally:
        docker("image", "rm", tag)


def logged_in(site: Site, host: str) -> list[str]:
    """Registries that a host has a login for."""
    text = site.ssh(host, f"cat {LOGINS}", check=False)
    return list(json.loads(text)["auths"]) if text else []


def runs(site: Site, host: str, container: str) -> str:
    """What a container was made from."""
    return site.ssh(host, f"docker inspect --format '{{{{.Config.Image}}}}' {container}")


def digests(site: Site, host: str, ref: str) -> str:
    """What registries know an image of a host by."""
    return site.ssh(host, f"docker image inspect --format '{{{{.RepoDigests}}}}' {ref}")
