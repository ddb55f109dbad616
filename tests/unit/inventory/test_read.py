"""Inventories in, one cluster out; every mistake is one line with file, key and mend."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiefdom import inventory
from fiefdom.errors import FiefdomError
from fiefdom.inventory import groups, read
from fiefdom.model import Cluster
from helpers import forked
from helpers.inventories import TEXT, VALID, as_yaml, changed

ROOT = Path(__file__).parents[3]
INVENTORIES = ROOT / "inventories"

NAMES = (("TOKEN", "A"), ("OTHER", "B"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where no group data of the repository is in the way."""
    monkeypatch.chdir(tmp_path)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def refusal(path: str | Path) -> str:
    with pytest.raises(FiefdomError) as caught:
        inventory.load(path)
    message = str(caught.value)
    assert message.isprintable(), message
    return message


def of(text: str) -> str:
    """The refusal of an inventory of this text."""
    Path("bad.yaml").write_text(text)
    return refusal("bad.yaml")


# The files of the repository.


@pytest.mark.parametrize("name", ["lab", "production.example"])
def test_the_inventories_of_the_repository_are_the_same_in_yaml_and_python(name: str) -> None:
    cluster = inventory.load(INVENTORIES / f"{name}.yaml")
    assert inventory.load(INVENTORIES / f"{name}.py") == cluster
    lines = [line for line in (INVENTORIES / f"{name}.py").read_text().splitlines() if line]
    assert len(lines) == 2


def test_the_example_of_a_model_is_an_inventory() -> None:
    cluster = inventory.load(INVENTORIES.parent / "examples/model/inventory.yaml")
    assert cluster.services["iris"].links == ("redis",)


def test_the_lab_is_what_the_lab_command_makes() -> None:
    cluster = inventory.load(INVENTORIES / "lab.yaml")
    assert {name: (host.address, *host.groups) for name, host in cluster.hosts.items()} == {
        "gw1": ("10.99.0.11", "gateways"),
        "app1": ("10.99.0.21", "app_hosts"),
        "app2": ("10.99.0.22", "app_hosts"),
    }
    assert [cluster.ssh_of(name)[0] for name in cluster.hosts] == ["operator", "root", "operator"]
    assert cluster.ssh_of("gw1")[2] == str(ROOT / ".lab/id_ed25519")
    assert cluster.path(cluster.serf.key_file or "") == ROOT / ".lab/gossip.key"
    assert cluster.path(cluster.services["predictor"].build or "") == ROOT / "images/predictor"


def test_the_group_data_of_the_repository_holds_from_any_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = inventory.load(INVENTORIES / "lab.yaml")
    monkeypatch.chdir(ROOT)
    assert inventory.load("inventories/lab.yaml") == elsewhere
    assert elsewhere.docker.log_max_file == 3
    assert "net.ipv4.tcp_slow_start_after_idle" in elsewhere.hosts["gw1"].sysctls
    assert not elsewhere.hosts["app1"].sysctls


