"""`fiefdom check` and `fiefdom config`: what they print, how they end, and what they leave alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fiefdom import inventory
from helpers import forked

ROOT = Path(__file__).parents[3]
FIEFDOM = Path(sys.executable).with_name("fiefdom")
LAB = (ROOT / "inventories/lab.yaml").read_text().replace("    build: ../images/predictor\n", "")


def fiefdom(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return forked.fiefdom(*arguments, cwd=folder)


@pytest.mark.long
@pytest.mark.parametrize("name", ["lab.yaml", "lab.py", "production.example.yaml", "python.example.py"])
def test_the_inventories_of_the_repository_are_fine(name: str) -> None:
    command = [str(FIEFDOM), "check", f"inventories/{name}"]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        rf"inventories/{re.escape(name)} is fine: \d+ gateways?, \d+ app hosts, \d+ services?, \d+ instances.\n",
        done.stdout,
    )


def test_every_mistake_is_a_line_and_exit_is_1(tmp_path: Path) -> None:
    text = (
        LAB.replace("instances: 2", "instances: two").replace("10.99.0.22", "10.99.0.21").replace("lab\n", "Lab\n", 1)
    )
    (tmp_path / "bad.yaml").write_text(text)
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data/gateways.py").write_text("print('noise')\nsysctls = {\n  'net.ipv4.ip_forward': 0,\n}\n")
    done = fiefdom("check", "bad.yaml", folder=tmp_path)
    assert (done.returncode, done.stderr) == (1, "noise\n")
    places = [line.split(": ")[:2] for line in done.stdout.splitlines()]
    assert places == [
        ["bad.yaml:3", "cluster"],
        ["bad.yaml:26", "hosts.app2.address"],
        ["bad.yaml:34", "services.predictor.instances"],
        ["group_data/gateways.py:3", "hosts.gw1.sysctls.net.ipv4.ip_forward"],
    ]
    told = json.loads(fiefdom("check", "bad.yaml", "--json", folder=tmp_path).stdout)
    assert told["outcome"] == "failed"
    assert [f"{m['file']}:{m['line']}: {m['key']}: {m['says']}" for m in told["mistakes"]] == done.stdout.splitlines()


def test_what_group_data_prints_does_not_spoil_a_document(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(LAB)
    (tmp_path / "group_data").mkdir()
    ways = ("print('one')", "os.system('echo two')", "sys.__stdout__.write('three\\n')", "os.write(1, b'four\\n')")
    noise = ["import os, sys", *ways, "sys.__stdout__.flush()"]
    (tmp_path / "group_data/all.py").write_text("\n".join(noise))
    for command in ("check", "config"):
        done = fiefdom(command, "good.yaml", "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)
        assert sorted(done.stderr.split()) == ["four", "one", "three", "two"]


def test_group_data_of_the_working_directory_that_is_not_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/good.yaml").write_text(LAB)
    for folder in ("other/group_data", "group_data"):
        (tmp_path / folder).mkdir(parents=True)
    for command in ("check", "config"):
        done = fiefdom(command, "../mine/good.yaml", folder=tmp_path / "other")
        assert done.returncode == 0
        assert done.stderr.startswith("warning: group_data is not read: ")
        assert fiefdom(command, "mine/good.yaml", folder=tmp_path).stderr == ""


def test_plan_refuses_a_build_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(LAB.replace("    version: 1.0.0\n", "    version: 1.0.0\n    build: nowhere\n"))
    for command in ("plan", "apply"):
        done = fiefdom(command, "bad.yaml", folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: services.predictor.build: there is no folder ")
    assert "bad.yaml:34: services.predictor.build: " in fiefdom("check", "bad.yaml", folder=tmp_path).stdout


NOBODY = """\
cluster: nobody
hosts:
  gw1: {address: 10.9.9.1, groups: [gateways], ssh: {address: 127.0.0.1, port: 1}}
  app1: {address: 10.9.9.2, groups: [app_hosts], ssh: {address: 127.0.0.2, port: 1}}
