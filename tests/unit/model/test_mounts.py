"""Volumes and files of a service: what they may be, and what is refused in one clear line."""

from __future__ import annotations

from typing import Any

import pytest

from fiefdom.inventory.complaint import mistakes_of
from fiefdom.inventory.source import written
from fiefdom.model import Cluster, SecretSource
from fiefdom.model.mounts import FILE_MAX_BYTES, ServiceFile, Volume, owner_of_file, owner_of_volume
from helpers.inventories import changed

DATA = {"name": "data", "path": "/data", "owner": "999:999"}
HOST = {"host": "/srv/models", "path": "/models"}


def says(changes: dict[str, Any]) -> list[str]:
    """What is wrong with an inventory, key and sentence."""
    raw = changed(changes)
    try:
        Cluster.model_validate(raw)
    except ValueError as error:
        return [str(m).removeprefix("x.py: ") for m in mistakes_of(error, written(raw, "x.py"))]  # type: ignore[arg-type]
    return []


def of_volumes(*volumes: object, **service: object) -> list[str]:
    keys = {f"services/web/{name}": value for name, value in service.items()}
    return says({"services/web/volumes": list(volumes), **keys})


def of_file(file: object, at: str = "/etc/app.conf", **service: object) -> list[str]:
    keys = {f"services/web/{name}": value for name, value in service.items()}
    return says({"services/web/files": {at: file}, **keys})


def test_a_volume_has_the_defaults_of_its_kind() -> None:
    own, shared = Volume.model_validate(DATA), Volume.model_validate(HOST)
    assert (own.is_writable, own.mode_number, own.each_instance) == (True, 0o700, False)
    assert owner_of_volume(own, "1000:1000") == (999, 999)
    assert not shared.is_writable
    assert Volume.model_validate(HOST | {"writable": True}).is_writable
    assert not Volume.model_validate(DATA | {"writable": False}).is_writable
    assert owner_of_volume(Volume.model_validate({"name": "data", "path": "/data"}), "1000") == (1000, 1000)
    assert Volume.model_validate(DATA | {"mode": "2770"}).mode_number == 0o2770


def test_what_a_volume_may_be() -> None:
    assert of_volumes(DATA, HOST) == []
    assert of_volumes({"name": "data", "path": "/data"}, user="1000:1000") == []
    assert of_volumes({**DATA, "path": "/tmp/data"}) == [], "a tmpfs holds nothing that it could leave a mark in"
    assert of_volumes({"host": "/etc/ssl/certs", "path": "/certs"}) == []
    assert of_volumes({"host": "/run/postgresql", "path": "/sockets", "writable": True}) == []


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"path": "/data"}, "is neither a volume of Fiefdom's nor a folder of the host; write one of {name: data} and"),
        ({**DATA, "host": "/srv"}, "is both a volume of Fiefdom's and a folder of the host; write one of {name: data}"),
        ({**HOST, "owner": "1:1"}, "owner is for a volume by name: a folder of the host stays as it is there; take it"),
        ({**HOST, "each_instance": True}, "each_instance is for a volume by name: a folder of the host stays"),
        ({"host": "/etc/app", "path": "/x", "writable": True}, "/etc/app holds settings or programs of the host; take"),
        (
            {"name": "data", "path": "/data"},
            "nobody says who owns data, for the image's own user is not known; give it",
        ),
    ],
)
def test_a_volume_that_cannot_be(volume: object, words: str) -> None:
    (line,) = of_volumes(volume)
    assert line.startswith(f"services.web.volumes[0]: {words}"), line


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("/", "would bring /dev"),
        ("/etc", "would bring /etc/fiefdom"),
        ("/etc/fiefdom/files", "is a part of /etc/fiefdom"),
        ("/proc", "would be /proc"),
        ("/sys/fs", "is a part of /sys"),
        ("/dev", "would be /dev"),
        ("/var", "would bring /var/lib/fiefdom"),
        ("/var/lib", "would bring /var/lib/fiefdom"),
        ("/var/lib/fiefdom/volumes/web/data", "is a part of /var/lib/fiefdom"),
        ("/var/lib/docker", "would be /var/lib/docker"),
        ("/run", "would bring /run/docker.sock"),
        ("/var/run", "would bring /run/docker.sock"),
        ("/var/run/docker.sock", "would be /run/docker.sock"),
        ("/root/.ssh", "is a part of /root"),
        ("/usr", "would bring /usr/bin"),
    ],
)
def test_folders_that_no_container_may_have(folder: str, words: str) -> None:
    (line,) = of_volumes({"host": folder, "path": "/x"})
    mend = "which no container may have; name a folder of your own, such as /srv/models"
    assert line == f"services.web.volumes[0].host: {folder} {words}, {mend}"