def test_loading_an_inventory_does_not_import_pyinfra() -> None:
    code = (
        "import sys; from fiefdom import inventory;"
        f"inventory.load({str(INVENTORIES / 'lab.yaml')!r}); inventory.load({str(INVENTORIES / 'lab.py')!r});"
        "sys.exit(str([m for m in sys.modules if m.split('.')[0] in ('pyinfra', 'gevent', 'paramiko')] or ''))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.stderr.strip() == ""


# Mistakes in a file.

MISTAKES = [
    ("version:", "verison:", "bad.yaml:15: services.web.verison: unknown key; did you mean version?"),
    ("instances: 2", "replicas: 2", "bad.yaml:16: services.web.replicas: unknown key; did you mean instances?"),
    ("instances: 2", "memory: 256", "services.web.memory: unknown key; did you mean limits.memory_mib?"),
    ("instances: 2", "cpu: 2", "services.web.cpu: unknown key; did you mean limits.cpus?"),
    ("instances: 2", "nofile: 2", "services.web.nofile: unknown key; did you mean limits.nofile?"),
    ("instances: 2", "port: 80", "services.web.port: unknown key; did you mean base_port?"),
    ("instances: 2", "timeout: 2", "timeout: unknown key; did you mean health.timeout_s or drain.timeout_s?"),
    ("instances: 2", "hsts: 2", "services.web.hsts: unknown key; known here are image, version, build"),
    ("cluster: test", "cluster: test\nfirewall: true", "firewall: unknown key; did you mean network.firewall?"),
    ("instances: 2", "xyz: 2", "bad.yaml:16: services.web.xyz: unknown key; known here are image, version, build"),
    ("cluster: test", "base_dir: /", "bad.yaml:1: base_dir: unknown key"),
    ('    version: "1.0"\n', "", "bad.yaml:13: services.web.version: missing; add `version` (Image tag to run."),
    ('"1.0"', "1.0", 'bad.yaml:15: services.web.version: must be text, not the number 1.0; put it in quotes: "1.0"'),
    ('"1.0"', "1.10", 'put it in quotes: "1.10"'),
    ('"1.0"', "2026-01-01", 'services.web.version: must be text, not a date; put it in quotes: "2026-01-01"'),
    ('"1.0"', "2026-99-99", "services.web.version: '2026-99-99' cannot be read"),
    ('"1.0"', "", "services.web.version: must be text, not nothing"),
    ('"1.0"', "a b", "services.web.version: 'a b' is not possible here; it must be an image tag"),
    ("instances: 2", 'instances: "2"', "must be a whole number, not the text '2'; take the quotes away"),
    ("instances: 2", "instances: true", "must be a whole number, not the truth value true"),
    ("instances: 2", "instances: -2", "services.web.instances: must be at least 0, not -2"),
    ("instances: 2", "instances: 2.5", "must be a whole number, not the number 2.5"),
    ("instances: 2", "instances: 010", "services.web.instances: YAML reads 010 as 8; write that"),
    ("instances: 2", "instances: 1:30", "YAML reads 1:30 as 90"),
    ("instances: 2", "instances: [2]", "must be a whole number, not a list"),
    ("instances: 2", "environment: {A: }", "services.web.environment.A: must be text, not nothing"),
    (
        "instances: 2",
        f"environment: {{A: {'x' * 60_001}}}",
        "services.web.environment.A: has 60001 bytes, and 60000 are",
    ),
    ("instances: 2", "environment: {A: true}", "services.web.environment.A: true is not text; put it in quotes"),
    ("instances: 2", "environment: {1A: x}", "services.web.environment.1A: '1A' is not possible here"),
    ("instances: 2", "environment: [A=1]", "services.web.environment: must be a mapping of keys to values, not a list"),
    ("instances: 2", "limits: 128", "services.web.limits: must be a mapping of keys to values, not the number 128"),
    ("instances: 2", "limits: {memory: 128}", "services.web.limits.memory: unknown key; did you mean memory_mib?"),
    ("instances: 2", "tmpfs: /tmp", "services.web.tmpfs: must be a list such as [a, b], not the text '/tmp'"),
    ("instances: 2", "volumes: {data: /data}", "services.web.volumes: must be a list, with a dash before each entry"),
    (
        "instances: 2",
        "command: [sh, 1]",
        'services.web.command[1]: must be text, not the number 1; put it in quotes: "1"',
    ),
    ("instances: 2", "base_port: 65535\n    instances: 2", "bad.yaml:16: services.web.base_port: ports 65535-65536"),
    ("instances: 2", "build: ~nobodyhere/x", "begins with a user that this machine does not know"),
    (
        "10.0.0.0/24",
        "10.0.0.1/24",
        "bad.yaml:3: network.cidr: '10.0.0.1/24' has host bits set; did you mean 10.0.0.0/24?",
    ),
    ("10.0.0.0/24", "10.0.0.0/33", "network.cidr: '10.0.0.0/33' is not an IPv4 network"),
    ("10.0.0.1/32", "x", "bad.yaml:4: network.admin_cidrs[0]: 'x' is not an IPv4 network"),
    ("10.0.0.21", "10.0.0.11", "bad.yaml:10: hosts.app1.address: 10.0.0.11 is also the address of gw1"),
    ("10.0.0.21", "10.0.1.21", "bad.yaml:10: hosts.app1.address: 10.0.1.21 is outside network.cidr"),
    ("[gateways]", "[gateway]", "bad.yaml:5: hosts: no host is in the group gateways"),
    ("[gateways]", "gateways", "bad.yaml:8: hosts.gw1.groups: must be a list such as [a, b], not the text 'gateways'"),
    ("[app_hosts]", "[app-hosts]", "hosts.app1.groups[0]: 'app-hosts' is not possible here"),
    ("instances: 2", "instances: 0", "bad.yaml:9: hosts.app1: an app host without service"),
    ("instances: 2", "groups: [other]", "bad.yaml:16: services.web.groups[0]: no host is in the group other"),
    ("  app1:", "  App_1:", "bad.yaml:9: hosts.App_1: 'App_1' is not possible here; it must be at most 40"),
    ("  app1:", "  12:", "bad.yaml:9: hosts: '12' as a key is not text; put it in quotes"),
    ("  app1:", "  yes:", "bad.yaml:9: hosts: 'yes' as a key is not text; put it in quotes"),
    ("  app1:", "  [a]:", "bad.yaml:9: hosts: a key must be text"),
    ("  app1:", "  gw1:", "bad.yaml:9: hosts.gw1: this key stands in line 6 already; take one of the two out"),
    (
        "  cidr:",
        "\tcidr:",
        "bad.yaml:3: not valid YAML: found character '\\t' that cannot start any token; indent with",
    ),
    ("cluster: test", "cluster: test: x", "bad.yaml:1: not valid YAML: a second `:` in the line, or wrong indentation"),
    ("cluster: test", "cluster: [test", "not valid YAML:"),
    ("cluster: test", "cluster: *nobody", "bad.yaml:1: not valid YAML: found undefined alias 'nobody'"),
    (
        "cluster: test",
        "cluster: !!python/object:os.system x",
        "bad.yaml:1: not valid YAML: could not determine a constr",
    ),
    ("cluster: test", "cluster: &me [*me]", "bad.yaml:1: nested too deeply or too large"),
    ("cluster: test", "cluster: \x07", "bad.yaml:1: not valid YAML: "),
    ("cluster: test", 'cluster: "a\\n b"', r"bad.yaml:1: cluster: 'a\n b' is not possible here"),
    ("cluster: test", 'cluster: "\\uD800"', "bad.yaml"),
    ("cluster: test", "--- 1\n--- 2", "bad.yaml:2: not valid YAML: a second document begins"),
    ("cluster: test", "cluster: test\ngateway: {balance: roundrobbin}", "did you mean roundrobin?"),
    ("cluster: test", "cluster: test\ndocker: {live_restore: false}", "must be true, not the truth value false"),
    ("cluster: test", "cluster: test\ngateway: {server_timeout_s: .inf}", "must be a finite number"),
]


@pytest.mark.parametrize(("old", "new", "says"), MISTAKES, ids=[new for _, new, _ in MISTAKES])
def test_a_mistake_is_one_line_with_file_line_key_and_mend(old: str, new: str, says: str) -> None:
    assert old in TEXT
    message = of(TEXT.replace(old, new, 1))
    assert says in message
    assert message.startswith("bad.yaml")


def test_the_text_of_the_mistakes_is_itself_right() -> None:
    Path("good.yaml").write_text(TEXT)
    assert inventory.load("good.yaml").services["web"].instances == 2


def test_overlapping_ports_of_two_services_name_both() -> None:
    more = '  api:\n    image: api\n    version: "1"\n    base_port: 8001\n    route: {path_prefix: /api}\n'
    message = "bad.yaml:20: services.api.base_port: port 8001 on app1 is also taken by services.web.base_port"
    assert of(TEXT + more).startswith(message)
    message = "bad.yaml:12: hosts.app1.services.web.instances: ports 8000-8004 on app1"
    text = TEXT.replace("[app_hosts]", "[app_hosts]\n    services: {web: {instances: 5}}")
    assert "services.api.base_port: port 8004 on app1 is also taken by hosts.app1.services.web.instances" in of(
        text + more.replace("8001", "8004")
    )


def test_of_several_mistakes_the_first_in_the_file_is_told_and_the_others_counted() -> None:
    text = (
        TEXT.replace("10.0.0.21", "x").replace("instances: 2", "instances: no").replace("cidr: 10.0.0.0/24", "cidr: y")
    )
    assert of(text) == "bad.yaml:3: network.cidr: 'y' is not an IPv4 network; write one like 10.0.0.0/24 (and 2 more)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "bad.yaml: the inventory is empty; start from inventories/production.example.yaml"),
        ("# nothing\n---\n", "bad.yaml: the inventory is empty"),
        ("- a\n", "bad.yaml:1: the inventory is a list; write a mapping that begins like `cluster: NAME`"),
        ("42\n", "bad.yaml:1: the inventory is a single value"),
        ("{}", "cluster: missing; add `cluster` (Name of the cluster) (and 3 more)"),
        (TEXT[: TEXT.index("  gw1")], "bad.yaml:5: hosts: must be a mapping of keys to values, not nothing"),
    ],
)
def test_what_is_no_inventory_at_all(text: str, says: str) -> None:
    assert says in of(text)


