"""The laptop's document by value: whole, against what hosts are given, with what Compose would fill in kept from it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fiefdom import inventory
from fiefdom.desired import concerns, services
from fiefdom.desired.compose import Composed, compose
from fiefdom.desired.context import Context
from fiefdom.errors import FiefdomError
from fiefdom.model import Cluster, Secrets
from helpers.example import GOSSIP_KEY, INVENTORY, context, merged

ROOT = Path(__file__).parents[3]
RECIPIENT = "age1g3wca0mag5tcesluvzsvhqwgqukltsy83tdsnfdszxv2s4y22g2q4azqtw"
DATA = Path(__file__).parent / "data"
RICH: dict[str, Any] = {
    "services": {
        "predictor": {
            "build": "images/predictor",
            "environment": {"API_KEY": {"env": "REAL_KEY"}, "DB_PASSWORD": {"command": ["pass", "db"]}},
            "health": {"base_port": 8500, "container_port": 8001},
        },
        "web": {"registry": "hub"},
    },
    "registries": {"hub": {"server": "registry.example.org/team"}},
    "development": {
        "overrides": {
            "predictor": {
                "instances": 2,
                "environment": {"DB_PASSWORD": "only a laptop's", "MODEL": "tiny"},
                "links": ["redis", "search-engine"],
            },
            "web": {"base_port": 19000},
        },
        "services": {
            "redis": {
                "image": "redis:7.4",
                "port": 6379,
                "command": ["redis-server", "--appendonly", "yes"],
                "volumes": {"data": "/data"},
            },
            "search-engine": {
                "build": "images/search",
                "port": 9200,
                "host_port": 19200,
                "environment": {"discovery": "single-node", "PASSWORD": {"env": "SEARCH_PASSWORD"}},
                "health_path": "/_cluster/health",
                "start_timeout_s": 180,
            },
        },
    },
}


def cluster(**changes: object) -> Cluster:
    return Cluster.model_validate({**merged(INVENTORY, changes), "base_dir": "/srv/example"})


def rich(**changes: object) -> Composed:
    return compose(cluster(**merged(RICH, changes)))


def check_expected(name: str, text: str) -> None:
    path = DATA / name
    if os.environ.get("UPDATE_EXPECTED"):
        path.write_text(text)
    assert text == path.read_text()


def test_the_document_of_the_lab_is_as_expected() -> None:
    text = compose(inventory.load(ROOT / "inventories/lab.yaml")).text
    check_expected("compose-lab.yaml", text.replace(str(ROOT), "/srv/fiefdom"))


def test_the_document_of_a_richer_cluster_is_as_expected() -> None:
    check_expected("compose-rich.yaml", rich().text)


def spec(composed: Composed, name: str) -> dict[str, Any]:
    """What Compose makes of a service's part, its variables aside."""
    found: dict[str, Any] = yaml.safe_load(composed.text)["services"][name]
    return found


def create_args(of: dict[str, Any], address: str) -> set[str]:
    """Options of `docker create` that say the same as a service of the document."""
    nofile = of["ulimits"]["nofile"]
    return {
        *(f"--publish={port.replace('127.0.0.1', address)}" for port in of["ports"]),
        *(["--init"] if of["init"] else []),
        *(["--read-only"] if of["read_only"] else []),
        *(f"--tmpfs={mount}" for mount in of["tmpfs"]),
        *(f"--cap-drop={name}" for name in of["cap_drop"]),
        *(f"--security-opt={option}" for option in of["security_opt"]),
        f"--memory={of['mem_limit']}",
        f"--memory-swap={of['memswap_limit']}",
        f"--pids-limit={of['pids_limit']}",
        f"--ulimit=nofile={nofile['soft']}:{nofile['hard']}",
        f"--cpus={of['cpus']:g}",
        *([f"--user={of['user']}"] if "user" in of else []),
        *(f"--cap-add={name}" for name in of.get("cap_add", ())),
        *(f"--device={device}" for device in of.get("devices", ())),
        *(f"--add-host={line}" for line in of.get("extra_hosts", ())),
        *([f"--shm-size={of['shm_size']}"] if "shm_size" in of else []),
        *(f"--gpus={d['count']}" for d in of.get("deploy", NO_GPUS)["resources"]["reservations"]["devices"]),
    }