network: {cidr: 10.9.9.0/24, admin_cidrs: [127.0.0.0/8], client_cidrs: [10.0.0.0/8]}
serf: {key_file: gossip.key}
registry: {server: registry.example.org}
gateway: {tls: {certificates: {www: {chain: none.pem, key: none.key}}}}
services:
  web: {image: web, version: "1", instances: 1, health: {path: /}}
"""


@pytest.mark.parametrize(
    ("words", "asks"),
    [(["rollout"], False), (["rollout", "--force"], True), (["rollback", "web", "1", "--yes"], True)],
)
def test_a_bad_certificate_is_in_the_way_of_who_looks_at_gateways(tmp_path: Path, words: list[str], asks: bool) -> None:
    (tmp_path / "nobody.yaml").write_text(NOBODY)
    assert fiefdom("keygen", "nobody.yaml", folder=tmp_path).returncode == 0
    done = fiefdom(words[0], "nobody.yaml", *words[1:], folder=tmp_path)
    assert done.returncode == 1
    assert ("gateway.tls.certificates.www.chain" in done.stderr) is not asks, done.stderr
    assert ("127.0.0.1:1" in done.stderr) is asks, done.stderr


SECRETS = """\
    environment:
      PLAIN: "on"
      TOKEN: {env: WEB_TOKEN}
      DB_PASSWORD: hunter1
      URL: https://ann:hunter2@example.org/
"""


def test_config_is_the_inventory_with_the_place_of_each_value(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(LAB.replace("    environment:\n      PREDICT_DELAY_MS: 0\n", SECRETS))
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data/app_hosts.py").write_text("x = None\nssh_port = 2222\n".replace("x = None", "x_mine = 1"))
    done = fiefdom("config", "mine.yaml", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hunter" not in done.stdout
    assert "cluster: lab  # mine.yaml:3\n" in done.stdout
    assert "      port: 2222  # group_data/app_hosts.py:2\n" in done.stdout
    assert "      PLAIN: 'on'  # mine.yaml:39\n" in done.stdout
    assert "      TOKEN: '***'  # mine.yaml:40, from the environment variable WEB_TOKEN\n" in done.stdout
    assert "      nofile: 4096  # default\n" in done.stdout
    assert all("#" in line or line.endswith(":") for line in done.stdout.splitlines())

    shown = yaml.safe_load(done.stdout)
    cluster = inventory.load(tmp_path / "mine.yaml")
    wanted = json.loads(cluster.model_dump_json(exclude={"base_dir"}))
    wanted["services"]["predictor"]["environment"] |= dict.fromkeys(("TOKEN", "DB_PASSWORD", "URL"), "***")
    assert shown == wanted

    data = json.loads(fiefdom("config", "mine.yaml", "--json", folder=tmp_path).stdout)
    assert data["network"]["cidr"] == {"value": "10.99.0.0/24", "source": "mine.yaml:6"}


def test_config_tells_no_password_in_an_address(tmp_path: Path) -> None:
    proxies = 'proxies: {http-proxy: "http://ann:hunter2@proxy:3128", no-proxy: 10.0.0.0/8}'
    mirrors = 'registry-mirrors: ["https://ann:hunter2@mirror.example.org", "https://other.example.org"]'
    (tmp_path / "mine.yaml").write_text(f"{LAB}\ndocker: {{daemon: {{{proxies}, {mirrors}}}}}\n")
    for options in ([], ["--json"], ["app1"]):
        done = fiefdom("config", "mine.yaml", *options, folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "hunter2" not in done.stdout
        assert "10.0.0.0/8" in done.stdout
        assert "https://other.example.org" in done.stdout


def test_config_tells_what_links_make(tmp_path: Path) -> None:
    middleware = """\
  redis: {image: redis, version: "7", kind: tcp, instances: 1, base_port: 6379, groups: [middleware]}