def test_merge_keys_and_own_keys() -> None:
    text = "x-web: &web\n  image: team/web\n  version: '2'\n" + TEXT.replace(
        '    image: team/web\n    version: "1.0"\n', '    <<: *web\n    version: "3"\n'
    )
    Path("good.yaml").write_text(text + "  more:\n    <<: *web\n    base_port: 9000\n    route: {port: 81}\n")
    cluster = inventory.load("good.yaml")
    assert [(s.image, s.version) for s in cluster.services.values()] == [("team/web", "3"), ("team/web", "2")]


@pytest.mark.long
def test_an_alias_that_explodes_is_refused_quickly() -> None:
    lines = ["x-a0: &a0 [1, 1]"] + [f"x-a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "nested too deeply or too large" in of("\n".join(lines) + "\n" + TEXT)


@pytest.mark.long
def test_deep_nesting_is_refused() -> None:
    assert "bad.yaml" in of("a: " + "[" * 5000 + "]" * 5000)
    assert "nested too deeply" in of("a: " + "[" * 60 + "]" * 60)


# Mistakes in the path.


def test_wrong_paths() -> None:
    write(Path(), {"inv/lab.yaml": TEXT, "inv/notes.txt": "x"})
    assert refusal("inv/lba.yaml") == "inv/lba.yaml: no such file; did you mean inv/lab.yaml?"
    assert refusal("inv/lab.yml") == "inv/lab.yml: no such file; did you mean inv/lab.yaml?"
    assert refusal("inv/xxxxxxx.yaml") == "inv/xxxxxxx.yaml: no such file; inv has lab.yaml"
    assert refusal("nowhere/lab.yaml") == "nowhere/lab.yaml: no such file; the folder nowhere is not there either"
    assert refusal("inv") == "inv: this is a folder; name a file in it, such as lab.yaml"
    assert refusal("inv/notes.txt") == "inv/notes.txt: the name of an inventory ends in .yaml, .yml or .py; rename it"
    assert "no such file" in refusal("lab")
    assert "no such file" in refusal("inv/lab.py")
    assert "cannot be read" in refusal("a\0b.yaml")
    assert "cannot be read" in refusal("x" * 5000 + ".yaml")
    assert refusal("")
    os.mkfifo("pipe.yaml")
    assert refusal("pipe.yaml").startswith("pipe.yaml: this is not a file")


def test_a_file_that_may_not_be_read() -> None:
    # Not under pytest's own folder, which nobody else can enter.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "private.yaml"
        path.write_text(TEXT)
        path.chmod(0)
        uid = os.geteuid()
        if uid == 0:
            os.seteuid(65534)
        try:
            assert refusal(path) == f"{path}: you may not read it; check its owner and mode"
        finally:
            os.seteuid(uid)


def test_not_utf8() -> None:
    for bom in (b"", b"\xef\xbb\xbf"):
        Path("bad.yaml").write_bytes(bom + b"cluster: x\nhosts: \xff\n")
        assert refusal("bad.yaml") == "bad.yaml:2: not UTF-8 text; save it as UTF-8"


def test_no_character_of_yaml() -> None:
    Path("bad.yaml").write_bytes(b"cluster: x\nhosts: \x00\n")
    says = "not valid YAML: the character #x0000 is none of YAML's; save it as plain text"
    assert refusal("bad.yaml") == f"bad.yaml:2: {says}"


# Layers.


def test_each_layer_is_on_top_of_the_one_before() -> None:
    write(
        Path(),
        {
            "inv/test.yaml": TEXT.replace("10.0.0.11\n", "10.0.0.11\n    sysctls: {net.d: host}\n")
            + "ssh: {port: 2201}\nx-note: mine\n",
            "inv/group_data/all.py": (
                "from pathlib import Path\n_private = 1\nx_mine = {}\nssh = {'user': 'operator', 'port': 2200}\n"
                "docker = {'log_max_file': 9}\n"
                "sysctls = {f'net.{k}': 'all' for k in 'abcd'}\n"
            ),
            "inv/group_data/gateways.py": "sysctls = {f'net.{k}': 'group' for k in 'bcd'}\n",
            "inv/group_data/test.py": "sysctls = {f'net.{k}': 'file' for k in 'cd'}\n",
            "inv/group_data/nobody.py": "whatever = 1\n",
        },
    )
    cluster = inventory.load("inv/test.yaml")
    assert cluster.hosts["gw1"].sysctls == {"net.a": "all", "net.b": "group", "net.c": "file", "net.d": "host"}
    assert cluster.hosts["app1"].sysctls == {"net.a": "all", "net.b": "all", "net.c": "file", "net.d": "file"}
    assert (cluster.ssh.user, cluster.ssh.port, cluster.docker.log_max_file) == ("operator", 2201, 9)
    assert list(cluster.hosts) == ["gw1", "app1"]


def test_of_two_group_data_folders_the_one_beside_the_inventory_holds() -> None:
    write(
        Path(),
        {
            "inv/test.yaml": TEXT,
            "inv/group_data/all.py": "ssh = {'port': 1111}\n",
            "group_data/all.py": "ssh = {'port': 2222, 'user': 'operator'}\ndocker = {'nofile': 2048}\n",
        },
    )
    cluster = inventory.load("inv/test.yaml")
    # As in pyinfra, files replace each other name by name.
    assert (cluster.ssh.port, cluster.ssh.user, cluster.docker.nofile) == (1111, "root", 2048)


GROUP_DATA_MISTAKES = [
    ("all.py", "firewall = True", "group_data/all.py:1: firewall: unknown key; did you mean network.firewall?"),
    ("app_hosts.py", "port = 22", "group_data/app_hosts.py:1: port: unknown key; did you mean ssh.port?"),
    ("app_hosts.py", "firewall = True", "group_data/app_hosts.py:1: firewall: unknown key; known here are address,"),
    ("all.py", "netwrok = {}", "group_data/all.py:1: netwrok: unknown key; did you mean network?"),
    ("all.py", "docker = {'log_max_file': '3'}", "group_data/all.py:1: docker.log_max_file: must be a whole number"),
    ("all.py", "ssh = {}\nssh['x'] = ssh", "group_data/all.py:2: ssh.x.x: nested too deeply"),
    ("all.py", "hosts = {}", "group_data/all.py:1: hosts: unknown key"),
    ("gateways.py", "network = {}", "group_data/gateways.py:1: network: belongs to the whole cluster; move it to"),
    ("gateways.py", "groups = []", "group_data/gateways.py:1: groups: unknown key"),
    ("gateways.py", "sysctls = {'net.a': 1.5}", "group_data/gateways.py:1: hosts.gw1.sysctls.net.a: 1.5 is not text"),
    ("gateways.py", "sysctls = {", "group_data/gateways.py:1: Python stopped here with SyntaxError"),
    ("gateways.py", "x = 1\n\n1 / 0", "group_data/gateways.py:3: Python stopped here with ZeroDivisionError"),
    ("gateways.py", "exit(0)", "group_data/gateways.py:1: Python stopped here with SystemExit"),
    ("gateways.py", "import nosuchmodule", "ModuleNotFoundError: No module named 'nosuchmodule'"),
    ("gateways.py", "services = {'web': {'instances': 3}}", "hosts.gw1.services.web: web does not run on gw1"),
]


@pytest.mark.parametrize(("name", "text", "says"), GROUP_DATA_MISTAKES, ids=[t for _, t, _ in GROUP_DATA_MISTAKES])
def test_a_mistake_in_group_data_names_its_own_file(name: str, text: str, says: str) -> None:
    write(Path(), {"test.yaml": TEXT, f"group_data/{name}": text})
    assert says in refusal("test.yaml")


# pyinfra.


@functools.cache
def all_connectors() -> Callable[[], dict[str, Any]]:
    """What pyinfra calls for each inventory twice; each time it reads what every package here says of itself."""
    from pyinfra.api.connectors import get_all_connectors

    return functools.cache(get_all_connectors)


def through_pyinfra(groups: dict[str, Any], group_data: dict[str, dict[str, Any]] | None = None) -> Cluster:
    """The cluster of the groups as pyinfra's own inventory, made with its API, has them."""
    from pyinfra.api.inventory import Inventory  # slow, and only here

    data = group_data or {}
    everyone, own = groups["all"] if isinstance(groups["all"], tuple) else (groups["all"], {})
    others = {name: hosts for name, hosts in groups.items() if name != "all"}
    all_hosts = (everyone, {**own, **data.get("all", {})})
    found_once = all_connectors()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("inventory", "connectors"):
            patch.setattr(f"pyinfra.api.{module}.get_all_connectors", found_once)
        found = Inventory(all_hosts, **{n: (hosts, data.get(n, {})) for n, hosts in others.items()})
    hosts = {host.name: (list(host.groups), found.get_host_data(host.name)) for host in found}
    return read.cluster_of(hosts, found.group_data, found.data)


def loaded_by_pyinfra(path: str, *arguments: str) -> dict[str, Any]:
    """What pyinfra's command makes of an inventory file, in a process of its own: importing it patches Python."""
    code = """
import json, sys
import pyinfra_cli.inventory as reader
from fiefdom import inventory
from fiefdom.engine.whose import whose
from pyinfra.api.state import State
from pyinfra.context import ctx_state
from pathlib import Path
with ctx_state.use(State()):
    found = reader.make_inventory(sys.argv[1], cwd=str(Path.cwd()))
cluster = whose(found, next(iter(found)), ("sshd", "docker"))[1]()
print(json.dumps({
    "same": cluster == inventory.load(sys.argv[1]),
    "cluster": cluster.model_dump(mode="json"),
    "groups": {h.name: list(h.groups) for h in found},
    "data": {h.name: {k: v for k, v in h.data.dict().items() if k.startswith(("ssh_", "_"))} for h in found},
}))
"""
    result = forked.run(code, path, *arguments)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", ["lab.py", "production.example.py", "python.example.py"])
def test_pyinfra_and_fiefdom_see_the_same_cluster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = loaded_by_pyinfra(f"inventories/{name}")
    assert found["same"]
    for host, data in found["data"].items():
        cluster = Cluster.model_validate(found["cluster"])
        wanted = groups.connection(cluster, host)
        assert {k: data[k] for k in wanted if k in data} == {k: wanted[k] for k in wanted if k in data}
        assert {"ssh_hostname", "ssh_user", "ssh_key"} <= set(data)


def test_the_lab_as_pyinfra_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = loaded_by_pyinfra("inventories/lab.py")
    assert found["groups"] == {"gw1": ["gateways", "lab"], "app1": ["app_hosts", "lab"], "app2": ["app_hosts", "lab"]}
    common = {
        "ssh_port": 22,
        "ssh_key": str(ROOT / ".lab/id_ed25519"),
        "ssh_known_hosts_file": str(ROOT / ".lab/known_hosts"),
        "ssh_strict_host_key_checking": "yes",
    }
    assert found["data"] == {
        "gw1": {"ssh_hostname": "10.99.0.11", "ssh_user": "operator", "_sudo": True, **common},
        "app1": {"ssh_hostname": "10.99.0.21", "ssh_user": "root", **common},
        "app2": {"ssh_hostname": "10.99.0.22", "ssh_user": "operator", "_sudo": True, **common},
    }


TWO_LINES = "from fiefdom.inventory import groups_beside\nglobals().update(groups_beside(__file__))\n"


def test_group_data_reaches_both_in_the_same_order() -> None:
    write(
        Path(),
        {
            "inv/test.yaml": TEXT,
            "inv/test.py": TWO_LINES,
            "inv/group_data/all.py": "ssh = {'user': 'operator'}\nsysctls = {f'net.{k}': 'all' for k in 'abc'}\n",
            "inv/group_data/gateways.py": "sysctls = {f'net.{k}': 'group' for k in 'bc'}\nssh = {'port': 2222}\n",
            "inv/group_data/test.py": "sysctls = {'net.c': 'file'}\n",
            "group_data/all.py": "docker = {'nofile': 2048}\nssh = {'user': 'somebody'}\n",
        },
    )
    found = loaded_by_pyinfra("inv/test.py")
    cluster = inventory.load("inv/test.yaml")
    assert found["same"]
    assert cluster == inventory.load("inv/test.py") == Cluster.model_validate(found["cluster"] | {}, strict=False)
    assert cluster.hosts["gw1"].sysctls == {"net.a": "all", "net.b": "group", "net.c": "file"}
    assert found["data"]["gw1"]["ssh_port"] == 2222
    assert found["data"]["app1"]["ssh_user"] == "operator"


PYTHON = """\
from pathlib import Path

_mine = [1, 2]
number = 3
gateways = ([("gw1", {"address": "10.0.0.11"})], {"sysctls": {"net.a": "list"}})
app_hosts = ["app1", "app2"]
large = [("app2", {"services": {"web": {"instances": 5}}, "x_note": 1})]
all = (
    [
        "gw1",
        ("app1", {"ssh_hostname": "10.0.0.21", "ssh_port": 2222}),
        ("app2", {"address": "10.0.0.22", "ssh": {"user": "admin"}, "ssh_user": "operator", "time_servers": ["ntp1"]}),
    ],
    {
        "cluster": "test",
        "base_dir": str(Path(__file__).parent),
        "network": {"cidr": "10.0.0.0/24", "admin_cidrs": ("10.0.0.1/32",)},
        "ssh_user": "somebody",
        "ssh_key": "keys/id",
        "ssh_known_hosts_file": "keys/known_hosts",
        "ssh_forward_agent": False,
    },
)
"""
PYTHON_DATA = """\
services = {"web": {"image": "web", "version": "1", "instances": 2, "build": "../web"}}
"""


@pytest.mark.long
def test_a_python_inventory_is_read_as_pyinfra_reads_it() -> None:
    write(
        Path(),
        {
            "inv/test.py": PYTHON,
            "inv/group_data/all.py": PYTHON_DATA,
            "inv/group_data/large.py": "sysctls = {'net.b': 'file'}\n",
        },
    )
    found = loaded_by_pyinfra("inv/test.py")
    cluster = inventory.load("inv/test.py")
    assert found["same"]
    assert {n: (h.address, h.groups) for n, h in cluster.hosts.items()} == {
        "gw1": ("10.0.0.11", ("gateways", "test")),
        "app1": ("10.0.0.21", ("app_hosts", "test")),
        "app2": ("10.0.0.22", ("app_hosts", "large", "test")),
    }
    folder = str(Path("inv").resolve())
    assert [cluster.ssh_of(n) for n in cluster.hosts] == [
        ("somebody", 22, f"{folder}/keys/id"),
        ("somebody", 2222, f"{folder}/keys/id"),
        ("admin", 22, f"{folder}/keys/id"),
    ]
    assert cluster.ssh.known_hosts == "keys/known_hosts"
    assert [len(cluster.instances(n)) for n in cluster.hosts] == [0, 2, 5]
    assert cluster.time_servers == ("ntp1",)
    assert cluster.hosts["gw1"].sysctls == {"net.a": "list"}
    assert cluster.hosts["app2"].sysctls == {"net.b": "file"}


PYTHON_MISTAKES = [
    ("", "test.py: "),
    ("number = 3", "test.py: "),
    (
        PYTHON.replace('"net.a": "list"', '"net.a": None'),
        "test.py:5: hosts.gw1.sysctls.net.a: must be text, not nothing",
    ),
    (PYTHON.replace('["app1", "app2"]', '("app1", "app2")'), "test.py: app_hosts: pyinfra takes this for a group"),
    (PYTHON.replace('"base_dir": str(Path(__file__).parent),', ""), "a relative path; add `base_dir = str(Path("),
    (PYTHON.replace('"cluster": "test"', '"cluster": 1'), "test.py:15: cluster: must be text, not the number 1"),
    (PYTHON.replace('"cluster"', '"clsuter"'), "test.py:15: clsuter: unknown key; did you mean cluster?"),
    (PYTHON.replace('"x_note"', '"adress"'), "test.py:7: hosts.app2.adress: unknown key; did you mean address?"),
    (
        PYTHON.replace('"x_note": 1', '"cluster": "b"').replace('"gw1",\n', '("gw1", {"cluster": "c"}),\n'),
        "says another",
    ),
    (
        PYTHON.replace("app_hosts = [", "app_hosts = ['a', ('b',), "),
        "test.py: app_hosts: pyinfra takes this for a group",
    ),
    (PYTHON + "raise ValueError('so\\nthere')\n", "test.py:24: Python stopped here with ValueError: so there"),
    (PYTHON.replace("base_dir", "base_dri"), "did you mean base_dir?"),
    (PYTHON.replace("str(Path(__file__).parent)", "1"), "test.py:16: base_dir: must be text, not the number 1"),
    (PYTHON.replace('"address": "10.0.0.11"', '"ssh_known_hosts_file": ""'), "one file serves the whole cluster"),
    (PYTHON.replace('{"address": "10.0.0.11"}', "{1: 2}"), "a key must be text, not 1"),
]


@pytest.mark.parametrize(("text", "says"), PYTHON_MISTAKES, ids=[says for _, says in PYTHON_MISTAKES])
def test_a_mistake_in_a_python_inventory_is_one_line(text: str, says: str) -> None:
    write(Path(), {"test.py": text, "group_data/all.py": PYTHON_DATA})
    assert says in refusal("test.py")


@pytest.mark.long
def test_pyinfra_prints_a_mistake_as_one_line_and_exits_1() -> None:
    write(Path(), {"test.yaml": TEXT.replace("cidr", "cdir"), "test.py": TWO_LINES})
    result = subprocess.run(
        [sys.executable, "-m", "pyinfra", "test.py", "debug-inventory"], check=False, capture_output=True, text=True
    )
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert "test.yaml:3: network.cdir: unknown key; did you mean cidr?" in output
    assert "Traceback" not in output


def test_the_two_lines_take_yml_as_well_and_name_what_is_missing() -> None:
    write(Path(), {"test.yml": TEXT, "test.py": TWO_LINES, "other.py": TWO_LINES})
    assert inventory.load("test.py") == inventory.load("test.yml")
    assert refusal("other.py").startswith("other.yaml: no such file")


@pytest.mark.parametrize(
    ("under", "over", "found"),
    [
        ({"TOKEN": {"env": "A"}}, {"TOKEN": {"command": ["b"]}}, {"TOKEN": "the command `b`"}),
        ({"TOKEN": {"env": "A"}}, {"TOKEN": "plain"}, {"TOKEN": "plain"}),
        ({"TOKEN": {"env": "A"}}, {"OTHER": {"env": "B"}}, {n: f"the environment variable {v}" for n, v in NAMES}),
        ({"env": "A"}, {"command": "b"}, {"env": "A", "command": "b"}),
    ],
)
def test_a_secret_on_top_of_another_replaces_it_whole(
    under: dict[str, Any], over: dict[str, Any], found: dict[str, str]
) -> None:
    data = yaml.safe_load(TEXT)
    data["services"]["web"]["environment"] = over
    Path("test.yaml").write_text(yaml.safe_dump(data))
    services = {"web": {"environment": under}}
    write(Path(), {"group_data/all.py": f"services = {services!r}\nserf = {{'key': {{'env': 'A'}}}}\n"})
    cluster = inventory.load("test.yaml")
    assert {name: str(value) for name, value in cluster.services["web"].environment.items()} == found
    # As host data, where services are overridden.
    data["hosts"]["app1"]["services"] = {"web": {"environment": over}}
    del data["services"]["web"]["environment"]
    data["serf"] = {"key": {"command": ["b"]}}
    Path("test.yaml").write_text(yaml.safe_dump(data))
    write(Path(), {"group_data/app_hosts.py": f"services = {services!r}\n"})
    cluster = inventory.load("test.yaml")
    assert {name: str(v) for name, v in cluster.hosts["app1"].services["web"].environment.items()} == found
    assert str(cluster.serf.key) == "the command `b`"


def test_a_registrys_password_on_top_of_another_replaces_it_whole() -> None:
    def registries(password: dict[str, Any]) -> dict[str, Any]:
        return {"one": {"server": "r.example.org", "user": "ann", "password": password}}

    Path("test.yaml").write_text(yaml.safe_dump(yaml.safe_load(TEXT) | {"registries": registries({"env": "A"})}))
    write(Path(), {"group_data/all.py": f"registries = {registries({'command': ['b']})!r}\n"})
    assert str(inventory.load("test.yaml").registries["one"].password) == "the environment variable A"


def test_data_on_its_way_through_pyinfra_does_not_show_environments() -> None:
    Path("test.yaml").write_text(TEXT.replace("instances: 2", "environment: {TOKEN: hidden-value}"))
    Path("test.py").write_text(TWO_LINES)
    (_, data), *_ = inventory.groups_beside("test.py")["all"]
    assert "hidden-value" not in repr(data) + data[read.DATA_KEY].to_json()


# --limit


@pytest.mark.parametrize(
    ("patterns", "hosts"),
    [
        ([], ["gw1", "app1", "app2"]),
        (["app1"], ["app1"]),
        (["app2", "gw1"], ["gw1", "app2"]),
        (["app2,gw1"], ["gw1", "app2"]),
        ([" app2 , gw1 "], ["gw1", "app2"]),
        (["app_hosts"], ["app1", "app2"]),
        (["large"], ["app2"]),
        (["app*"], ["app1", "app2"]),
        (["*1"], ["gw1", "app1"]),
        (["app[12]", "app1"], ["app1", "app2"]),
        (["all"], ["gw1", "app1", "app2"]),
    ],
)
def test_limit_chooses_hosts_groups_and_globs(patterns: list[str], hosts: list[str]) -> None:
    assert groups.limit_hosts(Cluster.model_validate(VALID), patterns) == tuple(hosts)


@pytest.mark.parametrize("patterns", [["app3"], ["app1", "nothing*"], [""], ["app1,"], ["\n"]])
def test_a_limit_that_chooses_nothing_names_what_there_is(patterns: list[str]) -> None:
    with pytest.raises(FiefdomError) as caught:
        groups.limit_hosts(Cluster.model_validate(VALID), patterns)
    assert "hosts are gw1, app1, app2; groups are gateways, app_hosts, large" in str(caught.value)
    assert str(caught.value).isprintable()


# Properties.

PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
names = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "localhost")
texts = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=20)
environments = st.dictionaries(
    st.from_regex(r"[A-EG-Z_][A-Z0-9_]{0,8}", fullmatch=True), texts | st.integers(-(10**9), 10**9), max_size=3
)
limits = st.fixed_dictionaries({}, optional={"memory_mib": st.integers(16, 4096), "cpus": st.floats(0.1, 64)})
# Out here, for to make a strategy takes longer than to draw from it.
images = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
versions = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}", fullmatch=True)
of_a_service = st.fixed_dictionaries(
    {},
    optional={
        "environment": environments,
        "limits": limits,
        "command": st.lists(texts, max_size=2),
        "x-note": st.none() | texts,
    },
)
override = st.fixed_dictionaries(
    {}, optional={"instances": st.integers(1, 60), "environment": environments, "limits": limits}
)
of_a_host: dict[str, Any] = {
    "ssh": st.fixed_dictionaries({}, optional={"user": st.sampled_from(["root", "operator"])}),
    "sysctls": st.dictionaries(st.sampled_from(["net.a", "net.b"]), st.integers(0, 9), max_size=2),
}
of_a_gateway = st.fixed_dictionaries({}, optional=of_a_host)
of_a_cluster = st.fixed_dictionaries(
    {},
    optional={
        "ssh": st.fixed_dictionaries({"key": st.sampled_from(["~/k", "../k", "/k"])}),
        "docker": st.fixed_dictionaries({"log_max_file": st.integers(1, 100)}),
        "registry": st.just({"server": "registry.example.org:5000/team"}),
    },
)


