"""What the snapshot script prints, as values: recorded, broken off, hostile, and from a real Debian."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fiefdom.converge import snapshot
from fiefdom.converge.snapshot import (
    Disk,
    FoundContainer,
    FoundFile,
    FoundImage,
    FoundUnit,
    Snapshot,
    StoredImage,
)
from fiefdom.desired import gateway, sshd
from fiefdom.desired.programs import text_of
from fiefdom.desired.state import Codename, Container, Directory, File, HostState, Image, Package, Sysctl, Unit, digest
from fiefdom.errors import FiefdomError, HostError
from fiefdom.model import references

SHA = "0c15e883dee85bb2f3540a47ec58f617a2547117f9096417ba5422268029f501"
NOTHING = ""  # two units are parted by a record without a value; and what ends in a blank or a tab
NONE = "<no value>"
RECORDED = f"""\
snapshot	1
uid	0
client	10.1.0.2
os	debian	trixie
docker	up
image	fiefdom/predictor:1.0.0	sha256:aa	{SHA}	{NOTHING}
image	team/web:7	sha256:bb	<no value>	team/web@sha256:{SHA} r.org/web@sha256:22 {NOTHING}
stored	sha256:aa	{SHA}	"2026-11-29T16:02:03.5Z"	named	sha256:l1 sha256:l2
stored	sha256:cc	<no value>	"0001-01-01T00:00:00Z"		sha256:l1
used	sha256:cc
container	/predictor-8000	true	sha256:aa	spec1	instance	1.0.0	predictor-8000	900	a,b	10.1.0.2 	{SHA}
container	/by-hand	false	sha256:bb	{NONE}	{NONE}	{NONE}	{NONE}	{NONE}	{NONE}		{SHA}
hostname	app1	app1
free-kib	79471416
disk	102400000	5000000
user	fiefdom	65530	65530
user	backup	34	34
group	fiefdom	65530
file	/etc/x.conf	regular file	644	0	0
file	/etc/a name	regular empty file	400	990	990
file	/etc/fiefdom	directory	1755	0	0
file	/etc/os-release	symbolic link	777	0	0
digest	/etc/x.conf	{SHA}
digest	/etc/a name	{SHA}
package	curl	installed	8.14.1-2
package	wget	config-files	1.25
package	dpkg	installed	1.22.21	arm64
kept-image	sha256:bb
unit	Id=x.service
unit	LoadState=loaded
unit	ActiveState=active
unit	SubState=running
unit	UnitFileState=enabled
unit	NeedDaemonReload=yes
unit	ConditionResult=yes
unit	ConditionTimestampMonotonic=12
unit	{NOTHING}
unit	Id=never.service
unit	LoadState=loaded
unit	ActiveState=inactive
unit	SubState=dead
unit	UnitFileState=disabled
unit	NeedDaemonReload=no
unit	ConditionResult=no
unit	ConditionTimestampMonotonic=0
unit	{NOTHING}
unit	Id=unfit.service
unit	ConditionResult=no
unit	ConditionTimestampMonotonic=7
sysctl	/proc/sys/net/core/somaxconn:4096
sysctl	/proc/sys/net/ipv4/ip_local_port_range:32768	60999
made	file	/etc/x.conf
made	container	predictor-8000
original	/etc/x.conf	changed
original	/etc/a name	-
unit-before	x.service
stamp	/var/lib/fiefdom/stamps/x.service:{SHA} -
stamp	/var/lib/fiefdom/containers/predictor-8000:spec1 {SHA}
live	x.service	{SHA}
refused	/etc/fiefdom/gateway/haproxy.cfg	{SHA} line 3

