"""What a host held before Fiefdom: named in the plan, kept once, given back; the real scripts in a throw-away Debian.

systemd is the lab's to prove. Here a script stands for it, with a file for each unit.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fiefdom.converge import guest, originals, plan, snapshot, steps, steps_script, turn_steps
from fiefdom.converge.snapshot import Snapshot
from fiefdom.converge.steps import Phase
from fiefdom.converge.steps_script import Step
from fiefdom.desired import sshd
from fiefdom.desired.state import Block, Directory, File, HostState, Unit
from fiefdom.procedures.retire import _STAYS

pytestmark = pytest.mark.usefixtures("docker_here")

DAEMON = "/etc/docker/daemon.json"
KEPT = originals.DIR
FOUND = f"found there, replaced (kept in {KEPT})"
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"

# Docker mounts three of these files; a host has them on its disk.
DRESSED = """
umount /etc/hosts /etc/hostname /etc/resolv.conf
mkdir -p /etc/docker /etc/systemd/system /stub/enabled /stub/active /srv
printf '{"registry-mirrors": ["https://mirror.example"]}\\n' >/etc/docker/daemon.json
chmod 0640 /etc/docker/daemon.json && chown 0:4 /etc/docker/daemon.json
printf '127.0.0.1 localhost\\n127.0.1.1 old\\n192.0.2.7 nas\\n' >/etc/hosts
printf 'old\\n' >/etc/hostname
ln -sf /run/resolver/resolv.conf /etc/resolv.conf
printf '[Service]\\nExecStart=/usr/bin/theirs\\n' >/etc/systemd/system/mine.service
echo same >/srv/same
echo enabled >/stub/enabled/mine.service && : >/stub/active/mine.service
echo disabled >/stub/enabled/docker.service && : >/stub/active/docker.service
cat >/usr/local/bin/docker <<'END'
#!/bin/sh
END
cat >/usr/local/bin/systemctl <<'END'
#!/bin/sh
now=no
while :; do case $1 in -q | --no-block) shift ;; *) break ;; esac; done
verb=$1
shift
while :; do case $1 in --now) now=yes ;; -p) shift ;; --) ;; *) break ;; esac; shift; done
for unit; do
    state=$(cat "/stub/enabled/$unit" 2>/dev/null)
    active=inactive
    [ ! -e "/stub/active/$unit" ] || active=active
    case $verb in
    is-enabled) echo "${state:-not-found}" ;;
    is-active) echo "$active" && [ "$active" = active ] || exit 3 ;;
    enable | disable)
        echo "${verb}d" >"/stub/enabled/$unit"
        case $verb$now in enableyes) : >"/stub/active/$unit" ;; disableyes) rm -f "/stub/active/$unit" ;; esac
        ;;
    start | restart) : >"/stub/active/$unit" ;;
    stop) rm -f "/stub/active/$unit" ;;
    reload) echo "$unit" >>/stub/reloaded ;;
    show)
        load=not-found
        [ -z "$state" ] || load=loaded
        printf 'Id=%s\\nLoadState=%s\\nActiveState=%s\\nUnitFileState=%s\\n\\n' "$unit" $load $active "$state" ;;
    esac