@st.composite
def inventories(draw: st.DrawFn) -> dict[str, Any]:
    """Valid inventories as plain data."""
    service_names = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    host_names = draw(st.lists(names, min_size=2, max_size=6, unique=True))
    gateway_count = draw(st.integers(1, min(2, len(host_names) - 1)))
    services: dict[str, Any] = {}
    for i, name in enumerate(service_names):
        services[name] = {
            "image": "team/" + draw(images),
            "version": draw(versions),
            "base_port": 10000 + 2000 * i,
            "route": {"path_prefix": f"/{name}"},
            "instances": draw(st.integers(1, 30)),
        }
        services[name] |= draw(of_a_service)
    runs = {"services": st.dictionaries(st.sampled_from(service_names), override, max_size=2)}
    of_an_app_host = st.fixed_dictionaries({}, optional=of_a_host | runs)
    hosts: dict[str, Any] = {}
    for i, name in enumerate(host_names):
        gateway = i < gateway_count
        hosts[name] = {"address": f"10.7.0.{i + 1}", "groups": ["gateways" if gateway else "app_hosts"]}
        if draw(st.booleans()):
            hosts[name]["groups"].append(draw(st.sampled_from(["large", "small"])))
        hosts[name] |= draw(of_a_gateway if gateway else of_an_app_host)
    raw: dict[str, Any] = {
        "cluster": draw(names),
        "network": {"cidr": "10.7.0.0/16", "admin_cidrs": ["10.7.255.1/32"]},
        "hosts": hosts,
        "services": services,
    }
    return raw | draw(of_a_cluster)