hosts:
  db1: {address: 10.99.0.31, groups: [middleware]}
"""
    text = LAB.replace("    version: 1.0.0\n", "    version: 1.0.0\n    links: [redis]\n")
    redis, hosts = middleware.split("hosts:\n")
    text = text.replace("hosts:\n", f"hosts:\n{hosts}").replace("services:\n", f"services:\n{redis}")
    (tmp_path / "mine.yaml").write_text(text)
    whole = fiefdom("config", "mine.yaml", folder=tmp_path)
    assert "    links: [redis]  # mine.yaml:36, for REDIS_HOST=10.99.0.31 REDIS_PORT=6379\n" in whole.stdout
    told = yaml.safe_load(whole.stdout)["services"]["predictor"]
    assert (told["links"], told["environment"]) == (["redis"], {"PREDICT_DELAY_MS": "0"}), (
        "an inventory cannot say both"
    )
    on_host = fiefdom("config", "mine.yaml", "app1", folder=tmp_path).stdout
    assert "      REDIS_HOST: 10.99.0.31  # mine.yaml:36, a link\n" in on_host
    told = yaml.safe_load(on_host)["services"]["predictor"]["environment"]
    assert told == {"PREDICT_DELAY_MS": "0", "REDIS_HOST": "10.99.0.31", "REDIS_PORT": "6379"}
    assert yaml.safe_load(fiefdom("config", "mine.yaml", "db1", folder=tmp_path).stdout)["services"].keys() == {"redis"}


@pytest.mark.long
def test_config_of_an_inventory_is_an_inventory_that_says_the_same(tmp_path: Path) -> None:
    for name in ("lab", "production.example"):
        again = tmp_path / f"{name}.yaml"
        path = ROOT / f"inventories/{name}.yaml"
        again.write_text(fiefdom("config", str(path)).stdout)
        assert inventory.load(again).model_copy(update={"base_dir": str(path.parent)}) == inventory.load(path)


def test_config_of_a_host_is_what_is_true_there(tmp_path: Path) -> None:
    override = "    services: {predictor: {instances: 5, environment: {MORE: x}, limits: {cpus: 2}}}\n"
    text = LAB.replace("    address: 10.99.0.22\n", f"    address: 10.99.0.22\n{override}")
    (tmp_path / "mine.yaml").write_text(text)
    found = fiefdom("config", "mine.yaml", "app2", folder=tmp_path).stdout
    told = yaml.safe_load(found)
    service = told["services"]["predictor"]
    assert (told["host"], told["ssh"]["user"], told["ssh"]["key"]) == ("app2", "operator", "../.lab/id_ed25519")
    assert (service["instances"], service["limits"]["cpus"], service["limits"]["pids"]) == (5, 2.0, 64)
    assert service["environment"] == {"PREDICT_DELAY_MS": "0", "MORE": "x"}
    assert "    instances: 5  # mine.yaml:27\n" in found
    assert "gateway" not in told
    gateway = yaml.safe_load(fiefdom("config", "mine.yaml", "gw1", folder=tmp_path).stdout)
    assert gateway["services"] == {} and "gateway" in gateway
    refused = fiefdom("config", "mine.yaml", "app9", folder=tmp_path)
    assert (refused.returncode, refused.stderr) == (1, "error: app9: no such host; hosts are gw1, app1, app2\n")


@pytest.mark.long
@pytest.mark.parametrize("command", ["check", "config"])
@pytest.mark.parametrize("name", ["lab.yaml", "lab.py"])
def test_neither_needs_pyinfra(command: str, name: str) -> None:
    code = (
        "import sys, atexit\n"
        "heavy = ('pyinfra', 'gevent', 'paramiko')\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules], file=sys.stderr))\n"
        "from fiefdom.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    path = str(ROOT / "inventories" / name)
    done = subprocess.run([sys.executable, "-c", code, command, path], capture_output=True, text=True, check=False)
    assert done.stderr == "[]\n"
    assert done.stdout