done
END
chmod 0755 /usr/local/bin/*
"""
STATE = HostState(
    hostname="app1",
    directories=(Directory("/etc/docker"), Directory("/etc/fiefdom")),
    files=(
        File(DAEMON, b'{"icc": false}\n'),
        File("/etc/resolv.conf", b"nameserver 10.0.0.1\n"),
        File("/etc/systemd/system/mine.service", b"[Service]\nExecStart=/usr/bin/ours\n"),
        File("/srv/same", b"same\n"),
        File("/etc/fiefdom/new", b"new\n"),
    ),
    blocks=(Block("/etc/hosts", b"10.0.0.21\tapp1\n"),),
    units=(Unit("mine.service", config=("/etc/systemd/system/mine.service",)), Unit("docker.service")),
)
REPLACED = [DAEMON, "/etc/resolv.conf", "/etc/systemd/system/mine.service"]
BARE = HostState()


@dataclass(frozen=True)
class Host:
    """A running container."""

    id: str

    def shell(self, script: str, *, check: bool = True) -> str:
        command = ["docker", "exec", self.id, "sh", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not check or (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def _script(self, script: str, stdin: str) -> tuple[int, list[str]]:
        command = ["docker", "exec", "-i", self.id, "sh", "-c", script, "fiefdom", "10.0.0.9 50000 10.0.0.1 22"]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()

    def take(self, taken: tuple[Step, ...]) -> None:
        status, lines = self._script(steps_script.SCRIPT, steps_script.steps_text(taken))
        assert status == 0, lines

    def look(self, state: HostState) -> Snapshot:
        return snapshot.parse("app1", self._script(snapshot.SCRIPT, snapshot.query([state]))[1])

    def plan(self, state: HostState) -> plan.HostPlan:
        return plan.of_host("app1", state, self.look(state), {})

    def changes(self, state: HostState) -> dict[str, str]:
        return {c.name: c.why for c in self.plan(state).changes if c.kind != "record"}

    def converge(self, state: HostState) -> None:
        for phase in steps.phases(self.plan(state)):
            self.take(phase.steps)

    def retire(self) -> None:
        self.take(turn_steps.farewell(self.plan(BARE), _STAYS))

    def killed_at(self, number: int, act: Callable[[], None]) -> None:
        """Do something during which all dies at the call of `sync` of this number, if there are so many."""
        stub = f"#!/bin/sh\\necho >>/stub/synced\\n[ $(wc -l </stub/synced) -lt {number} ] || kill -9 -1\\n"
        stub += 'exec /usr/bin/sync "$@"'
        self.shell(
            f"rm -f /stub/synced; printf '%b\\n' '{stub}' >/usr/local/sbin/sync; chmod 0755 /usr/local/sbin/sync"
        )
        try:
            act()
        except AssertionError:
            pass
        else:
            assert int(self.shell("wc -l </stub/synced")) < number
        self.shell("rm /usr/local/sbin/sync")

    def everything(self) -> str:
        """Every file of the host's own, its content, mode and owner; its units, and its name."""
        found = "find /etc /srv /stub/enabled /stub/active ! -type d -printf '%y %m %U:%G %p %l\\n' | sort"
        return self.shell(f"{found}; find /etc /srv /stub/enabled -type f -exec sha256sum {{}} + | sort; hostname")

    def kept(self) -> list[str]:
        """What is left of Fiefdom's own folder."""
        return self.shell("find /var/lib/fiefdom* ! -type d 2>/dev/null | sort", check=False).splitlines()


@pytest.fixture
def host() -> Iterator[Host]:
    options = ["--network=none", "--hostname=old", "--cap-add=SYS_ADMIN"]
    command = ["docker", "run", "-d", "--rm", *options, "debian:trixie", "sleep", "900"]
    host = Host(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    try:
        host.shell(DRESSED)
        yield host
    finally:
        subprocess.run(["docker", "rm", "-f", host.id], capture_output=True, check=False)


def test_what_is_found_there_is_named_kept_once_and_comes_back(host: Host) -> None:
    before, kept = (
        host.everything(),
        "cd /var/lib/fiefdom/originals && find . ! -type d -exec stat -c '%a %u:%g %N' {} + | sort",
    )
    changes = host.changes(STATE)
    assert {path for path, why in changes.items() if FOUND in why} == set(REPLACED)
    assert FOUND not in changes["/etc/fiefdom/new"] and "/srv/same" not in changes
    host.converge(STATE)
    assert host.changes(STATE) == {}
    found = host.shell(kept)
    assert "640 0:4 './etc/docker/daemon.json'" in found
    assert "'./etc/resolv.conf' -> '/run/resolver/resolv.conf'" in found
    assert host.shell("stat -c '%a %U' /var/lib/fiefdom/originals") == "700 root\n"
    assert set(host.look(STATE).originals) == {*REPLACED, "/etc/hostname"}
    # Fiefdom's own are what changes from then on.
    other = HostState.together((HostState(files=tuple(File(f.path, b"other\n") for f in STATE.files)),))
    other = replace(STATE, files=other.files)
    changes = host.changes(other)
    assert [path for path, why in changes.items() if FOUND in why] == ["/srv/same"]
    host.converge(other)
    assert host.shell(kept).replace("644 0:0 './srv/same'\n", "") == found
    assert host.look(STATE).originals == dict.fromkeys((*REPLACED, "/etc/hostname", "/srv/same"), False)
    host.retire()
    assert host.everything() == before
    assert host.kept() == []
    assert host.shell("cat /stub/reloaded") == "docker.service\n"


def test_keys_of_its_own_go_on_in_fiefdoms_file_and_are_the_same_ones_in_every_later_run(host: Host) -> None:
    """Docker's daemon.json: read from what is there at first, and from the kept original ever after."""

    def wanted() -> HostState:
        return guest.adapted(STATE, (), host.look(STATE).guest)

    before, first = host.everything(), wanted()
    own = {"registry-mirrors": ["https://mirror.example"]}
    assert json.loads(first.file(DAEMON).content) == {"icc": False, **own}
    host.converge(first)
    # Nobody but root and its group could read the host's own.
    assert host.shell(f"stat -c %a {DAEMON}") == "600\n"
    assert json.loads(host.shell(f"cat {DAEMON}")) == {"icc": False, **own}
    assert wanted() == first and host.changes(wanted()) == {}
    # Drift is mended, and what was written by hand is no key of the host's own.
    host.shell(f"""echo '{{"mtu": 1400}}' >{DAEMON}""")
    assert wanted() == first and host.changes(wanted()) == {DAEMON: "content"}
    host.converge(wanted())
    assert host.changes(wanted()) == {}
    host.retire()
    assert host.everything() == before
    assert host.kept() == []


def test_what_the_inventory_drops_is_the_hosts_own_again(host: Host) -> None:
    before = host.everything()
    host.converge(STATE)
    changes = host.changes(HostState(hostname="app1"))
    assert changes[DAEMON] == "no longer in the inventory, what was there before comes back"
    assert changes["/etc/fiefdom/new"] == "no longer in the inventory"
    host.converge(HostState(hostname="app1"))
    assert host.changes(HostState(hostname="app1")) == {}
    # Its name is Fiefdom's still, and so is what it never made: that docker.service is on.
    assert set(host.look(BARE).originals) == {"/etc/hostname"}
    host.retire()
    assert host.everything() == before
    assert host.kept() == []


def test_what_somebody_wrote_since_is_told_and_kept_aside(host: Host) -> None:
    before = host.everything()
    host.converge(STATE)
    host.shell(f"echo by hand >{DAEMON}; rm /etc/resolv.conf")
    found = host.look(BARE)
    assert [path for path, by_hand in found.originals.items() if by_hand] == [DAEMON]
    assert host.changes(BARE)[DAEMON].endswith(f"it was changed by hand since, which is kept in {originals.CHANGED}")
    (words,) = originals.parting_words(found, _STAYS)
    assert words.startswith(f"{DAEMON}: what was there before Fiefdom comes back; it was changed by hand")
    host.retire()
    assert host.everything() == before
    assert host.kept() == [f"{originals.CHANGED}{DAEMON}.1"]
    assert host.shell(f"cat {originals.CHANGED}{DAEMON}.1") == "by hand\n"


@pytest.mark.parametrize("number", range(1, 11))
def test_a_run_that_dies_and_is_resumed_gives_back_the_same(host: Host, number: int) -> None:
    one = HostState(hostname="old", files=(File(DAEMON, b"{}\n"),), blocks=STATE.blocks)
    before = host.everything()
    host.killed_at(number, lambda: host.converge(one))
    host.converge(one)
    assert host.shell(f"cat {DAEMON}") == "{}\n"
    host.killed_at(number, host.retire)
    host.retire()
    assert host.everything() == before
    assert host.kept() == []


def test_a_block_stands_beside_the_hosts_own_lines_which_stay(host: Host) -> None:
    before = host.everything()
    block = STATE.blocks[0]
    assert host.changes(STATE)[block.path] == "beside what is there"
    host.converge(STATE)
    own = "127.0.0.1 localhost\n127.0.1.1 old\n192.0.2.7 nas\n"
    assert host.shell("cat /etc/hosts") == own + block.text.decode()
    # A host's own name keeps what its installer wrote of it.
    host.shell("sed -i 's/^127.0.1.1.*/127.0.1.1\tapp1.example.com app1/' /etc/hosts")
    assert host.changes(STATE) == {}
    assert host.shell("getent --no-addrconfig ahostsv4 app1 | head -n 1").split() == [
        "127.0.1.1",
        "STREAM",
        "app1.example.com",
    ]
    host.shell("sed -i '/^# fiefdom: begin/d; s/^127.0.1.1.*/127.0.1.1 old/' /etc/hosts")
    assert host.changes(STATE) == {block.path: "its marks are damaged; lines that are not Fiefdom's stay"}
    host.converge(STATE)
    assert host.shell("cat /etc/hosts") == own + block.text.decode()
    host.retire()
    assert host.everything() == before
    assert host.kept() == []