@pytest.mark.long
@PROPERTY
@given(inventories())
def test_a_valid_inventory_is_taken_and_its_ports_are_disjoint(raw: dict[str, Any]) -> None:
    Path("any.yaml").write_text(as_yaml(raw))
    cluster = inventory.load("any.yaml")
    for name in cluster.hosts:
        ports = [instance.port for instance in cluster.instances(name)]
        assert len(set(ports)) == len(ports)
        assert bool(ports) == (name in cluster.app_hosts)
    # YAML is only a way to write it.
    assert cluster == Cluster.model_validate({**raw, "base_dir": str(Path.cwd())})
    # A cluster says all that there is to say of itself.
    again = {k: v for k, v in cluster.model_dump(mode="json").items() if k != "base_dir"}
    Path("again.yaml").write_text(as_yaml(again))
    assert inventory.load("again.yaml") == cluster


group_data = st.fixed_dictionaries(
    {},
    optional={
        "all": st.fixed_dictionaries(
            {},
            optional={
                "docker": st.fixed_dictionaries({"nofile": st.integers(1024, 9999)}),
                "sysctls": st.dictionaries(st.sampled_from(["net.a", "net.b"]), st.integers(10, 19), max_size=2),
            },
        ),
        "large": st.fixed_dictionaries({"sysctls": st.just({"net.a": "20"}), "ssh": st.just({"port": 2222})}),
        "small": st.fixed_dictionaries({"sysctls": st.just({"net.b": "30"})}),
        "app_hosts": st.fixed_dictionaries({"ssh": st.just({"port": 2022, "user": "deploy"})}),
    },
)