NO_GPUS: dict[str, Any] = {"resources": {"reservations": {"devices": []}}}
GIVEN = {
    "writable_root": True,
    "capabilities": ["NET_BIND_SERVICE"],
    "shm_size": "128m",
    "devices": ["/dev/fuse", "/dev/snd:/dev/sound:r"],
    "gpus": 2,
    "extra_hosts": {"db": "10.9.0.1"},
    "tmpfs": ["/run", {"path": "/tmp", "exec": True}],
}


HOSTS_OWN = ("--network=", "--env-file=", "--restart=", "--log-", "--label=")
"""How a container is kept and named, which is systemd's on hosts and Compose's here."""


@pytest.mark.parametrize("given", [{}, GIVEN], ids=["hardened", "where it gives way"])
@pytest.mark.parametrize("name", ["predictor-8000", "web-9000"])
def test_an_instance_is_what_a_host_makes_of_it(name: str, given: dict[str, Any]) -> None:
    checks = {"health": {"base_port": 8500, "container_port": 8001}}
    host = context("app2", services={"predictor": checks | given, "web": given})
    container = next(c for c in services.desired(host).containers if c.name == name)
    composed = compose(host.cluster)
    found = spec(composed, name)
    own = {arg for arg in container.args if not arg.startswith(HOSTS_OWN)}
    assert create_args(found, host.host.address) == own
    assert (found["image"], tuple(found.get("command", ()))) == (container.image, container.command)
    assert found["stop_grace_period"] == f"{container.stop_grace_s}s"
    variables = services.desired(host).file(f"/etc/fiefdom/containers/{name}.env").content.decode().splitlines()
    told = {f"{key}={value}" for key, value in found["environment"].items()}
    assert told - {"FIEFDOM_HOST=localhost"} == set(variables) - {"FIEFDOM_HOST=app2"}
    check = next(c.check for c in composed.containers if c.name == name)
    host_probe = container.probe or ""
    assert host_probe.endswith(f":{check.port}{check.path}")
    assert (check.timeout_s, check.start_timeout_s) == (container.probe_timeout_s, container.start_timeout_s)
    assert (container.probe_host or container.service, container.probe_status or "200-399") == (
        check.host,
        ",".join(check.status),
    )


@pytest.mark.parametrize("host", ["gw1", "app1", "app2"])
def test_hosts_know_nothing_of_it(host: str) -> None:
    without = cluster()
    with_it = cluster(development=merged(RICH["development"], {"overrides": {"predictor": {"links": ["redis"]}}}))
    states = [concerns.state_of(Context(host, one, "trixie", Secrets(GOSSIP_KEY))) for one in (without, with_it)]
    assert states[0] == states[1]
    assert [*with_it.secret_sources()] == [*without.secret_sources()] == []


ODD = {
    "DOLLAR": "5$ $X ${Y} $$",
    "NUMBER": "0o10",
    "FLOAT": "1e3",
    "TRUTH": "on",
    "NOTHING": "~",
    "QUOTES": """it's "so" # not a comment""",
    "COLON": "a: b",
    "LETTERS": "grün 😀 \u2028 \x07 \\n",
    "EMPTY": "",
    "SPACES": "  two  ",
}


def test_values_are_the_programs_own_whatever_is_in_them() -> None:
    changes = {"services": {"predictor": {"verbatim": True, "environment": ODD, "command": list(ODD.values())}}}
    found = spec(compose(cluster(**changes)), "predictor-8000")
    assert [*found["command"], *found["environment"].values()].count("5$$ $$X $${Y} $$$$") == 2
    # One dollar in front of each other one: nothing is left for Compose to fill in.
    assert {name: found["environment"][name].replace("$$", "$") for name in ODD} == ODD
    assert [word.replace("$$", "$") for word in found["command"]] == list(ODD.values())


def test_readers_that_know_more_numbers_find_texts_all_the_same() -> None:
    text = compose(cluster(services={"predictor": {"environment": ODD, "verbatim": True}})).text
    for name in ODD:
        assert re.search(rf'^      {name}: "', text, re.MULTILINE), name


def test_a_dollar_in_a_path_is_a_dollar() -> None:
    composed = compose(cluster(services={"predictor": {"build": "$HOME"}}))
    assert spec(composed, "predictor-8000")["build"] == {"context": "/srv/example/$$HOME"}
    assert composed.containers[0].build == "/srv/example/$HOME"


