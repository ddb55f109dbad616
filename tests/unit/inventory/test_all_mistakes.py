"""All mistakes of an inventory are told at once, each where it is, and nothing that follows from another one."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from fiefdom import inventory
from fiefdom.inventory.written import Mistakes
from helpers.inventories import as_yaml, changed


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told(text: str = "", files: dict[str, str] | None = None) -> list[str]:
    """Every mistake of an inventory of this text, with other files in the same folder."""
    for name, content in {"bad.yaml": text, **(files or {})}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    with pytest.raises(Mistakes) as caught:
        inventory.load("bad.yaml")
    found = [str(mistake) for mistake in caught.value.all]
    assert all(line.isprintable() for line in found)
    rest = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    assert str(caught.value) == found[0] + rest
    return found


def dumped(changes: dict[str, Any]) -> str:
    return as_yaml(changed(changes))


# Each alone is one mistake; any two that touch different keys are two.
SINGLE: list[dict[str, Any]] = [
    {"services/web/verison": "2"},
    {"services/web/instances": "two"},
    {"services/api/version": None},
    {"services/api/version": 2.0},
    {"services/api/groups": ["none"]},
    {"services/web/environment": {"1A": "x"}},
    {"services/web/health": {"base_port": 9500}},
    {"services/api/base_port": 8001},
    {"services/api/route": {}},
    {"hosts/app1/address": "10.0.0.999"},
    {"hosts/app2/address": "10.0.0.11"},
    {"hosts/app2/address": "10.9.0.1"},
    {"hosts/gw1/groups": "gateways"},
    {"hosts/gw1/sysctls": {"net.ipv4.ip_forward": 0}},
    {"hosts/app1/services": {"webb": {"instances": 2}}},
    {"hosts/app1/ssh": {"port": 70000}},
    {"hosts/app1/static": {"prefix_length": 24}},
    {"hosts/app1/static": {"interface": "eth0", "gateway": "10.9.0.1"}},
    {"network/cidr": "10.0.0.1/24"},
    {"network/admin_cidrs": []},
    {"docker": {"address_pool": "172.31.1.0/26"}},
    {"gateway": {"balance": "roundrobbin"}},
    {"serf": {"port": "x"}},
    {"serf": {"key": {"secret": "gossip"}}},
    {"ssh": {"authorized_keys": ["ssh-ed25519 AAAA"]}},
    {"cluster": None},
    {"registry": {"server": "r.example.org", "user": "ann"}},
]


@pytest.mark.parametrize("changes", SINGLE, ids=[str(changes) for changes in SINGLE])
def test_a_mistake_alone_is_one(changes: dict[str, Any]) -> None:
    assert len(told(dumped(changes))) == 1


def _reads_the_other(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether one of two mistakes may be none, once the other is mended: then only that one is told."""
    (a,), (b,) = one, two
    pair = {a, b}
    outside = "10.9.0.1" in (one[a], two[b])
    return (
        # Outside of which network, and a pool over which, nobody knows.
        ("network/cidr" in pair and ("docker" in pair or outside))
        or ("network/admin_cidrs" in pair and "docker" in pair)
        # Who is in which group, or runs what, nobody knows.
        or ("services/api/groups" in pair and "hosts/gw1/groups" in pair)
        or ("services/api/base_port" in pair and "services/web/instances" in pair)
        # What its file is for is not known while its section is not.
        or (one.get("serf") or two.get("serf")) == {"port": "x"}
        or ("services/api/base_port" in pair and "services/api/groups" in pair)
        or ("hosts/app1/address" in pair and "hosts/app1/static" in pair)
    )


@pytest.mark.long
def test_two_mistakes_are_two_and_no_third_is_made_up() -> None:
    pairs = 0
    alone = {str(changes): told(dumped(changes)) for changes in SINGLE}

    def sentences(lines: list[str]) -> set[str]:
        return {line.partition(": ")[2].partition("; known are")[0] for line in lines}

    for one, two in combinations(SINGLE, 2):
        (a,), (b,) = one, two
        if a == b or a.rpartition("/")[0] == b or b.rpartition("/")[0] == a:
            continue
        found = sentences(told(dumped({**one, **two})))
        both = sentences(alone[str(one)]) | sentences(alone[str(two)])
        if _reads_the_other(one, two):
            assert found <= both, (one, two)
        else:
            assert found == both, (one, two)
            pairs += 1
    assert pairs > 300


@pytest.mark.parametrize(
    "changes",
    [
        {
            "services/web/links": ["api"],
            "services/web/instances": "x",
            "services/api/instances": 2,
            "services/api/route": {"port": 8080, "allow_from": ["10.0.0.21/32", "10.0.0.22/32"]},
            "network/client_cidrs": ["192.0.2.0/24"],
        },
        {
            "services/api/kind": "tpc",
            "services/api/route": None,
            "services/web/route": {"port": 8080},
            "hosts/gw1/sysctls": {"net.ipv4.ip_unprivileged_port_start": "500"},
        },
    ],
    ids=["who links is not known", "whether gateways have it is not known"],
)
def test_what_hangs_on_a_mistake_is_not_judged(changes: dict[str, Any]) -> None:
    assert len(found := told(dumped(changes))) == 1, found


