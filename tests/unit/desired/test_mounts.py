"""Volumes and files as values: what Docker is told, and what the host keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fiefdom.desired import mounts, services
from fiefdom.desired.containers import conf_path
from fiefdom.desired.context import Context
from fiefdom.desired.state import Directory, File, HostState, spec_hash
from fiefdom.errors import FiefdomError
from fiefdom.model import Secrets, SecretSource
from helpers.example import GOSSIP_KEY, context

VOLUMES = [
    {"name": "data", "path": "/data", "owner": "999:998", "mode": "0750"},
    {"name": "own", "path": "/own", "each_instance": True, "writable": False},
    {"host": "/srv/models", "path": "/models"},
    {"host": "/srv/spool", "path": "/spool", "writable": True},
]
FILES: dict[str, Any] = {
    "/etc/app.conf": {"template": "app.j2"},
    "/etc/app/lines": {"text": "one\ntwo\n", "owner": "5", "mode": "0644"},
    "/run/key": {"env": "KEY"},
    "/etc/app.bin": {"file": "app.bin"},
}
KEY = SecretSource(env="KEY")
TEMPLATE = b"{{ host }} {{ address }} {{ service }} {{ version }} {{ port }} {{ ports | join(',') }} {{ cluster }}\n"


def of(template: bytes = TEMPLATE, **service: Any) -> Context:
    found = context("app2", services={"web": {"instances": 2, **service}})
    contents: dict[str | SecretSource, bytes] = {"app.j2": template, "app.bin": b"\0\1", KEY: b"hunter2\n"}
    return replace(found, secrets=Secrets(GOSSIP_KEY, contents=contents))


def state(**service: Any) -> HostState:
    return services.desired(of(**service))


def container(wanted: HostState, name: str = "web-9001") -> Any:
    return next(c for c in wanted.containers if c.name == name)


def test_what_docker_is_told_of_volumes() -> None:
    found = container(state(volumes=VOLUMES))
    mount = "--mount=type=bind,source="
    assert [arg for arg in found.args if arg.startswith("--mount")] == [
        f"{mount}/var/lib/fiefdom/volumes/web/data,target=/data",
        f"{mount}/var/lib/fiefdom/volumes/web/own@9001,target=/own,readonly",
        f"{mount}/srv/models,target=/models,readonly",
        f"{mount}/srv/spool,target=/spool",
    ]
    assert found.volumes == ("/var/lib/fiefdom/volumes/web/data", "/var/lib/fiefdom/volumes/web/own@9001")
    assert found.folders == ("/srv/models", "/srv/spool")
    assert {"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"} < {*found.args}


def test_a_volume_is_a_folder_that_is_kept_and_all_above_it_is_roots() -> None:
    assert [d for d in state(volumes=VOLUMES).directories if d.keeps] == [
        Directory("/var/lib/fiefdom/volumes", 0o700, keeps=True),
        Directory("/var/lib/fiefdom/volumes/web", 0o700, keeps=True),
        Directory("/var/lib/fiefdom/volumes/web/data", 0o750, 999, 998, keeps=True),
        Directory("/var/lib/fiefdom/volumes/web/own@9000", 0o700, 1000, 1000, keeps=True),
        Directory("/var/lib/fiefdom/volumes/web/own@9001", 0o700, 1000, 1000, keeps=True),
    ]
    assert all(mounts.is_volume(d.path) for d in state(volumes=VOLUMES).directories if d.uid)


@pytest.mark.parametrize("path", ["/../../../etc", "/web", "/web/data/PG", "/web/..", "/Web/data", "/web/da ta"])
def test_what_a_host_calls_a_volume_is_one(path: str) -> None:
    assert not mounts.is_volume(f"{mounts.VOLUMES}{path}")


def test_files_stand_where_no_other_user_of_the_host_looks() -> None:
    wanted = state(files=FILES)
    folder = "/etc/fiefdom/files/web-9001"
    assert Directory("/etc/fiefdom/files", 0o700) in wanted.directories
    assert Directory(folder, 0o700) in wanted.directories
    found = {f.path: f for f in wanted.files if f.path.startswith(f"{folder}/")}
    kept = {"serves": True, "mounted": True}
    assert found == {
        f"{folder}/etc%2Fapp.conf": File(
            f"{folder}/etc%2Fapp.conf", b"app2 10.1.0.22 web 7 9001 9000,9001 example\n", mode=0o444, **kept
        ),
        f"{folder}/etc%2Fapp%2Flines": File(
            f"{folder}/etc%2Fapp%2Flines", b"one\ntwo\n", mode=0o644, uid=5, gid=5, **kept
        ),
        f"{folder}/run%2Fkey": File(
            f"{folder}/run%2Fkey", b"hunter2\n", mode=0o400, uid=1000, gid=1000, secret=True, **kept
        ),
        f"{folder}/etc%2Fapp.bin": File(f"{folder}/etc%2Fapp.bin", b"\0\1", mode=0o444, **kept),
    }
    own = container(wanted)
    assert f"--mount=type=bind,source={folder}/run%2Fkey,target=/run/key,readonly" in own.args
    assert {*own.config} == {"/etc/fiefdom/containers/web-9001.env", *found}
    conf = wanted.file("/etc/fiefdom/containers/web-9001.conf")
    sums = [line for line in conf.content.decode().splitlines() if line.startswith("file_sha256 ")]
    assert sums == [f"file_sha256 {f.digest}  {f.path}" for f in found.values()]
    assert conf.secret and "hunter2" not in repr(wanted)


def test_what_makes_an_instance_another_one() -> None:
    def spec(**changes: Any) -> str:
        files = {**FILES, "/etc/app/lines": {**FILES["/etc/app/lines"], **changes}}
        wanted = state(files=files, volumes=VOLUMES)
        return spec_hash(container(wanted), wanted)

    before = spec()
    assert spec() == before
    assert len({spec(text="other\n"), spec(mode="0444"), spec(owner="6"), before}) == 4
    moved = state(files=FILES, volumes=[{**VOLUMES[0], "path": "/elsewhere"}, *VOLUMES[1:]])
    assert spec_hash(container(moved), moved) != before
    # Whose the folder is, is the folder's matter.
    other = state(files=FILES, volumes=[{**VOLUMES[0], "owner": "1:1"}, *VOLUMES[1:]])
    assert spec_hash(container(other), other) == before


def test_a_service_without_them_is_what_it_was_before_there_were_any() -> None:
    found = container(state())
    assert not any("mount" in arg for arg in found.args) and found.volumes == found.folders == ()
    assert "file_sha256" not in state().file("/etc/fiefdom/containers/web-9001.conf").content.decode()
    assert not any(d.path.startswith((mounts.VOLUMES, mounts.FILES)) for d in state().directories)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (b"a\nb\n{{ 1 // (port - port) }}\n", "app.j2:3: ZeroDivisionError: "),
        (b"a\n{{ host.nothing }}\n", "app.j2:2: 'str object' has no attribute 'nothing'; mend the template"),
        (b"a\n{{ host.upper }}\n", "app.j2:2: TypeError: a builtin_function_or_method is no text; call it, or write"),
        (b"{{ ports | map('string') }}\n", "app.j2:1: TypeError: a generator is no text; call it, or write `|list`"),
        (b"a\n{{ host.__class__.__mro__ }}\n", "app.j2:2: access to attribute '__class__' of 'str' object is unsafe"),
    ],
)
def test_an_expression_that_fails_is_told_with_file_and_line(template: bytes, words: str) -> None:
    with pytest.raises(FiefdomError) as error:
        services.desired(of(template, files=FILES))
    assert str(error.value).startswith(f"services.web.files./etc/app.conf.template: {words}")


def test_a_text_that_becomes_too_large_is_refused() -> None:
    with pytest.raises(FiefdomError, match=r"^services.web.files./etc/app.conf: app.j2 has 1048580 bytes, and 1048576"):
        services.desired(of(b"{{ 'abcd' * 262145 }}", files=FILES))


def test_a_file_that_is_called_as_an_environment_is_none() -> None:
    name = "web-9001"
    wanted = state(files={f"/{name}.env": {"text": "x"}})
    lines = wanted.file(conf_path(name)).content.decode().splitlines()
    assert len([line for line in lines if line.startswith("env_sha256 ")]) == 1