def test_a_secret_is_a_reference_and_nobody_is_asked_for_what_has_a_value_here() -> None:
    composed = rich()
    assert {name: key for name, (key, _) in composed.secrets.items()} == {
        "FIEFDOM_SECRET_PREDICTOR_API_KEY": ("services", "predictor", "environment", "API_KEY"),
        "FIEFDOM_SECRET_SEARCH_ENGINE_PASSWORD": (
            *("development", "services", "search-engine", "environment", "PASSWORD"),
        ),
    }
    environment = spec(composed, "predictor-8000")["environment"]
    assert (
        environment["API_KEY"] == "${FIEFDOM_SECRET_PREDICTOR_API_KEY?is a secret of predictor: `fiefdom dev` sets it}"
    )
    assert environment["DB_PASSWORD"] == "only a laptop's"


def test_two_secrets_never_share_a_variable() -> None:
    more = {
        "a": {"image": "a", "version": "1", "base_port": 7000, "environment": {"B_C": {"env": "ONE"}}},
        "a-b": {"image": "a", "version": "1", "base_port": 7001, "environment": {"C": {"env": "OTHER"}}},
    }
    for service in more.values():
        service["route"] = {"port": service["base_port"]}
    composed = compose(cluster(services=more), ["a", "a-b"])
    assert {name: source.env for name, (_, source) in composed.secrets.items()} == {
        "FIEFDOM_SECRET_A_B_C": "ONE",
        "FIEFDOM_SECRET_A_B_C_": "OTHER",
    }


def test_a_link_gives_place_and_order_and_a_value_of_ones_own_is_above_it() -> None:
    found = spec(rich(), "predictor-8001")
    assert found["depends_on"] == ["redis", "search-engine"]
    told = {name: value for name, value in found["environment"].items() if name.endswith(("_HOST", "_PORT"))}
    assert told == {
        **{"REDIS_HOST": "redis", "REDIS_PORT": "6379", "SEARCH_ENGINE_HOST": "search-engine"},
        **{"SEARCH_ENGINE_PORT": "9200", "FIEFDOM_HOST": "localhost", "FIEFDOM_PORT": "8001"},
    }
    inherited = rich(services={"predictor": {"environment": {"REDIS_HOST": "redis.example.org"}}})
    assert spec(inherited, "predictor-8000")["environment"]["REDIS_HOST"] == "redis"
    own = rich(development={"overrides": {"predictor": {"environment": {"REDIS_HOST": "elsewhere"}}}})
    assert spec(own, "predictor-8000")["environment"]["REDIS_HOST"] == "elsewhere"


def test_a_digest_is_what_runs() -> None:
    digest = f"sha256:{'a' * 64}"
    changes = {
        "services": {"web": {"image": f"team/web@{digest}", "registry": "hub"}},
        "registries": {"hub": {"server": "registry.example.org"}},
    }
    assert spec(compose(cluster(**changes)), "web-9000")["image"] == f"registry.example.org/team/web@{digest}"


def with_mounts(**files: object) -> dict[str, Any]:
    volumes = [
        {"name": "data", "path": "/data", "owner": "999"},
        {"name": "cache", "path": "/cache", "owner": "999", "each_instance": True, "writable": False},
        {"host": "/srv/models", "path": "/models"},
    ]
    return {"predictor": {"volumes": volumes, "files": {f"/etc/app/{name}": of for name, of in files.items()}}}


def test_volumes_and_files_of_the_repository_come_along() -> None:
    composed = rich(services=with_mounts(settings={"file": "conf/app.yaml"}))
    mounts = [
        {"type": "volume", "source": "predictor_data", "target": "/data"},
        {"type": "volume", "source": "predictor_cache_8001", "target": "/cache", "read_only": True},
        {"type": "bind", "source": "/srv/models", "target": "/models", "read_only": True},
        {"type": "bind", "source": "/srv/example/conf/app.yaml", "target": "/etc/app/settings", "read_only": True},
    ]
    assert spec(composed, "predictor-8001")["volumes"] == mounts
    named = ["predictor_cache_8000", "predictor_cache_8001", "predictor_data", "redis_data"]
    assert sorted(yaml.safe_load(composed.text)["volumes"]) == named