end""".splitlines()


def test_a_recorded_answer_becomes_values() -> None:
    assert snapshot.parse("app1", RECORDED) == Snapshot(
        uid=0,
        distribution="debian",
        codename="trixie",
        client="10.1.0.2",
        docker="up",
        hostname="app1",
        static_hostname="app1",
        free_kib=79471416,
        disk=Disk(102400000, 5000000),
        architecture="arm64",
        users={"fiefdom": (65530, 65530), "backup": (34, 34)},
        groups={"fiefdom": 65530},
        files={
            "/etc/x.conf": FoundFile("regular file", 0o644, 0, 0, SHA),
            "/etc/a name": FoundFile("regular empty file", 0o400, 990, 990, SHA),
            "/etc/fiefdom": FoundFile("directory", 0o1755, 0, 0),
            "/etc/os-release": FoundFile("symbolic link", 0o777, 0, 0),
        },
        packages={"curl": "8.14.1-2"},
        units={
            "x.service": FoundUnit("loaded", "active", "running", "enabled", needs_reload=True),
            "never.service": FoundUnit("loaded", "inactive", "dead", "disabled"),
            "unfit.service": FoundUnit(condition_failed=True),
        },
        sysctls={"net/core/somaxconn": "4096", "net/ipv4/ip_local_port_range": "32768 60999"},
        images={
            "fiefdom/predictor:1.0.0": FoundImage("sha256:aa", SHA),
            "team/web:7": FoundImage("sha256:bb", digests=frozenset({f"sha256:{SHA}", "sha256:22"})),
        },
        stored={
            "sha256:aa": StoredImage(SHA, "2026-11-29T16:02:03.500000000", True, ("sha256:l1", "sha256:l2")),
            "sha256:cc": StoredImage("", "0001-01-01T00:00:00.000000000", False, ("sha256:l1",)),
        },
        used=frozenset({"sha256:cc"}),
        kept_images=frozenset({"sha256:bb"}),
        containers={
            "predictor-8000": FoundContainer(
                True, "sha256:aa", "spec1", "instance", "1.0.0", True, SHA, 900, "10.1.0.2", ("a", "b")
            ),
            "by-hand": FoundContainer(False, "sha256:bb", "", "", "", False, SHA),
        },
        stamps={"x.service": f"{SHA} -"},
        container_stamps={"predictor-8000": f"spec1 {SHA}"},
        live={"x.service": SHA},
        refused={"/etc/fiefdom/gateway/haproxy.cfg": f"{SHA} line 3"},
        made=frozenset({("file", "/etc/x.conf"), ("container", "predictor-8000")}),
        originals={"/etc/x.conf": True, "/etc/a name": False},
        units_before=frozenset({"x.service"}),
    )


@pytest.mark.parametrize("cut", range(2, len(RECORDED)))
def test_an_answer_that_broke_off_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(FiefdomError, match=r"^app1: the snapshot broke off"):
        snapshot.parse("app1", RECORDED[:cut])


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["sudo: a password is required"],
        ["uid\t0", "os\tdebian", "end"],
        ["uid\t0", "file\t/etc/x\tregular file\trw-r--r--\t0\t0", "end"],
    ],
)
def test_what_is_no_answer_is_refused_with_the_hosts_name(lines: list[str]) -> None:
    with pytest.raises(FiefdomError, match=r"^app1: "):
        snapshot.parse("app1", lines)


def test_a_user_who_is_not_root_ends_the_answer_early() -> None:
    found = snapshot.parse("app1", ["snapshot\t1", "uid\t1000", "client\t", "os\tdebian\ttrixie"])
    assert (found.uid, found.codename, found.docker) == (1000, "trixie", "absent")


KINDS = sorted({line.partition("\t")[0] for line in RECORDED})
fields = st.one_of(st.text(max_size=8), st.sampled_from([*KINDS, "0", "-1", "²", "٣", "Id=x", "/proc/sys/", SHA]))
hostile_lines = st.one_of(
    st.text(max_size=30), st.sampled_from(RECORDED), st.lists(fields, max_size=10).map("\t".join), st.just("end")
)


@pytest.mark.long
@given(st.lists(hostile_lines, max_size=40))
@example(["uid\t" + "9" * 5000, "end"])
@example([*RECORDED[:-1], "free-kib\t" + "9" * 5000, "end"])
@example([*RECORDED[:-1], "disk\t9\t" + "9" * 5000, "end"])
@settings(max_examples=300, deadline=None)
def test_no_answer_raises_anything_but_a_sentence(lines: list[str]) -> None:
    try:
        snapshot.parse("app1", lines)
    except FiefdomError as error:
        assert str(error).startswith("app1: ")


def test_a_query_asks_for_what_any_release_may_need_once() -> None:
    one = HostState(
        packages=(Package("curl"),),
        directories=(Directory("/etc/fiefdom"),),
        files=(File("/etc/x", b"secret words", secret=True), File("/etc/login", b"", login=True)),
        sysctls=(Sysctl("net.core.somaxconn", "1"), Sysctl("net/ipv4/conf/eth0.1/rp_filter", "2")),
        units=(Unit("x.service", live=("nft", "list", "ruleset")),),
        images=(Image("team/web:7"),),
        containers=(Container("web-9000", "fiefdom-web@9000.service", "instance", "team/web:7", ()),),
    )
    other = HostState(files=(File("/etc/x", b""), File("/etc/y", b"")))
    disk, containers, *rest = snapshot.query([one, other], "/srv/docker").splitlines()
    assert disk == "disk\t/srv/docker", "the script looks for it in the first line"
    assert containers.startswith("container-format\t{{.Name}}")
    assert rest == [
        "file\t/etc/x",
        "file\t/etc/login",
        "login\t/etc/login",
        "file\t/etc/fiefdom",
        "package\tcurl",
        "unit\tx.service",
        "sysctl\t/proc/sys/net/core/somaxconn",
        "sysctl\t/proc/sys/net/ipv4/conf/eth0.1/rp_filter",
        "image\tteam/web:7",
        "repository\tteam/web",
        "container\tweb-9000",
        "unit\tweb@9000.service",
        "live\tx.service\tnft list ruleset",
        "file\t/etc/y",
    ]


def test_of_each_debian_its_own_drop_in_is_asked_about() -> None:
    states: dict[Codename, HostState] = {
        "bookworm": HostState(files=(File(sshd.CONFIG, b"Port 12\n"),)),
        "trixie": HostState(files=(File(sshd.CONFIG, b"Port 13\n"), File("/etc/x", b"secret"))),
    }
    lines = [line.split("\t") for line in snapshot.query_of(states).splitlines() if line.startswith("sshd\t")]
    assert [(word, name, path, base64.b64decode(text)) for word, name, path, text in lines] == [
        ("sshd", "bookworm", sshd.CONFIG, b"Port 12\n"),
        ("sshd", "trixie", sshd.CONFIG, b"Port 13\n"),
    ]


def test_what_sshd_says_is_taken_by_the_sentence() -> None:
    said = [
        "sshd\tX11Forwarding is yes, wanted no: /etc/x line 1",
        "sshd\tsshd does not read it",
        "loses\tbob\tpassword",
        "unforwarded\troot\tno",
    ]
    found = snapshot.parse("app1", ["uid\t0", *said, "end"])
    assert found.sshd == ("X11Forwarding is yes, wanted no: /etc/x line 1", "sshd does not read it")
    assert (found.loses, found.unforwarded) == ({"bob": "password"}, {"root": "no"})


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("team/web:7", "team/web"),
        ("web", "web"),
        ("docker.io/library/web:7", "web"),
        ("registry.example.org:5000/team/web:7", "registry.example.org:5000/team/web"),
        ("registry.example.org:5000/web", "registry.example.org:5000/web"),
        ("team/web@sha256:" + SHA, "team/web"),
        ("team/web:7@sha256:" + SHA, "team/web"),
    ],
)
def test_a_repository_is_a_reference_without_tag_and_digest(ref: str, name: str) -> None:
    assert references.repository(ref) == name


def test_where_docker_is_to_keep_images_is_asked_for() -> None:
    states: dict[Codename, HostState] = {
        "trixie": HostState(files=(File("/etc/docker/daemon.json", b'{"data-root": "/srv/docker"}'),))
    }
    assert snapshot.query_of(states).startswith("disk\t/srv/docker\n")
    assert snapshot.query_of({"trixie": HostState()}).startswith("disk\t/var/lib/docker\n")


DOCKER = """#!/bin/sh
case $1 in
  ps) cat "$ROOT/containers" ;;
  image) cat "$ROOT/listed" ;;
  inspect)
    shift
    [ "$1" != --type ] || shift 2
    format=$2
    printf '%s\\n' "$format" >>"$ROOT/asked"
    shift 2
    printf '%s\\n' "$@" >"$ROOT/inspected"
    for name; do
      case $name:$format in
        web-1:"{{if"*) printf 'container\\t/web-1\\ttrue\\tsha256:aa\\tspec\\tinstance\\t7\\tweb-1\\t\\t\\t\\n' ;;
        *:"{{if"*) printf 'used\\t%s\\n' "$name" && continue ;;
      esac
      printf '/web-1 "sha256:aa" "1000"\\n%s\\n' "$ENVIRONMENT"
    done
    ;;