def test_two_mistakes_in_one_list_take_nothing_more_with_them() -> None:
    """The list goes with the first: the second must not take the service, which others name."""
    changes = {"services/api/capabilities": ["NET_ROW", "FOO"], "services/web/links": ["api"]}
    found = told(dumped(changes))
    assert [line.partition(": ")[2].partition(":")[0] for line in found] == [
        f"services.api.capabilities[{place}]" for place in (0, 1)
    ]


def test_mistakes_stand_in_the_order_of_the_file() -> None:
    text = dumped(
        {"services/web/instances": "two", "hosts/app1/address": "x", "network/cidr": "y", "gateway": {"x": 1}}
    )
    lines = [int(line.split(":")[1]) for line in told(text)]
    assert len(lines) == 4 and lines == sorted(lines)


def test_what_yaml_reads_in_surprising_ways_hides_nothing_else() -> None:
    text = dumped({"gateway": {"balance": "roundrobbin"}}).replace(
        "instances: 2", "instances: 010\n    stop_grace_s: 1:30"
    )
    found = told(text)
    assert [line.split(": ")[1] for line in found] == [
        "services.web.instances",
        "services.web.stop_grace_s",
        "gateway.balance",
    ]


def test_a_key_that_stands_twice_makes_nothing_missing() -> None:
    (line,) = told(dumped({}).replace("app1:", "gw1:", 1))
    assert "hosts.gw1: this key stands in line" in line


def test_a_list_without_a_good_entry_is_not_empty_as_well() -> None:
    (line,) = told(dumped({"network/admin_cidrs": ["x"]}))
    assert "network.admin_cidrs[0]: 'x' is not an IPv4 network" in line


# Group data.


def test_mistakes_in_group_data_have_lines() -> None:
    data = """\
docker = {
    "log_max_file": 5,
    "nofile": "many",
}
sysctls = dict(
    net_a="1",
)
rollout = {}
rollout["soak_s"] = "long"
if True:
    time_servers = [
        "ok.example.org",
        "not ok",
    ]
gatewya = 1
"""
    assert [line.partition(": ")[0] for line in told(dumped({}), {"group_data/all.py": data})] == [
        "group_data/all.py:3",
        "group_data/all.py:6",
        "group_data/all.py:9",
        "group_data/all.py:13",
        "group_data/all.py:15",
    ]


def test_mistakes_of_several_files_are_told_together() -> None:
    files = {
        "group_data/all.py": "1 / 0",
        "group_data/app_hosts.py": "x = 1\nsysctls = {'net.a': 1.5}",
        "group_data/gateways.py": "def",
        "group_data/large.yaml": "sysctls: {}",
    }
    found = told(dumped({"services/web/instances": "two", "services/api/version": None}), files)
    places = [line.partition(": ")[0] for line in found]
    assert places == [
        "bad.yaml:24",
        "group_data/all.py:1",
        "group_data/app_hosts.py:1",
        "group_data/app_hosts.py:2",
        "group_data/gateways.py:1",
        "group_data/large.yaml",
    ]
    assert "api.version" not in str(found), "what all.py may say is not called missing"


def test_names_of_ones_own_and_of_pyinfra_are_taken_in_the_data_of_a_group() -> None:
    Path("group_data").mkdir()
    Path("group_data/app_hosts.py").write_text(
        "ssh_port = 2222\nssh_user = 'deploy'\n_sudo = True\nx_note = {'a': 1}\n"
    )
    Path("good.yaml").write_text(dumped({}))
    cluster = inventory.load("good.yaml")
    assert cluster.ssh_of("app1") == ("deploy", 2222, None)
    assert cluster.ssh_of("gw1") == ("root", 22, None)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Path("group_data").write_text(""), "group_data: this is not a folder"),
        (lambda: Path("group_data").symlink_to("nowhere"), "group_data: a link to what is not there"),
        (lambda: Path("group_data").symlink_to("group_data"), "group_data: "),
    ],
)
def test_group_data_that_cannot_be_read_is_told(make: Any, says: str) -> None:
    make()
    (line,) = told(dumped({}))
    assert says in line


def test_the_group_data_of_the_working_directory_is_that_of_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("mine/inventories", "mine/group_data", "other/group_data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine/inventories/mine.yaml").write_text(dumped({}))
    (tmp_path / "mine/group_data/all.py").write_text("docker = {'log_max_file': 7}")
    (tmp_path / "other/group_data/all.py").write_text("docker = {'log_max_file': 9}")
    seen = []
    for here in ("mine", "mine/inventories", "other", "."):
        monkeypatch.chdir(tmp_path / here)
        seen.append(inventory.load(tmp_path / "mine/inventories/mine.yaml").docker.log_max_file)
    assert seen == [7, 7, 7, 7]


def test_a_python_inventory_tells_lines() -> None:
    text = """\
from pathlib import Path

all = (
    ["gw1", ("app1", {"address": "10.0.0.21", "sysctls": {"net.a": 1.5}})],
    {
        "cluster": "x",
        "network": {"cidr": "10.0.0.0/24", "admin_cidrs": ["10.0.0.1/32"]},
        "services": {"web": {"image": "a", "version": 1.5}},
        "base_dir": str(Path(__file__).parent),
    },
)
gateways = [("gw1", {"adress": "10.0.0.11"})]
app_hosts = ["app1"]
"""
    Path("bad.py").write_text(text)
    with pytest.raises(Mistakes) as caught:
        inventory.load("bad.py")
    assert [str(mistake.origin) for mistake in caught.value.all] == ["bad.py:4", "bad.py:8", "bad.py:12"]
