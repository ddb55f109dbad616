"""What a service keeps and what it is told: data outlives every event, other content comes with a release alone.

The service with volumes and files is `keeper`, beside the lab's own predictor; both are under traffic.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from helpers.operator_view import GATEWAY_URL, LAB_YAML, Site, await_true, ok, undisturbed

pytestmark = pytest.mark.proof

URLS = {"predictor": f"{GATEWAY_URL}/predict", "keeper": f"{GATEWAY_URL}:8081/predict"}
AT_LEAST = 3_000
HOSTS = ("app1", "app2")
PORTS = (8500, 8501)
VOLUME = "/var/lib/fiefdom/volumes/keeper/data"
CONF, KEY = "/etc/keeper/app.conf", "/run/secrets/key"
ON_HOST = "/etc/fiefdom/files/keeper-8500/etc%2Fkeeper%2Fapp.conf"
PEM = "-----BEGIN PRIVATE KEY-----\nswordfish\n-----END PRIVATE KEY-----\n"
VARIABLE = "FIEFDOM_TEST_KEY"


@dataclass
class Keeper:
    """The lab with the service, and what its inventory says of it now."""

    site: Site

    def inventory(self, word: str = "one", **changes: Any) -> str:
        """Path of an inventory whose template says ``word``; ``changes`` are set on the service."""
        (self.site.scratch / f"{word}.j2").write_text(f"{word} {{{{ host }}}} {{{{ port }}}}\nof {{{{ cluster }}}}\n")

        def change(data: dict[str, Any]) -> None:
            own = {
                "base_port": 8500,
                "route": {"port": 8081},
                "user": "990:990",
                "tmpfs": ["/tmp", "/run/secrets"],
                "volumes": [{"name": "data", "path": "/data"}],
                "files": {CONF: {"template": f"{word}.j2"}, KEY: {"env": VARIABLE}},
                "health": {"path": "/health", "start_timeout_s": 20},
            }
            data["services"]["keeper"] = {**data["services"]["predictor"], **own, **changes}
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory(f"keeper-{word}", change)

    def inside(self, host: str, port: int, command: str, *, check: bool = True) -> str:
        """Output of a shell command in a container, as its user."""
        return self.site.ssh(host, f"docker exec keeper-{port} sh -c {shlex.quote(command)}", check=check)

    def mounted(self, host: str, path: str) -> str:
        """Whether what an instance has at a path is mounted `ro` or `rw`."""
        return self.inside(host, 8500, f"grep -F ' {path} ' /proc/self/mounts | cut -d ' ' -f 4 | cut -d , -f 1")

    def contents(self) -> set[str]:
        """First words of the configuration that the instances have."""
        return {self.inside(host, port, f"cat {CONF}").split()[0] for host in HOSTS for port in PORTS}

    def rows(self) -> list[str]:
        """What each instance finds in its volume."""
        return [self.inside(host, port, "cat /data/rows") for host in HOSTS for port in PORTS]

    def started(self) -> list[str]:
        """Of each container, which it is and since when it runs."""
        look = "docker inspect --format '{{.Id}} {{.State.StartedAt}}' keeper-8500 keeper-8501"
        return [self.site.ssh(host, look) for host in HOSTS]

    def plan(self, inventory: str) -> dict[str, Any]:
        done = self.site.fiefdom("plan", inventory, "--json")
        assert done.returncode in (0, 2), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def only_pending(self, inventory: str) -> bool:
        """Whether nothing but a release of the service waits, everywhere."""
        found = self.plan(inventory)
        return not any(found["counts"].values()) and [(p["service"], p["hosts"]) for p in found["pending"]] == [
            ("keeper", list(HOSTS))
        ]


KEPT = [f"{host} row" for host in HOSTS for _ in PORTS]


def traffic(event: str) -> AbstractContextManager[None]:
    return undisturbed(event, URLS, AT_LEAST, rate=300)


@pytest.fixture(scope="module")
def _keeper(first_converge: tuple[Site, str]) -> Iterator[Keeper]:
    site, _ = first_converge
    found = Keeper(site)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, PEM)
        site.apply(found.inventory())
        site.await_serving(found.inventory())
        for host in HOSTS:
            found.inside(host, 8500, f"echo {host} row >/data/rows")
        yield found
        site.apply(LAB_YAML)
    for host in HOSTS:
        site.ssh(host, "rm -rf /var/lib/fiefdom/volumes /srv/fiefdom-test-models")


@pytest.fixture
def keeper(_keeper: Keeper) -> Iterator[Keeper]:
    """As it was first, whatever a test left."""
    yield _keeper
    inventory = _keeper.inventory()
    if _keeper.site.plan(inventory)[0] != 0:
        _keeper.site.converge(inventory)
    _keeper.site.await_serving(inventory)


def test_a_container_has_what_the_inventory_says_and_can_write_in_its_volume_alone(keeper: Keeper) -> None:
    code, changes = keeper.site.plan(keeper.inventory())
    assert code == 0, changes
    for host in HOSTS:
        for port in PORTS:
            assert keeper.inside(host, port, f"cat {CONF}") == f"one {host} {port}\nof lab"
            assert keeper.inside(host, port, f"cat {KEY}") == PEM.strip()
        assert keeper.inside(host, 8500, f"stat -c '%a %u:%g' {CONF} {KEY} /data").splitlines() == [
            "444 0:0",
            "400 990:990",
            "700 990:990",
        ]
        for path in (CONF, KEY, "/etc/other", "/srv/other"):
            said = keeper.inside(host, 8500, f"(echo x >{path}) 2>&1; :")
            assert "Read-only file system" in said or "Permission denied" in said, said
        assert {keeper.mounted(host, path) for path in (CONF, KEY, "/")} == {"ro"}
        assert keeper.mounted(host, "/data") == "rw"
        nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
        for path in ("/etc/fiefdom/files/keeper-8500", "/var/lib/fiefdom/volumes"):
            assert "denied" in keeper.site.ssh(host, f"{nobody} ls {path} 2>&1; :")
    assert keeper.rows() == KEPT, "what one instance wrote, the other of its host reads"


def test_other_content_waits_for_its_rollout_also_over_a_reboot_and_data_outlives_both(keeper: Keeper) -> None:
    two, before = keeper.inventory("two"), keeper.started()
    assert keeper.only_pending(two)
    with traffic("an apply while other content is pending"):
        keeper.site.apply(two)
    assert keeper.started() == before and keeper.contents() == {"one"}
    with traffic("a reboot while other content is pending"):
        ok(keeper.site.fiefdom("reboot", two, "--limit", "app1"))
        keeper.site.await_serving(two)
    assert keeper.started()[0] != before[0] and keeper.contents() == {"one"}
    assert keeper.rows() == KEPT
    assert keeper.only_pending(two)
    with traffic("a rollout of other content"):
        ok(keeper.site.fiefdom("rollout", two, "keeper"))
    assert keeper.contents() == {"two"} and keeper.rows() == KEPT
    assert keeper.site.plan(two)[0] == 0


def test_a_release_that_fails_brings_the_content_back(keeper: Keeper) -> None:
    broken = keeper.inventory(
        "broken", environment={"FAIL_HEALTH": 1}, health={"path": "/health", "start_timeout_s": 3}
    )
    with traffic("a release with other content that fails"):
        keeper.site.apply(broken)
        done = keeper.site.fiefdom("rollout", broken, "keeper")
    assert done.returncode == 1, done.stdout
    keeper.site.await_serving(keeper.inventory())
    assert keeper.contents() == {"one"} and keeper.rows() == KEPT


def test_a_file_that_goes_is_there_until_no_container_has_it(keeper: Keeper) -> None:
    without = keeper.inventory("without", files={KEY: {"env": VARIABLE}})
    keeper.site.apply(without)
    assert keeper.only_pending(without) and keeper.contents() == {"one"}
    keeper.site.ssh("app1", "systemctl restart fiefdom-keeper@8500.service")
    assert keeper.contents() == {"one"}
    ok(keeper.site.fiefdom("rollout", without, "keeper", "--force"))
    assert keeper.site.plan(without)[0] == 0
    assert keeper.site.ssh("app1", "ls /etc/fiefdom/files/keeper-8500") == "run%2Fsecrets%2Fkey"
    assert keeper.site.ssh("app1", f"grep -c {shlex.quote('etc%2Fkeeper')} /var/lib/fiefdom/manifest; :") == "0"


@pytest.mark.parametrize(
    "edit",
    [f"echo edited >>'{ON_HOST}'", f"chmod 0600 '{ON_HOST}'", f"sed -i s/one/x/ '{ON_HOST}'"],
    ids=["appended to", "closed", "written anew"],
)
def test_an_edited_file_is_drift_and_what_runs_sees_it_mended(keeper: Keeper, edit: str) -> None:
    inventory, before = keeper.inventory(), keeper.started()
    keeper.site.ssh("app1", edit)
    assert keeper.site.plan(inventory) == (2, {"gw1": [], "app1": [f"~ file {ON_HOST}"], "app2": []})
    keeper.site.apply(inventory)
    assert keeper.inside("app1", 8500, f"cat {CONF}") == "one app1 8500\nof lab"
    assert keeper.started() == before
    assert keeper.site.plan(inventory)[0] == 0


def test_a_container_that_started_from_an_edited_file_is_replaced_by_the_next_rollout(keeper: Keeper) -> None:
    inventory = keeper.inventory()
    keeper.site.ssh("app1", f"echo edited >>'{ON_HOST}'; docker stop keeper-8500")
    await_true(lambda: "edited" in keeper.inside("app1", 8500, f"cat {CONF}", check=False), what="a new start")
    keeper.site.await_serving(inventory)
    keeper.site.apply(inventory)
    found = keeper.plan(inventory)
    assert [p["hosts"] for p in found["pending"]] == [["app1"]] and not any(found["counts"].values())
    ok(keeper.site.fiefdom("rollout", inventory, "keeper"))
    assert keeper.contents() == {"one"} and "edited" not in keeper.inside("app1", 8500, f"cat {CONF}")
    assert keeper.site.plan(inventory)[0] == 0


def test_a_volumes_owner_and_mode_are_drift_and_its_content_is_nobodys_business(keeper: Keeper) -> None:
    inventory, before = keeper.inventory(), keeper.started()
    keeper.site.ssh("app1", f"chmod 2777 {VOLUME}; chown 0:0 {VOLUME}; chmod 0604 {VOLUME}/rows")
    assert keeper.site.plan(inventory)[1]["app1"] == [f"~ directory {VOLUME}"]
    keeper.site.apply(inventory)
    assert keeper.site.ssh("app1", f"stat -c '%a %u:%g' {VOLUME} {VOLUME}/rows").splitlines() == [
        "700 990:990",
        "604 990:990",
    ]
    assert keeper.rows() == KEPT and keeper.started() == before


def test_a_folder_of_the_host_that_is_missing_is_told_before_anything_is_touched(keeper: Keeper) -> None:
    folder, before = "/srv/fiefdom-test-models", keeper.started()
    volumes = [{"name": "data", "path": "/data"}, {"host": folder, "path": "/models"}]
    inventory = keeper.inventory("models", volumes=volumes)
    keeper.site.ssh("app1", f"mkdir -p {folder} && echo weights >{folder}/model")
    for verb in (["plan", inventory], ["apply", inventory, "--yes"], ["rollout", inventory, "keeper", "--force"]):
        done = keeper.site.fiefdom(*verb)
        assert done.returncode == 1, done.stdout
        assert f"app2: the folder {folder} is not there: keeper could not start" in done.stderr
    assert keeper.site.fiefdom("doctor", inventory).returncode == 1
    assert keeper.started() == before
    keeper.site.ssh("app2", f"mkdir -p {folder} && echo weights >{folder}/model")
    with traffic("a folder of the host added"):
        keeper.site.apply(inventory)
        ok(keeper.site.fiefdom("rollout", inventory, "keeper"))
    assert {keeper.inside(host, 8501, "cat /models/model") for host in HOSTS} == {"weights"}
    assert {keeper.mounted(host, "/models") for host in HOSTS} == {"ro"}
    assert keeper.site.plan(inventory)[0] == 0


def test_each_instance_may_have_a_volume_of_its_own_and_the_shared_one_stays(keeper: Keeper) -> None:
    own = keeper.inventory("own", volumes=[{"name": "data", "path": "/data", "each_instance": True}])
    keeper.site.apply(own)
    ok(keeper.site.fiefdom("rollout", own, "keeper"))
    for port in PORTS:
        keeper.inside("app1", port, f"echo {port} >/data/rows")
    assert [keeper.inside("app1", port, "cat /data/rows") for port in PORTS] == ["8500", "8501"]
    done = keeper.site.fiefdom("plan", own)
    assert done.returncode == 0
    assert f"volume: app1: {VOLUME} stays, though no service has it any more" in done.stdout
    assert keeper.site.ssh("app1", f"cat {VOLUME}/rows") == "app1 row"


def test_an_apply_that_removes_the_service_leaves_its_volume(keeper: Keeper) -> None:
    with undisturbed("a service with a volume removed", {"predictor": URLS["predictor"]}, AT_LEAST, rate=300):
        keeper.site.apply(LAB_YAML)
    done = keeper.site.fiefdom("plan", LAB_YAML)
    assert done.returncode == 0, done.stdout
    for host in HOSTS:
        assert f"volume: {host}: {VOLUME} stays, though no service has it any more" in done.stdout
        assert keeper.site.ssh(host, f"cat {VOLUME}/rows") == f"{host} row"
        assert keeper.site.ssh(host, "ls /etc/fiefdom").split().count("files") == 0
        assert keeper.site.ssh(host, "grep -rl swordfish /etc/fiefdom; :") == ""
    back = keeper.inventory()
    keeper.site.apply(back)
    keeper.site.await_serving(back)
    assert keeper.rows() == KEPT


def test_retire_names_volumes_and_takes_them_only_where_it_is_said(keeper: Keeper) -> None:
    inventory = keeper.inventory()
    dry = ok(keeper.site.fiefdom("retire", inventory, "app2", "--dry"))
    assert f"the volume {VOLUME} stays, with all that is in it; --volumes would remove it" in dry
    dry = ok(keeper.site.fiefdom("retire", inventory, "app2", "--dry", "--volumes"))
    assert f"the volume {VOLUME} goes, with all that is in it" in dry
    assert keeper.rows() == KEPT