esac
"""
CONTAINERS = (
    "id1\tweb-1\tweb-1\tUp 3 days\t1.2.3.4:8000->8000/tcp\n"
    "id2\t\ttheirs,web/alias\tUp 3 days\t0.0.0.0:80->80/tcp\n"
    "id3\t\tquiet\tUp 3 days\t\n"
    "id4\t\tended\tExited (0) 3 days ago\t0.0.0.0:81->81/tcp\n"
    "id5\t\tlooping\tRestarting (1) 3 seconds ago\t0.0.0.0:82->82/udp\n"
)


def programs(folder: Path) -> None:
    """A Docker with one container of ours and one of somebody's, and what makes root of whoever runs the tests."""
    for name, text in {"docker": DOCKER, "id": "#!/bin/sh\necho 0\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "listed").write_text("")
    (folder / "containers").write_text(CONTAINERS)


LISTED = """\
sha256:7\tteam/web\t7
sha256:6\tteam/web\t6
sha256:8\tregistry:5000/web\t7
sha256:5\tpostgres\t15
sha256:4\tgone/service\t1
sha256:3\t<none>\t<none>
"""


@pytest.mark.parametrize(
    ("images", "inspected"),
    [
        (("team/web:7",), ["team/web:7", "sha256:3", "sha256:4", "sha256:6"]),
        # What is to come may be made of anything.
        (("team/web:8",), ["team/web:8", *(f"sha256:{n}" for n in "345678")]),
        ((), ["sha256:3", "sha256:4"]),
    ],
)
def test_the_script_asks_of_images_that_may_have_to_go(
    tmp_path: Path, images: tuple[str, ...], inspected: list[str]
) -> None:
    programs(tmp_path)
    (tmp_path / "listed").write_text(LISTED)
    (tmp_path / "manifest").write_text("brought\tgone/service:1\nbrought\tnot/there:1\nfile\tpostgres:15\n")
    (tmp_path / "index").write_text(
        "container\tweb-1\tweb@1.service\tid\tsha256:6\tteam/web:6\ncontainer\tx\ty\t-\t-\t-\n"
    )
    script = snapshot.SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={tmp_path}:")
    script = script.replace("/var/lib/fiefdom/manifest", f"{tmp_path}/manifest")
    script = script.replace("/var/lib/fiefdom/previous/index", f"{tmp_path}/index")
    query = snapshot.query([HostState(images=tuple(map(Image, images)))], f"{tmp_path}/none/yet")
    words = ["sh", "-c", script, "fiefdom", "10.0.0.9 50000 10.0.0.1 22"]
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ROOT": str(tmp_path), "ENVIRONMENT": ""}
    done = subprocess.run(words, input=query, env=env, capture_output=True, text=True, check=True, timeout=60)
    asked = (tmp_path / "inspected").read_text().splitlines()
    strangers = {"id2", "id3", "id4", "id5"}
    assert set(asked[:5]) == {"web-1", *strangers}, "containers before images"
    assert sorted(asked[5:]) == sorted(inspected)
    found = snapshot.parse("app1", done.stdout.splitlines())
    assert strangers <= found.used and "web-1" not in found.used
    assert list(found.containers) == ["web-1"]
    told = [(one.process, one.protocol, one.port) for one in found.guest.publishes]
    assert told == [("container theirs", "tcp", 80), ("container looping", "udp", 82)]
    assert found.kept_images == {"sha256:6"}
    size = os.statvfs(tmp_path)
    assert found.disk is not None
    assert found.disk.size_kib == size.f_blocks * size.f_frsize // 1024, "of the folder that is there already"
    assert 0 < found.disk.free_kib <= found.disk.size_kib


def test_the_script_asks_of_a_container_and_finds_what_its_supervisor_stamps(tmp_path: Path) -> None:
    programs(tmp_path)
    secret = '["TOKEN=s3cret"]'
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ROOT": str(tmp_path), "ENVIRONMENT": secret}

    def said(script: str, *arguments: str, stdin: str = "") -> str:
        words = ["sh", "-c", script, "fiefdom", *arguments]
        done = subprocess.run(words, input=stdin, env=env, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    script = snapshot.SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={tmp_path}:")
    lines = said(script, "10.0.0.9 50000 10.0.0.1 22", stdin=snapshot.query([HostState()])).splitlines()
    assert not any("s3cret" in line for line in lines)
    facts = said(text_of("container"), "facts", "web-1")
    assert facts == f'/web-1 "sha256:aa" "1000"\nenv {digest(secret)}\n'
    web = snapshot.parse("app1", lines).containers["web-1"]
    assert web == FoundContainer(True, "sha256:aa", "spec", "instance", "7", True, digest(facts))
    _, *by_script, by_supervisor, environment = (tmp_path / "asked").read_text().splitlines()
    assert by_script == [by_supervisor, environment + "{{end}}{{end}}"]


def look(folder: Path) -> Snapshot:
    """What the script finds on a host with these `programs`, where nothing is wanted."""
    script = snapshot.SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={folder}:")
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "ROOT": str(folder), "ENVIRONMENT": "[]"}
    words = ["sh", "-c", script, "fiefdom", "10.0.0.9 50000 10.0.0.1 22"]
    query = snapshot.query([HostState()])
    done = subprocess.run(words, input=query, env=env, capture_output=True, text=True, check=True, timeout=60)
    return snapshot.parse("app1", done.stdout.splitlines())


def test_containers_are_found_among_thousands_of_others(tmp_path: Path) -> None:
    """Each argument of a program is 128 KiB long at most, which is the ids of 2,000; all are 2 MiB, of 28,000."""
    programs(tmp_path)
    others = [f"{number:064x}" for number in range(30_000)]
    more = "".join(f"{other}\t\tby-hand-{other}\tExited (0)\t\n" for other in others)
    (tmp_path / "containers").write_text(CONTAINERS + more)
    found = look(tmp_path)
    assert list(found.containers) == ["web-1"]
    assert found.used >= set(others)


def test_a_label_with_lines_hides_no_container_and_no_image(tmp_path: Path) -> None:
    """Whoever runs a container may label it with any text."""
    programs(tmp_path)
    as_it_is = """printf 'id6\\tx\\n-\\ny\\tlabelled\\tUp\\t\\n'"""
    ps = f"""  ps) case $5 in *'{{{{.Label "fiefdom.name"}}}}'*) {as_it_is} ;; esac; cat """
    labelled = DOCKER.replace("  ps) cat ", ps)
    assert labelled != DOCKER
    (tmp_path / "docker").write_text(labelled)
    assert list(look(tmp_path).containers) == ["web-1"]


def test_a_look_that_has_no_room_for_its_notes_breaks_off(tmp_path: Path) -> None:
    """What is read of a container by half would be another container, to be replaced."""
    programs(tmp_path)
    (tmp_path / "mktemp").write_text(f"#!/bin/sh\necho {tmp_path}/none\n")
    (tmp_path / "mktemp").chmod(0o755)
    script = snapshot.SCRIPT.replace("export LC_ALL=C PATH=", f"export LC_ALL=C PATH={tmp_path}:")
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ROOT": str(tmp_path), "ENVIRONMENT": "[]"}
    words = ["sh", "-c", script, "fiefdom", "10.0.0.9 50000 10.0.0.1 22"]
    query = snapshot.query([HostState()])
    done = subprocess.run(words, input=query, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "container\t" not in done.stdout
    with pytest.raises(HostError, match="broke off"):
        snapshot.parse("app1", done.stdout.splitlines())


def test_the_script_knows_where_a_gateway_says_what_it_refused() -> None:
    assert f"word={gateway.STATE_DIR}/refused\n" in snapshot.SCRIPT
    assert f"refused\\t{gateway.HAPROXY_CONFIG}\\t" in snapshot.SCRIPT