def test_where_docker_keeps_images_is_dockers_wherever_that_is() -> None:
    raw = {"docker": {"daemon": {"data-root": "/srv/docker"}}}
    (line,) = says(raw | {"services/web/volumes": [{"host": "/srv", "path": "/x"}]})
    assert line.startswith("services.web.volumes[0].host: /srv would bring /srv/docker, which no container may have")


@pytest.mark.parametrize("path", ["data", "/", "/data/", "/a/../b", "/./a", "/a//b", "/a b", "/a,readonly", '/"a"'])
def test_a_path_is_written_in_one_way_only(path: str) -> None:
    (line,) = of_volumes({**DATA, "path": path})
    assert line.startswith("services.web.volumes[0].path: ") and "it must be an absolute path in the container" in line
    (line,) = of_file({"text": "x"}, at=path)
    assert "it must be an absolute path in the container" in line


@pytest.mark.parametrize("path", ["/proc", "/dev/shm", "/sys/x"])
def test_what_is_the_kernels_in_a_container_stays_so(path: str) -> None:
    (line,) = of_volumes({**DATA, "path": path})
    assert line.endswith("which is the kernel's; choose another path in the container")


@pytest.mark.parametrize(
    ("service", "line"),
    [
        (
            {"volumes": [DATA, {**DATA, "name": "more"}]},
            "volumes[1].path: /data is a volume already; choose another path for one of the two",
        ),
        ({"volumes": [DATA, {**DATA, "path": "/more"}]}, "volumes[1].name: another volume of web is called data; give"),
        ({"volumes": [{**DATA, "path": "/tmp"}]}, "volumes[0].path: /tmp is a folder of tmpfs already; choose another"),
        (
            {"volumes": [{**DATA, "path": "/cache"}], "tmpfs": ["/cache/"]},
            "volumes[0].path: /cache is a folder of tmpfs already; choose another path for one of the two",
        ),
        (
            {"volumes": [DATA], "tmpfs": ["/data/tmp"]},
            "tmpfs[0]: /data/tmp is a folder of tmpfs in /data, which is a volume, and would leave its mark there",
        ),
        (
            {"volumes": [DATA], "files": {"/data/postgresql.conf": {"text": ""}}},
            "files./data/postgresql.conf: /data/postgresql.conf is a file in /data, which is a volume, and would leave",
        ),
        (
            {"files": {"/etc/app": {"text": "x"}, "/etc/app/more": {"text": "x"}}},
            "files./etc/app/more: /etc/app/more is a file in /etc/app, which is a file; choose another path for one",
        ),
        (
            {"files": {"/etc/app/more": {"text": "x"}, "/etc/app": {"text": "x"}}},
            "files./etc/app/more: /etc/app/more is a file in /etc/app, which is a file; choose another path for one",
        ),
        ({"files": {"/tmp": {"text": "x"}}}, "files./tmp: /tmp is a folder of tmpfs already; choose another path"),
    ],
)
def test_mount_points_in_each_others_way(service: dict[str, Any], line: str) -> None:
    (found,) = says({f"services/web/{name}": value for name, value in service.items()})
    assert found.startswith(f"services.web.{line}"), found


def test_files_that_lie_beside_one_another_are_fine() -> None:
    assert of_file({"text": ""}, volumes=[DATA]) == []
    files = {"/etc/app": {"text": "x"}, "/etc/app.conf": {"text": "x"}, "/tmp/run/key": {"text": "x"}}
    assert says({"services/web/files": files}) == []


