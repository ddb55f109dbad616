"""Files that services name beside an inventory, and secrets of many lines: read once, whole, and bounded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fiefdom.errors import FiefdomError
from fiefdom.inventory import files, offline, read, secret
from fiefdom.inventory.effective import as_yaml, effective
from fiefdom.model import Cluster, SecretSource
from fiefdom.model.mounts import FILE_MAX_BYTES
from fiefdom.model.templates import VARIABLES
from fiefdom.wording import dotted
from helpers.inventories import TEXT, changed

KEY = {secret.VARIABLE: "dGVzdHMgb25seTogMzIgYnl0ZXMgb2Ygbm90aGluZyE="}
PEM = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"


def cluster(folder: Path, of: dict[str, Any], **changes: Any) -> Cluster:
    wanted = {"services/web/files": of, "services/web/user": "1000", "base_dir": str(folder)}
    return Cluster.model_validate(changed(wanted | changes))


def refusal(folder: Path, of: dict[str, Any], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(FiefdomError) as error:
        secret.load(cluster(folder, of), KEY | (environ or {}))
    assert "hunter2" not in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_what_is_in_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    content = bytes(range(256)) + b"\r\n\n"
    (tmp_path / "config").mkdir()
    (tmp_path / "config/app.bin").write_bytes(content)
    of = {"/etc/app.bin": {"file": "config/app.bin"}, "/etc/again": {"file": "config/app.bin"}}
    assert secret.load(cluster(tmp_path, of), KEY).contents == {"config/app.bin": content}


@pytest.mark.parametrize("kind", ["file", "template"])
def test_what_is_not_there_is_told_with_its_key(tmp_path: Path, kind: str) -> None:
    of = {"/etc/app": {kind: "config/app"}}
    words = f"there is no file {tmp_path}/config/app; correct the path, which begins in the inventory's folder"
    assert refusal(tmp_path, of) == f"services.web.files./etc/app.{kind}: {words}"
    assert list(files.problems(cluster(tmp_path, of))) == [(("services", "web", "files", "/etc/app", kind), words)]
    (tmp_path / "config/app").mkdir(parents=True)
    assert refusal(tmp_path, of).endswith(f"{tmp_path}/config/app is a folder; name a file in it")


def test_one_that_is_too_large_is_refused_with_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "app").write_bytes(b"x" * FILE_MAX_BYTES)
    of = {"/etc/app": {"file": "app"}}
    assert len(secret.load(cluster(tmp_path, of), KEY).contents["app"]) == FILE_MAX_BYTES
    (tmp_path / "app").write_bytes(b"x" * (FILE_MAX_BYTES + 7))
    assert f"{tmp_path}/app has {FILE_MAX_BYTES + 7} bytes, and {FILE_MAX_BYTES} are possible" in refusal(tmp_path, of)


def test_a_service_that_runs_nowhere_needs_no_file_but_check_tells(tmp_path: Path) -> None:
    elsewhere = {"services/web/instances": 0, "services/api/groups": ["app_hosts"]}
    nowhere = cluster(tmp_path, {"/etc/app": {"file": "app"}}, **elsewhere)
    assert secret.load(nowhere, KEY).contents == {}
    assert len(list(files.problems(nowhere))) == 1


def test_check_tells_the_line_of_the_yaml(tmp_path: Path) -> None:
    own = '    files:\n      /etc/app.conf:\n        file: conf/app.conf\n      /etc/t: {template: t.j2, mode: "0400", '
    own += 'owner: "7"}\n'
    (tmp_path / "inv.yaml").write_text(TEXT + own)
    (tmp_path / "t.j2").write_text("# {{ host }}\nlisten {{ prot }}\n")
    loaded, written = read.load_written(tmp_path / "inv.yaml")
    line = TEXT.count("\n")
    known = ", ".join(VARIABLES)
    assert [str(mistake) for mistake in offline.mistakes(loaded, written, {})] == [
        f"{tmp_path}/inv.yaml:{line + 3}: services.web.files./etc/app.conf.file: there is no file "
        f"{tmp_path}/conf/app.conf; correct the path, which begins in the inventory's folder",
        f"{tmp_path}/inv.yaml:{line + 4}: services.web.files./etc/t.template: t.j2:2: prot is not defined; a template "
        f"knows {known}",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\n{{ hots }}\n", "app.j2:2: hots is not defined; a template knows host, address, service, version, port,"),
        ("{% if port %}\n", "app.j2:1: Unexpected end of template. "),
        ("{{ " + "[" * 3000 + "}}", "app.j2:1: "),
        ("{{ ports | random }}\n", "app.j2:1: No filter named 'random'; mend the template"),
        ("{{ lipsum() }}\n", "app.j2:1: lipsum is not defined; a template knows "),
        ("a\n\n{{ port | nofilter }}\n", "app.j2:3: No filter named 'nofilter'; mend the template"),
        ("a\n{% include 'other' %}\n", "app.j2:2: a template stands alone here, and brings in no other; write the"),
        ("a\n\udcff", "app.j2:2: a template is UTF-8 text; save it as that, or name it as `file`"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_told_with_file_and_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "app.j2").write_bytes(text.encode(errors="surrogateescape"))
    assert refusal(tmp_path, {"/etc/app": {"template": "app.j2"}}).startswith(
        f"services.web.files./etc/app.template: {words}"
    )


def test_a_secret_of_a_file_has_many_lines_and_may_be_no_text(tmp_path: Path) -> None:
    binary = bytes([0, 255, 10])
    (tmp_path / "key").write_bytes(binary)
    of = {"/run/pem": {"env": "PEM"}, "/run/bin": {"command": ["cat", "key"]}}
    found = secret.load(cluster(tmp_path, of), KEY | {"PEM": PEM}).contents
    assert found == {SecretSource(env="PEM"): PEM.encode(), SecretSource(command=("cat", "key")): binary}


def test_one_that_is_a_variable_as_well_is_asked_for_once_and_is_one_line(tmp_path: Path) -> None:
    once = {"command": ["sh", "-c", "echo x >>asked; printf 'hunter2\\n'"]}
    both = cluster(tmp_path, {"/run/x": once}, **{"services/web/environment": {"X": once}})
    found = secret.load(both, KEY)
    source = SecretSource(command=tuple(once["command"]))
    assert (found.values[source], found.contents[source]) == ("hunter2", b"hunter2\n")
    assert (tmp_path / "asked").read_text() == "x\n"
    variable = cluster(tmp_path, {}, **{"services/web/environment": {"X": {"env": "PEM"}}})
    with pytest.raises(FiefdomError, match="X: the environment variable PEM holds a line break"):
        secret.load(variable, KEY | {"PEM": PEM})


def test_an_empty_secret_and_one_that_is_too_large_are_refused(tmp_path: Path) -> None:
    of = {"/run/x": {"env": "X"}}
    where = "services.web.files./run/x: the environment variable X"
    assert refusal(tmp_path, of, {"X": ""}) == f"{where} is empty; give it a value"
    assert refusal(tmp_path, of, {"X": "x" * (FILE_MAX_BYTES + 1)}).startswith(
        f"{where} has {FILE_MAX_BYTES + 1} bytes"
    )
    assert refusal(tmp_path, of) == f"{where} is not set; set it where Fiefdom runs"


def test_what_is_put_into_the_encrypted_file_may_have_the_lines_of_a_file() -> None:
    assert secret.given(b"hunter2\n", "x") == "hunter2"
    assert secret.given(PEM.encode(), "x") == PEM, "with the line break at its end"
    for data, words in ((b"", "is empty"), (b"a\nb\xff", "is not UTF-8"), (b"\0", "NUL")):
        with pytest.raises(FiefdomError, match=words):
            secret.given(data, "the value of x")


def test_config_shows_where_files_come_from_and_no_secret(tmp_path: Path) -> None:
    own = "    volumes: [{host: /srv/models, path: /models}]\n    files: {/etc/app: {text: hello}}\n"
    (tmp_path / "inv.yaml").write_text(TEXT + own)
    lines = [line.strip() for line in as_yaml(effective(*read.load_written(tmp_path / "inv.yaml"), "app1"))]
    at = f"  # {tmp_path}/inv.yaml:{TEXT.count(chr(10)) + 1}"
    assert f"volumes: [{{host: /srv/models, path: /models, each_instance: false}}]{at}" in lines
    assert any(line.startswith("text: hello  # ") for line in lines)


def test_a_source_of_the_inventory_replaces_that_of_the_group_data(tmp_path: Path) -> None:
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data/all.py").write_text("services = {'web': {'files': {'/etc/app': {'text': 'x'}}}}\n")
    (tmp_path / "inv.yaml").write_text(TEXT + "    files: {/etc/app: {file: app}}\n")
    loaded = read.load(tmp_path / "inv.yaml")
    assert loaded.services["web"].files["/etc/app"].file == "app"


def test_a_page_in_a_services_place_is_small_and_there(tmp_path: Path) -> None:
    page = tmp_path / "soon.html"

    def found() -> list[str]:
        route = {"maintenance": {"page": "soon.html"}}
        it = Cluster.model_validate(changed({"services/web/route": route, "base_dir": str(tmp_path)}))
        told = [f"{dotted(key)}: {says}" for key, says in files.problems(it)]
        if told:
            with pytest.raises(FiefdomError, match=re.escape(told[0])):
                secret.load(it, KEY)
        else:
            assert secret.load(it, KEY).contents == {"soon.html": page.read_bytes()}
        return told

    at = "services.web.route.maintenance.page: "
    assert found() == [f"{at}there is no file {page}; correct the path, which begins in the inventory's folder"]
    page.write_bytes(b"x" * 12_001)
    assert found() == [f"{at}{page} has 12001 bytes; a page has 1 to 12000, with what it needs in it"]
    page.write_bytes(b"<h1>soon</h1>")
    assert found() == []
