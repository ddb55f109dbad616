"""Each service for itself: a service that is sick, released or broken costs no other one a request or a server."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest

from helpers.operator_view import GATEWAY_URL, Site, await_true, undisturbed

AT_LEAST = 5_000  # of each service, at 300 requests a second: more takes the two cores from the hosts themselves
URLS = {"predictor": f"{GATEWAY_URL}/predict", "second": f"{GATEWAY_URL}:8081/predict"}
SICK_WORDS = "answered 404, wanted 200-399"


MANY = "many-services-and-this-is-one-of-them-"
LONG = f"1.0.0-{'long' * 31}"[:128]


@dataclass
class Cluster:
    """The lab with two services that are well and, where a test wants it, one that never answers well."""

    site: Site
    versions: dict[str, str] = field(default_factory=lambda: {"predictor": "1.0.0", "second": "1.0.0"})
    others: dict[str, Any] = field(default_factory=dict)

    def inventory(self) -> str:
        def change(data: dict[str, Any]) -> None:
            services = data["services"]
            services["predictor"]["version"] = self.versions["predictor"]
            services["second"] = service(services["predictor"], 8500, 8081, version=self.versions["second"])
            for name, own in self.others.items():
                services[name] = service(services["predictor"], **own)
                if name.startswith(MANY):
                    data["hosts"]["app2"].setdefault("services", {})[name] = {"instances": 0}
            data["rollout"] = {"soak_s": 1}

        return self.site.inventory("offers", change)

    def apply(self) -> subprocess.CompletedProcess[str]:
        return self.site.fiefdom("apply", self.inventory(), "--yes")

    def offers(self) -> dict[tuple[str, str], tuple[str, str]]:
        """State and reason by service and host."""
        found = self.site.status(self.inventory())["offers"]
        return {(o["service"], o["host"]): (o["state"], o["why"]) for o in found}

    def served(self, service: str) -> set[str]:
        """Instances of a service that every gateway has up."""
        return self.site.rotation(self.inventory(), service)

    def requests(self, service: str) -> dict[str, int]:
        """Requests by server since HAProxy has it: what leaves rotation and comes back begins at 0."""
        status = json.loads(self.site.ssh("gw1", "docker exec gateway fiefdom-gateway status"))
        return {s["name"]: int(s["requests"]) for s in status["servers"] if s["service"] == service}


def service(like: dict[str, Any], base_port: int, port: int, **own: Any) -> dict[str, Any]:
    return {**like, "base_port": base_port, "route": {"port": port}, **own}


PREDICTORS = {"app1:8000", "app1:8001", "app2:8000", "app2:8001"}
SECONDS = {"app1:8500", "app1:8501", "app2:8500", "app2:8501"}
SECOND_ENV = "/etc/fiefdom/containers/second-8500.env /etc/fiefdom/containers/second-8501.env"
SICK = {"base_port": 9200, "port": 8082, "health": {"path": "/nothing", "start_timeout_s": 3}}


def traffic(event: str, *services: str) -> AbstractContextManager[None]:
    return undisturbed(event, {name: URLS[name] for name in services}, AT_LEAST, rate=300)


@pytest.fixture(scope="module")
def _cluster(first_converge: tuple[Site, str]) -> Iterator[Cluster]:
    site, _ = first_converge
    found = Cluster(site)
    done = found.apply()
    assert done.returncode == 0, done.stdout + done.stderr
    yield found
    found.versions = {"predictor": "1.0.0", "second": "1.0.0"}
    site.converge()


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    yield _cluster
    _cluster.others.clear()
    if not _cluster.site.whole(_cluster.inventory()):
        _cluster.site.converge(_cluster.inventory())
        _cluster.site.await_serving(_cluster.inventory())


@pytest.mark.proof
@pytest.mark.parametrize("rebooted", [False, True])
def test_a_sick_new_service_fails_the_apply_and_takes_nothing_from_the_others(cluster: Cluster, rebooted: bool) -> None:
    """It is added together with a healthy one; then every host may be rebooted in turn."""
    cluster.others = {"sick": SICK, "third": {"base_port": 9300, "port": 8083}}
    with traffic("a sick service and a healthy one added", "predictor", "second"):
        done = cluster.apply()
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert SICK_WORDS in said and "fiefdom-sick@9200.service" in said and "apply again" in said, said
    served = {(name, host): ("offered", "") for name in ("predictor", "second", "third") for host in ("app1", "app2")}
    found = cluster.offers()
    assert served.items() <= found.items()
    assert {state for (name, _), (state, _) in found.items() if name == "sick"} == {"waiting"}
    assert len(cluster.served("third")) == 4

    if rebooted:
        with traffic("every host rebooted beside a sick service", "predictor", "second"):
            done = cluster.site.fiefdom("reboot", cluster.inventory(), "--limit", "app_hosts", "--force")
            assert done.returncode == 0, done.stdout + done.stderr
    assert served.items() <= cluster.offers().items()
    assert (cluster.served("predictor"), cluster.served("second")) == (PREDICTORS, SECONDS)
    await_true(lambda: SICK_WORDS in cluster.offers()["sick", "app1"][1], what="the reason in the status")
    assert cluster.site.fiefdom("status", cluster.inventory(), "--check").returncode == 2
    cluster.others.clear()
    with traffic("two services removed", "predictor", "second"):
        done = cluster.apply()
        assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.site.fiefdom("status", cluster.inventory(), "--check").returncode == 0


@pytest.mark.proof
def test_a_service_that_falls_sick_on_all_hosts_takes_nothing_from_the_others(cluster: Cluster) -> None:
    """What it needs is gone, from some moment on, through every host's reboot; once that is mended it is well again."""
    site = cluster.site
    with traffic("a service falls sick on all hosts", "predictor"):
        for host in ("app1", "app2"):
            site.ssh(host, f"for env in {SECOND_ENV}; do echo FAIL_HEALTH=1 >>$env; done")
            site.ssh(host, "docker rm -f second-8500 second-8501")
        await_true(lambda: not cluster.served("second"), what="nobody in rotation")
    assert cluster.site.fiefdom("status", cluster.inventory(), "--check").returncode == 2

    with traffic("every host rebooted beside a service that fell sick", "predictor"):
        done = site.fiefdom("reboot", cluster.inventory(), "--limit", "app_hosts", "--force")
        assert done.returncode == 0, done.stdout + done.stderr
    found = cluster.offers()
    assert [found["predictor", host] for host in ("app1", "app2")] == [("offered", "")] * 2
    assert cluster.served("predictor") == PREDICTORS
    for host in ("app1", "app2"):

        def told(host: str = host) -> bool:
            return "answered 503" in cluster.offers()["second", host][1]

        await_true(told, 180, what="the reason, at the end of a start's time")
    assert {found["second", host][0] for host in ("app1", "app2")} == {"waiting"}

    with traffic("a service that fell sick is mended", "predictor"):
        done = cluster.apply()
        assert done.returncode == 0, done.stdout + done.stderr
    assert (cluster.served("predictor"), cluster.served("second")) == (PREDICTORS, SECONDS)


