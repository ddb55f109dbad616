"""Every file of every concern, under both Debians, byte for byte, and what holds for all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fiefdom.desired import docker, firewall, gateway, network, serf, services, sshd
from fiefdom.desired.context import Context
from fiefdom.desired.render import MANAGED
from fiefdom.desired.state import Codename, HostState
from fiefdom.resources import templates_dir
from helpers.example import check_expected, context

CONCERNS = (docker, network, firewall, sshd, services, serf, gateway)
HOSTS = ("gw1", "gw2", "app1", "app2")


def whole(host: Context) -> HostState:
    return sum((concern.desired(host) for concern in CONCERNS), HostState())


@pytest.mark.parametrize(("codename", "host"), [("bookworm", "app1"), ("trixie", "app2"), ("trixie", "gw1")])
def test_files_are_as_expected(codename: Codename, host: str) -> None:
    check_expected(f"{codename}/{host}", whole(context(host, codename)))


def test_every_template_is_rendered_by_something() -> None:
    library = Path(docker.__file__).parents[1]
    code = "".join(p.read_text() for p in library.rglob("*.py"))
    rendered = set(re.findall(r'"([^"\s]+\.j2)"', code))
    included = {name for p in templates_dir().glob("*.j2") for name in re.findall(r'include "([^"]+)"', p.read_text())}
    assert {p.name for p in templates_dir().iterdir() if p.is_file()} == rendered | included


@pytest.mark.parametrize("host", HOSTS)
def test_every_file_says_who_manages_it(host: str) -> None:
    for file in whole(context(host)).files:
        if not file.path.endswith((".json", ".env")):
            assert MANAGED in file.content.decode().splitlines()[0:2][file.content.startswith(b"#!")], file.path


@pytest.mark.parametrize("host", HOSTS)
def test_secrets_are_in_closed_files_alone(host: str) -> None:
    it = context(host)
    state = whole(it)
    for secret in (it.secrets.gossip_key, "s3cret value"):
        assert secret not in repr(state)
        for file in state.files:
            assert file.secret or secret.encode() not in file.content, file.path
    for file in state.files:
        assert not file.secret or file.mode & 0o077 == 0, file.path


@pytest.mark.parametrize("host", HOSTS)
def test_a_path_is_named_once_and_its_folder_is_there(host: str) -> None:
    state = whole(context(host))
    paths = [file.path for file in state.files]
    assert len(paths) == len(set(paths))
    folders = {directory.path for directory in state.directories}
    debians = {"/etc", "/etc/ssh/sshd_config.d", "/etc/sysctl.d", "/etc/systemd/system"}
    assert {str(Path(path).parent) for path in paths} <= folders | debians
    assert len(folders) == len(state.directories)


@pytest.mark.parametrize("host", HOSTS)
def test_what_a_unit_or_container_reads_is_in_the_state(host: str) -> None:
    state = whole(context(host))
    for reader in (*state.units, *state.containers):
        for path in reader.config:
            assert state.file(path)
    assert {container.unit for container in state.containers} <= {unit.name for unit in state.units}
    assert {container.image for container in state.containers} == {image.ref for image in state.images}


def test_the_same_cluster_gives_the_same_state() -> None:
    assert whole(context()) == whole(context())


def test_another_order_of_hosts_changes_no_file() -> None:
    it = context("gw1")
    backwards = dict(reversed(it.cluster.hosts.items()))
    turned = Context("gw1", it.cluster.model_copy(update={"hosts": backwards}), "bookworm", it.secrets)
    assert {f.path: f.content for f in whole(it).files} == {f.path: f.content for f in whole(turned).files}
    assert whole(it).blocks == whole(turned).blocks


def test_another_app_host_changes_nothing_of_a_gateway_but_the_hosts_that_it_knows() -> None:
    before = whole(context("gw1"))
    after = whole(context("gw1", hosts={"app3": {"address": "10.1.0.23", "groups": ["app_hosts"]}}))
    changed = {old.path for old, new in zip(before.files, after.files, strict=True) if old != new}
    assert changed == {"/etc/fiefdom/gateway/reconciler.json"}
    assert all(old != new for old, new in zip(before.blocks, after.blocks, strict=True))
    assert before.containers == after.containers
