"""The way of docs/model.md: a model of scikit-learn's with its redis, released to a canary, to all, and taken back."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.operator_view import GATEWAY_URL, LAB_YAML, ROOT, Site, undisturbed

pytestmark = pytest.mark.proof

EXAMPLE = ROOT / "examples/model"
URL = f"{GATEWAY_URL}:8082"
WINE = "14.2,1.7,2.4,15.6,127,2.8,3.06,.28,2.29,5.64,1.04,3.92"


class Wines:
    """The lab with the example's services; `release` is the next model."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.version = "1.0.0"
        self._folder = folder / "model"
        shutil.copytree(EXAMPLE, self._folder)

    def inventory(self) -> str:
        services: dict[str, Any] = yaml.safe_load((EXAMPLE / "inventory.yaml").read_text())["services"]
        wine = {"image": "fiefdom-test/wine", "version": self.version, "build": str(self._folder), "base_port": 8600}
        services["wine"] |= {**wine, "route": {"port": 8082}}
        redis = {"image": "fiefdom-test/redis", "version": "1", "build": str(ROOT / "tests/lab/images/redis")}
        # This image keeps a log of what it was told, which the official one does not.
        services["redis"] |= {**redis, "user": "6379:6379", "tmpfs": ["/tmp", "/var/lib/redis"]}

        def change(data: dict[str, Any]) -> None:
            data["hosts"]["app2"]["groups"].append("caches")
            data["services"] = services
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory("model", change)

    def train(self, version: str, trees: int) -> None:
        """Another model, which is a release."""
        script = self._folder / "train.py"
        script.write_text(script.read_text().replace("default=100", f"default={trees}"))
        self.version = version

    def versions(self) -> set[str]:
        """Who answers, asked often enough to meet every instance."""
        return {predicted(number)[0]["version"] for number in range(24)}


def predicted(number: int) -> tuple[dict[str, Any], str]:
    """The answer for a wine, and what the cache had to do with it; ``number`` is its proline."""
    with urllib.request.urlopen(f"{URL}/predict?features={WINE},{number}", timeout=10) as answer:
        return json.load(answer), answer.headers["X-Cache"]


def traffic(event: str) -> AbstractContextManager[None]:
    return undisturbed(event, {"wine": f"{URL}/predict?features={WINE},1065"}, 1_000, rate=100)


@pytest.fixture(scope="module")
def wines(first_converge: tuple[Site, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wines]:
    site, _ = first_converge
    found = Wines(site, tmp_path_factory.mktemp("model"))
    site.apply(found.inventory())
    site.await_serving(found.inventory())
    yield found
    site.apply(LAB_YAML)


def test_a_model_is_released_and_taken_back_and_its_cache_may_be_away(wines: Wines) -> None:
    site = wines.site
    first, cache = predicted(1065)
    assert (first["prediction"], first["version"]) == ("class_0", "1.0.0")
    assert {cache, *(predicted(1065)[1] for _ in range(4))} == {"miss", "hit"}, "one cache for all instances"
    wines.train("1.1.0", trees=30)
    code, _ = site.plan(wines.inventory())
    assert code == 2
    with traffic("a model's release: canary, the rest, and back"):
        done = site.fiefdom("rollout", wines.inventory(), "wine", "--canary", "app1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert wines.versions() == {"1.0.0", "1.1.0"}
        done = site.fiefdom("rollout", wines.inventory(), "wine", "--continue")
        assert done.returncode == 0, done.stdout + done.stderr
        assert wines.versions() == {"1.1.0"}
        assert predicted(700)[1] == "miss", "no answer of another version's"
        done = site.fiefdom("rollback", wines.inventory(), "wine", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert wines.versions() == {"1.0.0"}
    with traffic("a model without its cache"):
        site.ssh("app2", "systemctl stop fiefdom-redis@6379")
        assert predicted(1065)[1] == "off"
        site.ssh("app2", "systemctl start fiefdom-redis@6379")