def test_what_an_earlier_fiefdom_wrote_whole_becomes_a_block_and_the_hosts_own_lines_come_back(host: Host) -> None:
    before = host.everything()
    whole = replace(
        STATE, files=(*STATE.files, File("/etc/hosts", b"# Managed by Fiefdom\n10.0.0.21 app1\n")), blocks=()
    )
    host.converge(whole)
    assert set(host.look(STATE).originals) == {*REPLACED, "/etc/hosts", "/etc/hostname"}
    assert list(host.changes(STATE)) == ["/etc/hosts"]
    host.converge(STATE)
    assert host.shell("cat /etc/hosts").startswith(
        "127.0.0.1 localhost\n127.0.1.1 old\n192.0.2.7 nas\n# fiefdom: begin"
    )
    assert set(host.look(STATE).originals) == {*REPLACED, "/etc/hostname"}
    host.retire()
    assert host.everything() == before
    assert host.kept() == []


def access(host: Host, state: HostState) -> Phase:
    (phase,) = (phase for phase in steps.phases(host.plan(state)) if phase.name == "access")
    assert phase.guarded is not None
    return phase


def test_what_lets_the_operator_in_stays_and_so_does_what_was_there_before(host: Host) -> None:
    host.shell(f"mkdir -p $(dirname {sshd.CONFIG}) && echo theirs >{sshd.CONFIG}")
    # As they are behind a guard, which wants systemd.
    own = HostState(files=(File(sshd.CONFIG, b"ours\n"),))
    arrival = access(host, own).steps
    host.take(tuple(s for s in arrival if s[0] in ("record", "stage", "place")))
    (words,) = originals.parting_words(host.look(BARE), _STAYS)
    assert words == f"{sshd.CONFIG} stays as it is, for it lets you in; what was there before is {KEPT}{sshd.CONFIG}"
    host.retire()
    assert host.shell(f"cat {sshd.CONFIG} {KEPT}{sshd.CONFIG}") == "ours\ntheirs\n"
    assert host.kept() == [f"{KEPT}.placed", f"{KEPT}{sshd.CONFIG}"]
    # Where Fiefdom comes again, the first of all stays the original, and a later one is not lost.
    host.shell(f"echo later >{sshd.CONFIG}")
    host.take(tuple(s for s in arrival if s[0] in ("record", "stage", "place")))
    assert (
        host.shell(f"cat {sshd.CONFIG} {KEPT}{sshd.CONFIG} {originals.CHANGED}{sshd.CONFIG}.1")
        == "ours\ntheirs\nlater\n"
    )