@pytest.mark.long
@PROPERTY
@given(inventories(), group_data)
def test_the_way_through_pyinfra_changes_nothing(raw: dict[str, Any], data: dict[str, dict[str, Any]]) -> None:
    Path("any.yaml").write_text(as_yaml(raw))
    Path("group_data").mkdir(exist_ok=True)
    for group in ("all", "large", "small", "app_hosts"):
        lines = [f"{name} = {value!r}\n" for name, value in data.get(group, {}).items()]
        Path(f"group_data/{group}.py").write_text("".join(lines))
    cluster = inventory.load("any.yaml")
    assert through_pyinfra(inventory.groups_beside("any.py"), data) == cluster


@pytest.mark.long
@PROPERTY
@given(inventories())
def test_a_python_inventory_says_the_same_as_yaml(raw: dict[str, Any]) -> None:
    Path("any.yaml").write_text(as_yaml(raw))
    everywhere = {k: v for k, v in raw.items() if k != "hosts"} | {"base_dir": str(Path.cwd())}
    groups: dict[str, Any] = {
        "all": ([(n, {k: v for k, v in h.items() if k != "groups"}) for n, h in raw["hosts"].items()], everywhere)
    }
    for name, host in raw["hosts"].items():
        for group in host["groups"]:
            groups.setdefault(group, []).append(name)
    found = through_pyinfra(groups).model_dump()
    wanted = inventory.load("any.yaml").model_dump()
    for cluster in (found, wanted):  # pyinfra has groups in the order of its lists
        for host in cluster["hosts"].values():
            host["groups"] = sorted(host["groups"])
    assert found == wanted


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["10.7.0.1", "10.7.0.0/16", "gateways", "~x/y", "a\0b", "~", "/", "1e999", -1, 65535])
    | st.builds(lambda: 10**5000)
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mangled(draw: st.DrawFn) -> Any:
    """A valid inventory after a few accidents."""
    raw = copy.deepcopy(draw(inventories()))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = raw
        while isinstance(at, dict | list) and at:
            key = (
                draw(st.sampled_from(sorted(at, key=str)))
                if isinstance(at, dict)
                else draw(st.integers(0, len(at) - 1))
            )
            deeper = at[key]
            if isinstance(deeper, dict | list) and deeper and draw(st.integers(0, 3)):
                at = deeper
                continue
            accident = draw(st.integers(0, 2))
            if accident == 0:
                at[key] = draw(junk)
            elif accident == 1:
                del at[key]
            elif isinstance(at, dict):
                at[draw(st.text(max_size=8) | st.integers() | st.just("base_dir"))] = draw(junk)
            break
    return raw


