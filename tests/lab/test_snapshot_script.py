"""What the snapshot script tells of a real Debian, in a container that nobody converged."""

from __future__ import annotations

import subprocess

import pytest

from fiefdom.converge import snapshot
from fiefdom.converge.snapshot import FoundFile, Snapshot
from fiefdom.desired import gateway
from fiefdom.desired.state import Account, Directory, File, HostState, Image, Package, Sysctl, Unit, digest

pytestmark = pytest.mark.usefixtures("docker_here")


def on_debian(prepare: str, state: HostState, *options: str) -> Snapshot:
    """What the script finds in a fresh Debian after ``prepare``."""
    start = f'{prepare}\nexec sh -c "$0" fiefdom "10.0.0.9 50000 10.0.0.1 22"'
    done = subprocess.run(
        [
            "docker",
            "run",
            "--rm",
            "-i",
            "--network=none",
            *options,
            "debian:trixie",
            "sh",
            "-c",
            start,
            snapshot.SCRIPT,
        ],
        input=snapshot.query([state]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return snapshot.parse("app1", done.stdout.splitlines())


def test_the_script_tells_what_a_debian_holds() -> None:
    prepare = """
        printf 'x\\n' >'/etc/a $(name)' && chmod 0640 '/etc/a $(name)' && chown 0:4 '/etc/a $(name)' && : >/etc/empty
        : >"/etc/an 'other'"
        mkdir -m 0750 /etc/fiefdom && ln -s empty /etc/link
        mkdir -p /var/lib/fiefdom/stamps /var/lib/fiefdom/containers /var/lib/fiefdom/gateway
        printf 'abc line 3\\nand more' >/var/lib/fiefdom/gateway/refused
        printf 'container\\tweb-1\\nfile\\t/etc/a b\\n' >/var/lib/fiefdom/manifest
        groupadd --system --gid 700 mine && useradd --system --uid 700 --gid 700 mine && groupadd --gid 65530 others
        echo 'abc -' >/var/lib/fiefdom/stamps/x.service
        echo 'spec facts' >/var/lib/fiefdom/containers/web-1
    """
    paths = ("/etc/a $(name)", "/etc/an 'other'", "/etc/empty", "/etc/link", "/etc/missing")
    found = on_debian(
        prepare,
        HostState(
            packages=(Package("coreutils"), Package("no-such-package")),
            accounts=(Account("mine", 65530, ""), Account("nobody", 700, ""), Account("nowhere", 65531, "")),
            directories=(Directory("/etc/fiefdom"),),
            files=tuple(File(path, b"") for path in paths),
            sysctls=(Sysctl("net.core.somaxconn", "1"), Sysctl("net.ipv4.ip_local_port_range", "1 2")),
            units=(Unit("x.service", live=("printf", "rules")),),
        ),
        "--sysctl=net.ipv4.ip_local_port_range=2000 3000",
        "--hostname=app1",
    )
    assert {p: f for p, f in found.files.items() if f.kind != "symbolic link"} == {
        "/etc/a $(name)": FoundFile("regular file", 0o640, 0, 4, digest("x\n")),
        "/etc/an 'other'": FoundFile("regular empty file", 0o644, 0, 0, digest("")),
        "/etc/empty": FoundFile("regular empty file", 0o644, 0, 0, digest("")),
        "/etc/fiefdom": FoundFile("directory", 0o750, 0, 0),
    }
    assert found.files["/etc/link"].kind == "symbolic link"
    assert (found.uid, found.distribution, found.codename, found.client) == (0, "debian", "trixie", "10.0.0.9")
    assert (found.docker, found.hostname, found.static_hostname) == ("absent", "app1", "app1")
    assert found.free_kib is not None and found.free_kib > 0
    assert list(found.packages) == ["coreutils"]
    assert set(found.sysctls) == {"net/core/somaxconn", "net/ipv4/ip_local_port_range"}
    assert found.sysctls["net/ipv4/ip_local_port_range"] == "2000 3000"
    assert found.made == {("container", "web-1"), ("file", "/etc/a b")}
    assert (found.stamps, found.container_stamps) == ({"x.service": "abc -"}, {"web-1": "spec facts"})
    assert found.live == {"x.service": digest("rules")}
    assert found.refused == {gateway.HAPROXY_CONFIG: "abc line 3"}
    assert found.users == {"mine": (700, 700), "nobody": (65534, 65534)}
    assert found.groups == {"mine": 700, "others": 65530}


def test_the_script_reads_nothing_but_files() -> None:
    """A device has no end, and nobody may ever write into a pipe."""
    paths = ("/dev/zero", "/etc/to-zero", "/etc/pipe", "/etc/to-hostname")
    prepare = (
        "ln -s /dev/zero /etc/to-zero && mkfifo /etc/pipe && ln -s hostname /etc/to-hostname && echo x >/etc/hostname"
    )
    found = on_debian(prepare, HostState(files=tuple(File(path, b"") for path in paths))).files
    assert {path: (found[path].kind, found[path].digest is not None) for path in paths} == {
        "/dev/zero": ("character special file", False),
        "/etc/to-zero": ("symbolic link", False),
        "/etc/pipe": ("fifo", False),
        "/etc/to-hostname": ("symbolic link", True),
    }


def test_the_script_tells_a_login_file_without_what_it_shows() -> None:
    text = b'{\n  "auths": {\n    "r.org": {\n      "auth": "YW5uOm9uZQ=="\n    }\n  }\n}\n'
    files = tuple(File(path, text, login=True) for path in ("/etc/login", "/etc/other", "/etc/missing"))
    there = text.decode().replace("YW5uOm9uZQ==", "YW5uOnR3bw==")
    prepare = f"printf %s '{there}' >/etc/login && sed 's/r.org/s.org/' /etc/login >/etc/other"
    found = on_debian(prepare, HostState(files=files))
    login, other, _ = files
    assert found.files["/etc/login"].digest == login.digest
    assert found.files["/etc/other"].digest not in (None, other.digest)
    assert "/etc/missing" not in found.files


def test_the_script_needs_no_room_on_the_disk() -> None:
    """Its notes are in memory: a host whose disk is full has to tell that."""
    fill = "head -c 1M /dev/zero >/tmp/full 2>/dev/null || :"
    state = HostState(units=(Unit("x.service", live=("printf", "rules")),))
    found = on_debian(fill, state, "--tmpfs=/tmp:size=64k", "--tmpfs=/run")
    assert found.live == {"x.service": digest("rules")} and found.free_kib is not None


def test_the_script_follows_no_link_of_the_gateways_user() -> None:
    prepare = "mkdir -p /var/lib/fiefdom/gateway && ln -s /etc/shadow /var/lib/fiefdom/gateway/refused"
    assert on_debian(prepare, HostState()).refused == {}


def test_the_script_tells_a_single_sysctl_by_its_name() -> None:
    found = on_debian("", HostState(sysctls=(Sysctl("net.core.somaxconn", "1"),)), "--sysctl=net.core.somaxconn=4321")
    assert found.sysctls == {"net/core/somaxconn": "4321"}


def test_the_script_tells_who_has_the_last_word_on_settings_at_boot() -> None:
    prepare = """
        mkdir -p /etc/sysctl.d /usr/lib/sysctl.d && rm -rf /run/sysctl.d
        echo 'vm.swappiness = 1' >/usr/lib/sysctl.d/99-a.conf && echo 'vm.swappiness = 1' >/usr/lib/sysctl.d/50-a.conf
        echo '-net.ipv4.tcp_syncookies=0' >/etc/sysctl.d/98-b.conf && echo 'kernel.sysrq=1' >/etc/sysctl.d/10-b.conf
        echo 'vm.overcommit_memory = 1' >/usr/lib/sysctl.d/97-c.conf && ln -s /dev/null /etc/sysctl.d/97-c.conf
    """
    assert on_debian(prepare, HostState()).sysctls_by == {
        "vm.swappiness": "/usr/lib/sysctl.d/99-a.conf",
        "net.ipv4.tcp_syncookies": "/etc/sysctl.d/98-b.conf",
    }


def test_the_script_tells_a_silent_dockerd() -> None:
    fake = "printf '#!/bin/sh\\necho no daemon >&2; exit 1\\n' >/usr/bin/docker && chmod 0755 /usr/bin/docker"
    assert on_debian(fake, HostState(images=(Image("a:1"),))).docker == "down"


def test_the_script_says_so_where_it_is_not_root() -> None:
    found = on_debian("", HostState(files=(File("/etc/passwd", b""),)), "--user=1000")
    assert (found.uid, found.codename, found.files) == (1000, "trixie", {})
