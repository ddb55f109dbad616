"""Values that a type allows and nobody means: refused before they reach a host."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fiefdom.model import Cluster
from helpers.inventories import changed


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Cluster.model_validate(changed(changes))
    return str(caught.value)


TIMES = [
    {"services/web/health": {"interval_s": 1e-9}},
    {"services/web/health": {"timeout_s": 0.0004}},
    *({"gateway": {f"{name}_timeout_s": 1e-9}} for name in ("connect", "server", "client", "request")),
]


@pytest.mark.parametrize("changes", TIMES, ids=str)
def test_a_time_that_haproxy_would_take_for_none_is_refused(changes: dict[str, Any]) -> None:
    assert "greater than or equal to 0.001" in refusal(changes)


@pytest.mark.parametrize("key", ["services/web/limits", "hosts/app1/services"])
def test_less_cpu_than_docker_gives_is_refused(key: str) -> None:
    few = {"cpus": 0.009}
    value = few if key.endswith("limits") else {"web": {"limits": few}}
    assert "greater than or equal to 0.01" in refusal({key: value})


@pytest.mark.parametrize("key", ["net.ipv4.ip_forward", "net/ipv4/ip_forward", "net.ipv4.conf.all.forwarding"])
def test_a_kernel_that_does_not_forward_to_containers_is_refused(key: str) -> None:
    assert "would keep requests from every container" in refusal({"hosts/app1/sysctls": {key: 0}})
    Cluster.model_validate(changed({"hosts/app1/sysctls": {key: 1}}))


def test_settings_of_the_kernel_that_fiefdom_makes_of_the_ports_are_refused() -> None:
    assert "would be lost; take it out" in refusal({"hosts/app1/sysctls": {"net.ipv4.ip_local_reserved_ports": "9"}})
    start = "net.ipv4.ip_unprivileged_port_start"
    assert "HAProxy could not listen on port 80" in refusal({"hosts/gw1/sysctls": {start: 81}})
    Cluster.model_validate(changed({"hosts/gw1/sysctls": {start: 80}, "hosts/app1/sysctls": {start: 1024}}))


@pytest.mark.parametrize("name", ["large", "gateways", "all"])
def test_a_host_named_as_a_group_is_refused(name: str) -> None:
    if name == "gateways":  # is no name of a group of one's own, but of one all the same
        changes = {f"hosts/{name}": {"address": "10.0.0.30", "groups": ["large"]}}
    else:
        changes = {f"hosts/{name}": {"address": "10.0.0.30", "groups": ["app_hosts"]}}
    assert "choose another name" in refusal(changes)


# Placeholders of other tools.

LITERAL = [
    ({"services/web/environment": {"URL": "http://${HOST}/"}}, "${HOST} would be taken as it stands"),
    ({"services/web/environment": {"URL": "http://{{ host }}/"}}, "{{ host }} would be taken as it stands"),
    ({"services/web/environment": {"URL": "{{- .Values.x }}{{x}}"}}, "{{ x }}"),
    ({"hosts/app1/services": {"web": {"environment": {"A": "${A}"}}}}, "or {env: A}, or services.web.verbatim: true"),
    ({"services/web/command": ["serve", "--port=${PORT}"]}, "services.web.command[1]: ${PORT}"),
    ({"services/web/command": ["sh", "-c", "serve {{ port }}"]}, "{{ port }}"),
    ({"services/web/release": ["migrate", "--to=${V}"]}, "services.web.release[1]: ${V}"),
    ({"services/web/build": "${HOME}/web"}, "services.web.build: ${HOME}"),
    ({"ssh": {"key": "{{ playbook_dir }}/id"}}, "ssh.key: {{ playbook_dir }}"),
    ({"network/input_rules": ["ip saddr ${OFFICE} accept"]}, "network.input_rules[0]: ${OFFICE}"),
    ({"hosts/gw1/sysctls": {"net.core.somaxconn": "${N}"}}, "hosts.gw1.sysctls.net.core.somaxconn: ${N}"),
]


@pytest.mark.parametrize(("changes", "says"), LITERAL, ids=[says for _, says in LITERAL])
def test_what_nothing_would_fill_in_is_refused(changes: dict[str, Any], says: str) -> None:
    assert says in refusal(changes)


def test_the_default_of_a_placeholder_is_not_told() -> None:
    assert "hunter2" not in refusal({"services/web/environment": {"A": "${PASSWORD:-hunter2}"}}).partition("[type")[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"services/web/environment": {"LOG": "{{ level }} ${NAME}"}, "services/web/verbatim": True},
        {"services/web/command": ["run", "${A}", "{{ b }}"], "services/web/verbatim": True},
        {
            "hosts/app1/services": {"web": {"environment": {"A": "${A}"}}},
            "services/web/verbatim": True,
        },
        {"services/web/command": ["/bin/sh", "-c", "exec serve --port ${PORT}"]},
        {"services/web/release": ["sh", "-c", "migrate --to ${FIEFDOM_VERSION}"]},
        {"services/web/environment": {"A": "$5 {x} {{}} ${} $(x) {{.Name}}", "B": '{"a": {"b": 1}}'}},
        {"services/web/environment": {"A": {"command": ["sh", "-c", "echo ${HOME}"]}}},
        {"registry": {"server": "r.org", "user": "a", "password": {"command": ["docker", "-f", "{{json .}}"]}}},
        {"base_dir": "/srv/${x}"},
    ],
    ids=str,
)
def test_what_is_for_a_program_is_taken(changes: dict[str, Any]) -> None:
    cluster = Cluster.model_validate(changed(changes))
    # As a rollback has it.
    cluster.with_version("web", "3")


# Keys.


@pytest.mark.long
def test_public_keys_that_ssh_keygen_makes_are_taken(tmp_path: Path) -> None:
    lines = []
    for name, options in {"ed25519": [], "rsa": ["-b", "2048"], "ecdsa": ["-b", "384"]}.items():
        path = tmp_path / name
        command = ["ssh-keygen", "-q", "-t", name, *options, "-N", "", "-C", "ann at home", "-f", str(path)]
        subprocess.run(command, check=True)
        lines.append(path.with_name(f"{name}.pub").read_text().strip())
    assert Cluster.model_validate(changed({"ssh": {"authorized_keys": lines}})).ssh.authorized_keys == tuple(lines)
    recipients = [line for line in lines if not line.startswith("ecdsa")]
    Cluster.model_validate(changed({"secrets": {"file": "x", "recipients": recipients}}))


def encoded(*fields: bytes) -> str:
    return base64.b64encode(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).decode()


WHOLE = encoded(b"ssh-ed25519", b"k" * 32)
NO_KEYS = [
    ("ssh-ed25519 AAAA", "is no whole key; copy the line of the file that ends in .pub anew"),
    (f"ssh-ed25519 {WHOLE[:-4]}", "is no whole key"),
    (f"ssh-ed25519 {WHOLE[:-1]}", "is no whole key"),
    (f"ssh-ed25519 {WHOLE}AAAA", "is no whole key"),
    (f"ssh-ed25519 {encoded(b'ssh-ed25519', b'k' * 31)}", "is no whole key"),
    (f"ssh-rsa {WHOLE}", "is a key of the type 'ssh-ed25519', not ssh-rsa"),
    (f"ssh-rsa {encoded(b'ssh-rsa', b'e', b'n' * 96)}", "has 767 bits, and sshd takes none below 1024"),
    (f"ssh-dss {encoded(b'ssh-dss', b'k')}", "'ssh-dss' is no type of key that sshd takes"),
    (f"ssh-edd25519 {WHOLE}", "is no type of key that sshd takes"),
]


@pytest.mark.parametrize(("line", "says"), NO_KEYS)
def test_what_only_looks_like_a_key_is_refused(line: str, says: str) -> None:
    assert says in refusal({"ssh": {"authorized_keys": [line]}})


def test_recipients_that_are_no_keys_are_refused() -> None:
    for line in ("ssh-ed25519 AAAA", f"age1{'q' * 58}"):
        assert "is no whole" in refusal({"secrets": {"file": "x", "recipients": [line]}})