def test_a_secrets_file_is_its_owners_alone_and_every_other_one_everybodys() -> None:
    plain, secret = ServiceFile.model_validate({"text": "x"}), ServiceFile.model_validate({"env": "KEY"})
    assert (plain.mode_number, plain.source, owner_of_file(plain, "1000")) == (0o444, None, (0, 0))
    assert (secret.mode_number, secret.source) == (0o400, SecretSource(env="KEY"))
    assert owner_of_file(secret, "1000:2000") == (1000, 2000)
    assert owner_of_file(ServiceFile.model_validate({"text": "x", "owner": "5"}), "1000") == (5, 5)
    assert owner_of_file(ServiceFile.model_validate({"env": "KEY", "mode": "0444"}), None) == (0, 0)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({}, ": has no content; write one of file, template, text, env, command and secret"),
        ({"file": "a", "text": "b"}, ": has file and text; write one of file, template, text, env, command and secret"),
        ("hunter2", ": must be a mapping that says where the content is: {file: PATH}, {template: PATH} or {text: "),
        ({"env": "KEY"}, ": its mode lets nobody but its owner read it, and the image's own user is not known; give"),
        ({"text": "x", "mode": "0440"}, ": its mode lets nobody but its owner read it, and the image's own user is"),
        ({"text": "x", "mode": "4755"}, ".mode: '4755' is not possible here; it must be an octal mode in quotes"),
        ({"text": "x", "owner": "app"}, ".owner: 'app' is not possible here; it must be a uid, or uid and gid"),
        ({"text": "x" * (FILE_MAX_BYTES + 1)}, ".text: has 1048577 bytes, and 1048576 are possible; put it into"),
        ({"text": "\ud83d"}, ".text: holds half of a character"),
        ({"text": "listen ${PORT}"}, ".text: ${PORT} would be taken as it stands, for nothing is filled in here; write "
         "the value, name a `template`, or services.web.verbatim: true if it is for the program"),
        ({"text": "x", "moed": "0400"}, ".moed: unknown key; did you mean mode?"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be(file: object, words: str) -> None:
    (line,) = of_file(file)
    assert line.startswith(f"services.web.files./etc/app.conf{words}"), line


def test_what_a_program_itself_fills_in_is_let_be() -> None:
    assert of_file({"text": "listen ${PORT}"}, verbatim=True) == []


def test_a_slip_in_a_volume_is_told_with_what_may_stand_there() -> None:
    (line,) = of_volumes({**DATA, "writeable": True})
    assert line == "services.web.volumes[0].writeable: unknown key; did you mean writable?"


def test_the_encrypted_file_is_wanted_for_a_file_as_well() -> None:
    (line,) = of_file({"secret": "tls_key", "owner": "1000"})
    assert line.startswith(
        "services.web.files./etc/app.conf: there is no encrypted file to hold tls_key; add `secrets`"
    )


def test_no_folder_lies_where_a_container_that_writes_could_put_a_link_in_its_place() -> None:
    written = {"host": "/srv/data", "path": "/data", "writable": True}
    (line,) = of_volumes(written, {"host": "/srv/data/sub", "path": "/sub"})
    assert line == (
        "services.web.volumes[1].host: /srv/data/sub is in /srv/data, where a container that may write could put a "
        "link in its place; give folders that are not in each other"
    )
    assert of_volumes({**written, "writable": False}, {"host": "/srv/data/sub", "path": "/sub"}) == []


def test_a_path_that_is_too_long_for_a_name_on_the_host_is_refused() -> None:
    assert of_file({"text": "x"}, "/etc/" + "a" * 190) == []
    (line,) = of_file({"text": "x"}, "/etc/" + "a" * 200)
    assert line.endswith("is too long for one name on a host; choose a shorter path")
    (line,) = of_file({"text": "x"}, "/a" * 60)
    assert line.endswith("is too long for one name on a host; choose a shorter path")