def outcome(load: Any) -> None:
    try:
        assert isinstance(load(), Cluster)
    except FiefdomError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 1000


@pytest.mark.long
@settings(PROPERTY, max_examples=200)
@given(mangled() | junk)
def test_a_mangled_inventory_is_refused_in_one_line_or_taken(raw: Any) -> None:
    sys.set_int_max_str_digits(0)
    Path("any.yaml").write_bytes(yaml.safe_dump(raw, sort_keys=False).encode("utf-8", "surrogatepass"))
    sys.set_int_max_str_digits(4300)
    outcome(lambda: inventory.load("any.yaml"))


@pytest.mark.long
@settings(PROPERTY, max_examples=150)
@given(mangled(), st.sampled_from(["all", "app_hosts", "large"]), junk)
def test_mangled_host_data_is_refused_in_one_line_or_taken(raw: Any, group: str, more: Any) -> None:
    hosts = raw.get("hosts") if isinstance(raw.get("hosts"), dict) else {}
    own = [(str(n), h if isinstance(h, dict) else {"x": h}) for n, h in hosts.items() if str(n)[:1] != "@"]
    everywhere = {k: v for k, v in raw.items() if k != "hosts"}
    data = more if isinstance(more, dict) else {"services": more}
    groups = {"all": ([(n, d) for n, d in own if n], everywhere), "app_hosts": [n for n, _ in own if n]}
    outcome(lambda: through_pyinfra(groups, {group: data}))