def test_a_change_that_is_taken_back_leaves_all_as_it_was_found(host: Host) -> None:
    path = "/etc/sysctl.d/60-fiefdom.conf"
    state = HostState(files=(File(path, b"# ours\n"),))
    host.shell(f"mkdir -p /etc/sysctl.d; echo '# theirs' >{path}; ln -s /usr/bin/true /usr/local/bin/systemd-run")
    guard, units = "sh /var/lib/fiefdom/guard/guard.sh", "rm -f /stub/enabled/fiefdom-revert*"
    back = f"GUARD_WITHIN=yes {guard} revert 'a test'; {units}"
    confirm = f"{guard} confirm $(cat /var/lib/fiefdom/guard/pending)"
    before = host.everything()
    host.take(access(host, state).steps)
    assert host.shell(f"cat {path} {KEPT}{path}") == "# ours\n# theirs\n"
    host.shell(back)
    assert host.everything() == before
    found = host.look(state)
    assert (found.originals, found.made) == ({}, frozenset())
    assert FOUND in host.changes(state)[path]
    # What was edited in between is what comes back in the end.
    host.shell(f"echo '# theirs too' >{path}")
    before = host.everything()
    host.take(access(host, state).steps)
    assert host.shell(f"{confirm}; {units}") == "confirmed\n"
    host.take(access(host, BARE).steps)
    assert host.shell(f"cat {path}") == "# theirs too\n"
    host.shell(back)
    assert host.shell(f"cat {path}") == "# ours\n"
    assert host.look(state).originals == {path: False}
    host.retire()
    assert host.everything() == before


def test_a_full_disk_keeps_what_is_there(host: Host) -> None:
    host.shell(
        "mkdir -p /var/lib/fiefdom && mount -t tmpfs -o size=64k tmpfs /var/lib/fiefdom;"
        f"head -c 100000 /dev/zero >{DAEMON}"
    )
    before = host.everything()
    text = steps_script.steps_text((("record", "file", DAEMON),))
    status, lines = host._script(steps_script.SCRIPT, text)
    assert status == 1
    assert lines[-1].startswith(f"fiefdom-failed\t{DAEMON}\twhat is there cannot be kept: ")
    assert host.everything() == before
    assert host.look(BARE).made == frozenset()


def test_the_pages_way_to_undo_it_by_hand_gives_everything_back(host: Host) -> None:
    section = PAGE.read_text().partition("## How to undo it\n")[2].partition("\n## ")[0]
    commands = "\n".join(re.findall(r"^    (.*)$", section, re.MULTILINE))
    assert "systemctl" in commands and "originals" in commands
    host.shell(f"mkdir -p $(dirname {sshd.CONFIG}) && echo theirs >{sshd.CONFIG}")
    own = HostState(files=(File(sshd.CONFIG, b"ours\n"),))
    host.take(tuple(s for p in steps.phases(host.plan(own)) for s in p.steps if s[0] in ("record", "stage", "place")))
    before = host.everything()
    host.converge(HostState.together((STATE, own)))
    host.shell(commands)
    # The operator's way in stays, the rest is as it was.
    assert host.everything() == before
    assert host.kept() == [f"{KEPT}.placed", f"{KEPT}{sshd.CONFIG}"]
