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
FLOWER = "5.1,3.5,1.4"


class Flowers:
    """The lab with the example's services; `release` is the next model."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site = site
        self.version = "1.0.0"
        self._folder = folder / "model"
        shutil.copytree(EXAMPLE, self._folder)

    def inventory(self) -> str:
        services: dict[str, Any] = yaml.safe_load((EXAMPLE / "inventory.yaml").read_text())["services"]
        own = {"image": "fiefdom-test/iris", "version": self.version, "build": str(self._folder), "base_port": 8600}
        services["iris"] |= {**own, "route": {"port": 8082}}
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
        return {predicted(number)[0]["version"] for number in (0.1 + i / 100 for i in range(24))}


def predicted(number: float) -> tuple[dict[str, Any], str]:
    """The answer for a flower, and what the cache had to do with it; ``number`` is the width of its petal."""
    with urllib.request.urlopen(f"{URL}/predict?features={FLOWER},{number}", timeout=10) as answer:
        return json.load(answer), answer.headers["X-Cache"]


def traffic(event: str) -> AbstractContextManager[None]:
    return undisturbed(event, {"iris": f"{URL}/predict?features={FLOWER},0.2"}, 1_000, rate=100)


@pytest.fixture(scope="module")
def flowers(first_converge: tuple[Site, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flowers]:
    site, _ = first_converge
    found = Flowers(site, tmp_path_factory.mktemp("model"))
    site.apply(found.inventory())
    site.await_serving(found.inventory())
    yield found
    site.apply(LAB_YAML)


def test_a_model_is_released_and_taken_back_and_its_cache_may_be_away(flowers: Flowers) -> None:
    site = flowers.site
    first, cache = predicted(0.2)
    assert (first["prediction"], first["version"]) == ("setosa", "1.0.0")
    assert {cache, *(predicted(0.2)[1] for _ in range(4))} == {"miss", "hit"}, "one cache for all instances"
    flowers.train("1.1.0", trees=30)
    code, _ = site.plan(flowers.inventory())
    assert code == 2
    with traffic("a model's release: canary, the rest, and back"):
        done = site.fiefdom("rollout", flowers.inventory(), "iris", "--canary", "app1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert flowers.versions() == {"1.0.0", "1.1.0"}
        done = site.fiefdom("rollout", flowers.inventory(), "iris", "--continue")
        assert done.returncode == 0, done.stdout + done.stderr
        assert flowers.versions() == {"1.1.0"}
        assert predicted(0.55)[1] == "miss", "no answer of another version's"
        done = site.fiefdom("rollback", flowers.inventory(), "iris", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert flowers.versions() == {"1.0.0"}
    with traffic("a model without its cache"):
        site.ssh("app2", "systemctl stop fiefdom-redis@6379")
        assert predicted(0.2)[1] == "off"
        site.ssh("app2", "systemctl start fiefdom-redis@6379")