@pytest.mark.parametrize("source", [{"text": "x"}, {"template": "conf/app.j2"}, {"env": "TOKEN", "owner": "999"}])
def test_a_file_whose_content_stands_nowhere_is_refused_until_its_service_is_left_out(source: dict[str, str]) -> None:
    services = with_mounts(token=source)
    words = r"^services\.predictor\.files\.\S+: only a file of the repository comes to a laptop; leave it out "
    with pytest.raises(FiefdomError, match=words):
        rich(services=services)
    out = {"overrides": {"predictor": {"instances": 0}}}
    assert not rich(services=services, development=out).named("predictor"), "nothing of it is wanted here"
    assert compose(cluster(**merged(RICH, {"services": services})), strict=False).named("predictor")
    assert compose(cluster(**merged(RICH, {"services": services})), ["redis"]).named("redis")


def test_named_ones_come_with_what_they_link_to_and_nothing_else() -> None:
    whole = cluster(**RICH)
    assert [c.name for c in compose(whole, ["web"]).containers] == ["web-19000"]
    assert [c.name for c in compose(whole, ["redis"]).containers] == ["redis"]
    assert [c.name for c in compose(whole, ["predictor"]).containers] == [
        *("predictor-8000", "predictor-8001", "redis", "search-engine")
    ]
    assert "volumes" not in yaml.safe_load(compose(whole, ["web"]).text)
    assert compose(whole).named("predictor") == ("predictor-8000", "predictor-8001")
    assert compose(whole).named("predictor-8001") == ("predictor-8001",)


def test_without_instances_a_service_is_left_out() -> None:
    composed = rich(development={"overrides": {"predictor": {"instances": 0}}})
    assert [c.name for c in composed.containers] == ["web-19000", "redis", "search-engine"]


REFUSED = {
    "two services that share no host": (
        {"overrides": {"web": {"base_port": 8001}}},
        "development.overrides.web.base_port: port 8001 of a laptop is also taken by services.predictor.base_port; "
        "give it another with development.overrides.web.base_port, or name the services to run",
    ),
    "middleware on a service's port": (
        {"services": {"redis": {"port": 8000}}},
        "development.services.redis.port: port 8000 of a laptop is also taken by services.predictor.base_port; "
        "give it another with development.services.redis.host_port, or name the services to run",
    ),
    "checks on a port that is somebody's": (
        {"services": {"redis": {"host_port": 8501}}},
        "development.services.redis.host_port: port 8501 of a laptop is also taken by "
        "services.predictor.health.base_port; give it another",
    ),
    "past the last port": (
        {"overrides": {"predictor": {"base_port": 65535}}},
        "development.overrides.predictor.base_port: predictor-65536 would go past port 65535; lower it",
    ),
    "a name that an instance has": (
        {"services": {"predictor-8001": {"image": "a:1", "port": 7000}}},
        "development.services.predictor-8001: predictor-8001 is also an instance of services.predictor; choose another",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_on_one_machine_is_one_line(name: str) -> None:
    development, says = REFUSED[name]
    of = cluster(**merged(RICH, {"development": development}))
    with pytest.raises(FiefdomError) as refusal:
        compose(of)
    assert str(refusal.value).startswith(says) and "\n" not in str(refusal.value)
    compose(of, strict=False)  # what was started before must be possible to stop


def test_a_name_that_is_nobodys_is_told_with_those_that_are() -> None:
    with pytest.raises(
        FiefdomError, match=r"^postgres: no such service; known are predictor, web, redis, search-engine$"
    ):
        compose(cluster(**RICH), ["postgres"])


def test_the_pages_examples_are_what_they_say() -> None:
    page = (ROOT / "docs/laptop.md").read_text()
    first, second = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    file = {"secrets": {"file": "x.age", "recipients": [RECIPIENT]}}
    own = {"web": None, **first["services"]}
    hosts = {"app1": {"services": None}, "app2": {"services": None, "groups": ["app_hosts"]}}
    composed = compose(cluster(**file, hosts=hosts, services=own, development=first["development"]))
    assert composed.secrets == {}
    told = spec(composed, "predictor-8000")["environment"]
    assert (told["REDIS_HOST"], told["REDIS_PORT"], told["REDIS_PASSWORD"]) == ("redis", "6379", "")
    names = [c.name for c in compose(cluster(**second)).containers]
    assert names[-3:] == ["postgres", "memcached", "elasticsearch"]