def test_a_release_of_one_service_takes_no_server_of_another_out(cluster: Cluster) -> None:
    cluster.versions["second"] = "2.0.0"
    before = cluster.requests("predictor")
    with traffic("a release beside another service", "predictor", "second"):
        done = cluster.site.fiefdom("rollout", cluster.inventory(), "second")
        assert done.returncode == 0, done.stdout + done.stderr
    after = cluster.requests("predictor")
    assert len(before) == 4 and after.keys() == before.keys()
    assert all(after[name] > before[name] for name in before), (before, after)
    assert cluster.site.plan(cluster.inventory())[0] == 0


@pytest.mark.proof
def test_an_agent_that_dies_forgets_no_offer(cluster: Cluster) -> None:
    """Killed with its tags' file damaged, and restarted: what it says afterwards is what is offered."""
    with traffic("agents killed and restarted", "predictor", "second"):
        for host in ("app1", "app2"):
            cluster.site.ssh(host, "echo '{' >/run/fiefdom/offers/tags.json; docker kill serf-agent")
            await_true(lambda host=host: offered_by(cluster.site, host) == {"svc:predictor", "svc:second"})  # type: ignore[misc]
        cluster.site.ssh("app1", "systemctl restart fiefdom-serf-agent")
        cluster.site.ssh(
            "app2", "docker exec serf-agent serf tags -delete svc:second; systemctl restart fiefdom-serf-agent"
        )
        assert offered_by(cluster.site, "app2") == {"svc:predictor", "svc:second"}
        cluster.site.await_serving(cluster.inventory())


def test_a_daemon_that_restarts_changes_no_offer(cluster: Cluster) -> None:
    before = cluster.requests("predictor")
    with traffic("dockerd restarted on every host", "predictor", "second"):
        for host in ("app1", "app2"):
            cluster.site.ssh(host, "systemctl restart docker")
    after = cluster.requests("predictor")
    assert all(after[name] > before[name] for name in before), (before, after)
    assert cluster.site.whole(cluster.inventory())


