"""Images from a registry instead of over SSH: a real one, with TLS, in the lab's network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.load import Load
from helpers.operator_view import GATEWAY_URL, Site, tell
from helpers.registry import running


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