@pytest.mark.long
@settings(PROPERTY, max_examples=200)
@given(st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!<>|'\"# \n\t?,%@`~=0", max_size=40).map(str.encode))
def test_any_bytes_are_refused_in_one_line(content: bytes) -> None:
    Path("any.yaml").write_bytes(content)
    outcome(lambda: inventory.load("any.yaml"))


@settings(PROPERTY, max_examples=100)
@given(st.text(max_size=20))
def test_any_path_is_refused_in_one_line(path: str) -> None:
    outcome(lambda: inventory.load(path))


def test_changed_is_what_the_model_takes() -> None:
    Path("any.yaml").write_text(yaml.safe_dump(changed({})))
    assert inventory.load("any.yaml").cluster == "test"


def test_where_ssh_finds_a_host_is_no_address_of_the_cluster_in_either_kind_of_inventory() -> None:
    python = PYTHON.replace(
        '("gw1", {"address": "10.0.0.11"})', '("gw1", {"address": "10.0.0.11", "ssh_hostname": "gw.example.org"})'
    )
    write(Path(), {"test.py": python, "group_data/all.py": PYTHON_DATA})
    found = inventory.load("test.py")
    assert {name: (found.hosts[name].address, found.ssh_address(name)) for name in ("gw1", "app1")} == {
        "gw1": ("10.0.0.11", "gw.example.org"),
        "app1": ("10.0.0.21", "10.0.0.21"),
    }
    made = Cluster.model_validate(changed({"hosts/gw1/ssh": {"address": "gw.example.org"}}))
    assert groups.connection(made, "gw1")["ssh_hostname"] == "gw.example.org"
    # What nobody wrote is for ~/.ssh/config to say.
    assert [found.ssh_says("app1", "port"), found.ssh_says("app2", "port"), made.ssh_says("gw1", "user")] == [
        True,
        False,
        False,
    ]


def test_pyinfras_own_command_refuses_a_way_that_it_would_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path(), {"test.yaml": f"{TEXT}ssh: {{jump: bastion}}\n", "test.py": TWO_LINES})
    assert inventory.load("test.py").jumps_of("gw1") == ("bastion",)
    pyinfra = SimpleNamespace(is_cli=True)
    monkeypatch.setitem(sys.modules, "pyinfra", pyinfra)
    monkeypatch.setitem(sys.modules, "pyinfra.api.exceptions", SimpleNamespace(PyinfraError=ValueError))
    with pytest.raises(FiefdomError, match=r"^ssh\.jump: pyinfra's own command does not know it; write ProxyJump"):
        groups.groups_beside(str(Path("test.py").resolve()))