@pytest.mark.proof
def test_a_service_whose_instances_come_up_in_part_is_offered_with_those(cluster: Cluster) -> None:
    """One of two cannot start, for somebody else has its port: the other one serves, and its neighbours stay."""
    site = cluster.site
    site.ssh("app1", "systemctl stop fiefdom-second@8501; docker rm -f second-8501 >/dev/null")
    site.ssh("app1", "systemd-run -q --unit=squatter python3 -m http.server 8501 --bind 10.99.0.21", check=False)
    site.ssh("app1", "docker run -d --name squatter -p 10.99.0.21:8501:80 fiefdom/predictor:1.0.0 || :", check=False)
    try:
        with traffic("a host that offers a part of a service", "predictor", "second"):
            site.ssh("app1", "systemctl restart fiefdom-offer-second")
            await_true(lambda: cluster.served("second") == SECONDS - {"app1:8501"}, what="three of four")
        assert cluster.offers()["second", "app1"][0] == "offered"
        assert "1 of 2 instances are healthy" in cluster.offers()["second", "app1"][1]
    finally:
        site.ssh("app1", "docker rm -f squatter; systemctl stop squatter", check=False)
    done = cluster.apply()
    assert done.returncode == 0, done.stdout + done.stderr
    site.ssh("app1", "systemctl reload fiefdom-offer-second")
    assert cluster.offers()["second", "app1"] == ("offered", "")


def test_making_an_offer_takes_no_longer_than_gossip(cluster: Cluster) -> None:
    """From the unit's start until every gateway has it, by the host's own clock."""
    site, took_ms = cluster.site, []
    for _ in range(5):
        site.ssh("app2", "systemctl stop fiefdom-offer-second")
        start = "began=$(date +%s%N); systemctl start fiefdom-offer-second; echo $((($(date +%s%N) - began) / 1000000))"
        took_ms.append(int(site.ssh("app2", start)))
        assert cluster.served("second") == SECONDS
    print(f"an offer was made, and acknowledged, in {statistics.median(took_ms)} ms (of {took_ms})")


@pytest.mark.proof
def test_a_host_offers_forty_services_whose_versions_are_long(cluster: Cluster) -> None:
    """What Serf does not carry as a tag for each; the way there and back is under traffic to services of before."""
    site = cluster.site
    names = [f"{MANY}{i}" for i in range(38)]
    cluster.others = {
        name: {
            "base_port": 9300 + 10 * i,
            "port": 80,
            "route": {"path_prefix": f"/many-{i}"},
            "instances": 1,
            "version": LONG,
        }
        for i, name in enumerate(names)
    }
    with traffic("38 services more on a host, versions of 128 letters", "predictor", "second"):
        done = cluster.apply()
        assert done.returncode == 0, done.stdout + done.stderr
    assert offered_by(site, "app1") == {"o"} and offered_by(site, "app2") == {"svc:predictor", "svc:second"}
    for i, name in enumerate(names):
        assert cluster.served(name) == {f"app1:{9300 + 10 * i}"}
    assert (cluster.served("predictor"), cluster.served("second")) == (PREDICTORS, SECONDS)
    status = json.loads(site.ssh("gw1", "docker exec gateway fiefdom-gateway status"))
    versions = {server["version"] for server in status["servers"] if server["service"].startswith(MANY)}
    assert versions == {LONG}, "the gateway heard what the codes stand for"
    with traffic("its agent restarted, one of its services withdrawn and made", "predictor", "second"):
        site.ssh("app1", "systemctl stop fiefdom-offer-second && systemctl start fiefdom-offer-second")
        site.ssh("app1", "systemctl restart fiefdom-serf-agent")
        await_true(lambda: cluster.served("second") == SECONDS)
    assert offered_by(site, "app1") == {"o"}
    cluster.others.clear()
    with traffic("and removed", "predictor", "second"):
        done = cluster.apply()
        assert done.returncode == 0, done.stdout + done.stderr
    assert offered_by(site, "app1") == {"svc:predictor", "svc:second"}


def offered_by(site: Site, host: str) -> set[str]:
    """Tags with which a host's own agent offers services."""
    said = site.ssh(host, "docker exec serf-agent serf info -format=json", check=False)
    try:
        return {tag for tag in json.loads(said)["tags"] if tag.startswith("svc:") or tag == "o"}
    except ValueError:
        return set()
