"""steps.sh in a throw-away Debian: what its steps leave behind, and that a step which fails leaves nothing."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fiefdom.converge import steps_script
from fiefdom.converge.steps_script import SCRIPT, TURN, Step, merged, steps_text

pytestmark = pytest.mark.usefixtures("docker_here")

# Quotes, command substitutions, variables, globs, options and the format letters of printf, all of them only text.
HOSTILE = '/srv/it\'s "$(touch /pwned)" `touch /pwned` ; touch /pwned & $HOME * \\n %s {} --help'


@dataclass(frozen=True)
class Debian:
    """A running container."""

    id: str

    def shell(self, script: str, *arguments: str) -> str:
        """Output of a script."""
        command = ["docker", "exec", self.id, "sh", "-c", script, "sh", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def take(self, *steps: Step) -> tuple[int, list[str]]:
        """Exit status and lines of steps.sh; one that succeeds says nothing on standard error."""
        command = ["docker", "exec", "-i", self.id, "sh", "-c", SCRIPT, "fiefdom"]
        text = steps_text(steps)
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode or not done.stderr
        return done.returncode, done.stdout.splitlines()

    def take_all(self, *steps: Step) -> None:
        """Take steps none of which may fail."""
        assert self.take(*steps) == (0, ["\t".join(["done", s[0], s[1] if s[1:] else ""]) for s in merged(steps)])

    def failure(self, *steps: Step) -> str:
        """What the script says of the step that fails."""
        status, lines = self.take(*steps)
        assert status == 1
        assert lines[-1].startswith("fiefdom-failed\t")
        return lines[-1].removeprefix("fiefdom-failed\t")

    def stat(self, *paths: str) -> list[str]:
        """Kind, mode, owner and group of paths."""
        return self.shell('stat -c "%F %a %u:%g" -- "$@"', *paths).splitlines()

    def exists(self, path: str) -> bool:
        """Whether there is anything at a path."""
        return self.shell('[ ! -e "$1" ] || echo yes', path) == "yes\n"

    def manifest(self) -> list[str]:
        """Lines of the manifest."""
        return self.shell("cat /var/lib/fiefdom/manifest").splitlines()

    def leftovers(self) -> str:
        """What a run must not leave: its staging folder, and half-written files beside their place."""
        return self.shell("find /srv /etc /var/lib/fiefdom -name '*.fiefdom' -o -name staging")


@pytest.fixture
def start() -> Iterator[Callable[..., Debian]]:
    ids = []

    def run(*options: str) -> Debian:
        command = ["docker", "run", "-d", "--rm", "--network=none", *options, "debian:trixie", "sleep", "600"]
        ids.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        return Debian(ids[-1])

    yield run
    subprocess.run(["docker", "rm", "-f", *ids], capture_output=True, check=False)


@pytest.fixture
def debian(start: Callable[..., Debian]) -> Debian:
    return start()


def stage(path: str, content: bytes, mode: str = "0644", owner: int = 0, group: int = 0) -> Step:
    return ("stage", path, mode, str(owner), str(group), base64.b64encode(content).decode())


@pytest.mark.parametrize("options", [(), ("--tmpfs=/var/lib/fiefdom",)], ids=["same disk", "another disk"])
def test_a_placed_file_has_its_content_mode_and_owner(start: Callable[..., Debian], options: tuple[str, ...]) -> None:
    debian = start(*options)
    debian.shell("mkdir -p /srv && echo old >/srv/link-target && ln -s link-target /srv/was-a-link")
    debian.take_all(
        stage("/srv/new folder/x", b"caf\xc3\xa9 \xff\n\n", "0640", 5, 990),
        stage("/srv/was-a-link", b"new\n"),
        stage("/srv/empty", b"", "4755"),
        ("check", "/srv/was-a-link", "grep", "-qx", "new", "{}"),
        ("place", "/srv/new folder/x"),
        ("place", "/srv/was-a-link"),
        ("place", "/srv/empty"),
    )
    assert debian.stat("/srv/new folder", "/srv/new folder/x", "/srv/was-a-link", "/srv/empty") == [
        "directory 755 0:0",
        "regular file 640 5:990",
        "regular file 644 0:0",
        "regular empty file 4755 0:0",
    ]
    assert base64.b64decode(debian.shell("base64 '/srv/new folder/x'")) == b"caf\xc3\xa9 \xff\n\n"
    assert debian.shell("cat /srv/link-target /srv/was-a-link") == "old\nnew\n"
    assert debian.leftovers() == ""


def test_two_paths_that_look_alike_keep_their_own_content(debian: Debian) -> None:
    debian.take_all(
        stage("/srv/a/b", b"one\n"), stage("/srv/a_b", b"two\n"), ("place", "/srv/a/b"), ("place", "/srv/a_b")
    )
    assert debian.shell("cat /srv/a/b /srv/a_b") == "one\ntwo\n"


def test_a_reader_sees_the_old_file_or_the_new_one(debian: Debian) -> None:
    """A rename gives another inode; a write into the file would be seen half done."""
    debian.shell("echo old >/srv/x; ln /srv/x /srv/held-open")
    debian.take_all(stage("/srv/x", b"new\n"), ("place", "/srv/x"))
    assert debian.shell("cat /srv/x /srv/held-open") == "new\nold\n"


def test_a_check_that_fails_places_nothing(debian: Debian) -> None:
    debian.shell("echo old >/srv/b")
    words = debian.failure(
        stage("/srv/a", b"fine\n"),
        stage("/srv/b", b"bad\n"),
        ("check", "/srv/a", "grep", "-q", "fine", "{}"),
        ("check", "/srv/b", "sh", "-c", "echo line 3: unknown word; exit 2", "sh", "{}"),
        ("place", "/srv/a"),
        ("place", "/srv/b"),
    )
    assert words == "/srv/b\trefused by sh: line 3: unknown word"
    assert not debian.exists("/srv/a")
    assert debian.shell("cat /srv/b") == "old\n"
    assert debian.leftovers() == ""


@pytest.mark.parametrize("options", [(), ("--tmpfs=/var/lib/fiefdom",)], ids=["same disk", "another disk"])
def test_a_secret_is_never_wider_than_its_mode(start: Callable[..., Debian], options: tuple[str, ...]) -> None:
    debian = start(*options)
    # Tools that first say how wide every file is that they are about to fill or move.
    watch = r"""
        for tool in base64 chown chmod sync mv; do
            printf '#!/bin/sh\nfor f in /proc/$$/fd/1 "$@"; do [ ! -f "$f" ] || stat -L -c "%%a" "$f" >>/tmp/modes; done
                exec /usr/bin/%s "$@"\n' $tool >/usr/local/bin/$tool
            chmod 0755 /usr/local/bin/$tool
        done
        rm -f /tmp/modes"""
    debian.shell(watch)
    debian.take_all(
        stage("/srv/secret", b"hunter2", "0400", 990, 990),
        (
            "check",
            "/srv/secret",
            "sh",
            "-c",
            'stat -c %a:%u "$1" >/tmp/checked; stat -c %a "${1%/*}" >>/tmp/checked',
            "sh",
            "{}",
        ),
        ("place", "/srv/secret"),
    )
    assert set(debian.shell("cat /tmp/modes").split()) == {"600", "400"}
    assert debian.shell("cat /tmp/checked").split() == ["400:990", "700"]
    assert debian.stat("/srv/secret") == ["regular file 400 990:990"]


def test_a_full_disk_places_nothing(start: Callable[..., Debian]) -> None:
    debian = start("--tmpfs=/var/lib/fiefdom:size=64k")
    words = debian.failure(
        ("record", "file", "/srv/small"),
        stage("/srv/small", b"x\n"),
        stage("/srv/large", b"x" * 100_000),
        ("place", "/srv/small"),
        ("place", "/srv/large"),
    )
    assert words.startswith("/srv/large\tcannot be staged: ")
    assert "KiB free" in words
    assert not debian.exists("/srv/small")
    assert debian.leftovers() == ""
    debian.take_all(stage("/srv/small", b"x\n"), ("place", "/srv/small"))  # and the next run has its room back


def test_a_full_target_keeps_the_old_file(start: Callable[..., Debian]) -> None:
    debian = start("--tmpfs=/srv:size=64k")
    debian.shell("echo old >/srv/x")
    assert debian.failure(stage("/srv/x", b"x" * 100_000), ("place", "/srv/x")).startswith(
        "/srv/x\tcannot be put into place: "
    )
    assert debian.shell("cat /srv/x; ls -A /srv") == "old\nx\n"


def test_the_manifest_stays_sorted_and_unique(debian: Debian) -> None:
    debian.take_all(
        ("record", "file", "/srv/b"),
        ("record", "file", "/srv/a.c"),
        ("record", "directory", "/srv/a name"),
        ("record", "file", "/srv/b"),
        ("record", "file", "/srv/aXc"),
    )
    assert debian.manifest() == ["directory\t/srv/a name", "file\t/srv/a.c", "file\t/srv/aXc", "file\t/srv/b"]
    debian.take_all(("forget", "file", "/srv/a.c"), ("forget", "file", "/srv/never"))
    assert debian.manifest() == ["directory\t/srv/a name", "file\t/srv/aXc", "file\t/srv/b"]
    debian.take_all(*(("forget", kind, name) for kind, name in (m.split("\t") for m in debian.manifest())))
    assert debian.manifest() == []


def test_a_folder_gets_its_mode_and_owner(debian: Debian) -> None:
    debian.shell("mkdir -m 0777 /srv/there; touch /srv/there/kept")
    debian.take_all(("directory", "/srv/there", "0750", "0", "4"), ("directory", "/srv/deep/new", "2700", "990", "990"))
    assert debian.stat("/srv/there", "/srv/there/kept", "/srv/deep/new") == [
        "directory 750 0:4",
        "regular empty file 644 0:0",
        "directory 2700 990:990",
    ]


def test_what_two_containers_use_is_for_both_until_it_is_the_new_ones_alone(debian: Debian) -> None:
    """990 made it and goes on; 65530 gets it. Each is a process without any capability, as in a container."""
    debian.shell("""
        mkdir -m 0700 /srv/state /srv/state/run && umask 077 && echo 990 >/srv/state/run/old && echo key >/srv/key
        ln -s /etc/shadow /srv/state/link && mkfifo /srv/state/pipe
        perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => "/srv/state/socket", Listen => 1) or die'
        chown -hR 990:990 /srv/state /srv/key && chmod 0400 /srv/key
    """)
    as_user = "setpriv --reuid=%s --regid=%s --clear-groups --bounding-set=-all sh -c"
    old, new = as_user % (990, 990), as_user % (65530, 65530)
    # In the place of the reload: what either of them does meanwhile. HAProxy links its socket when it reloads.
    debian.shell(f"""
        printf '#!/bin/sh\\n[ "$1" = reload ] || exit 0\\n%s\\n' '
            {old} "ln /srv/state/socket /srv/state/socket.bak; cat /srv/key >/dev/null" &&
            {new} "[ -w /srv/state/socket ]" &&
            {old} "umask 077; echo more >>/srv/state/run/old; mv /srv/state/run/old /srv/state/moved" &&
            {old} "umask 077; echo late >/srv/state/run/late" &&
            until {new} "cat /srv/state/run/late >/dev/null 2>&1"; do sleep 0.05; done &&
            {new} "umask 077; echo new >>/srv/state/run/late; echo own >/srv/state/own" &&
            {new} "cat /srv/key >/dev/null" &&
            until {old} "cat /srv/state/own >/dev/null 2>&1"; do sleep 0.05; done' >/usr/local/bin/systemctl
        chmod 0755 /usr/local/bin/systemctl""")
    moved = ("/srv/state", "0700"), ("/srv/key", "0400")
    debian.take_all(
        *(("lend", path, "990", "65530") for path, _ in moved),
        ("containers", "reload", "gateway.service"),
        *(("own", path, mode, "65530", "65530") for path, mode in moved),
    )
    assert debian.shell("cat /srv/state/moved /srv/state/run/late /srv/state/own").split() == [
        "990",
        "more",
        "late",
        "new",
        "own",
    ]
    assert debian.exists("/srv/state/socket.bak")
    assert debian.shell("find /srv/state /srv/key ! -user 65530 -o ! -group 65530") == ""
    assert debian.stat("/srv/state", "/srv/state/run", "/srv/key", "/srv/state/moved") == [
        "directory 700 65530:65530",
        "directory 700 65530:65530",
        "regular file 400 65530:65530",
        "regular file 600 65530:65530",
    ]
    assert debian.stat("/etc/shadow")[0].endswith(" 640 0:42"), "a link was followed"
    assert "sleep 0.1" not in debian.shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


def test_a_run_that_fails_ends_what_it_lends(debian: Debian) -> None:
    debian.shell("mkdir -m 0700 /srv/state && chown 990:990 /srv/state")
    assert debian.failure(("lend", "/srv/state", "990", "65530"), ("rm", "/srv")).startswith("rm\t")
    assert debian.stat("/srv/state") == ["directory 770 990:65530"]
    # Its lock is free again, too.
    debian.take_all(("lend", "/srv/state", "990", "65530"), ("own", "/srv/state", "0700", "65530", "65530"))
    assert debian.failure(("lend", "/srv/none", "990", "65530")).startswith(
        "/srv/none\tcannot be given to both containers: "
    )


def test_an_account_is_made_with_its_number_or_not_at_all(debian: Debian) -> None:
    # In the place of systemd's, which no image without systemd has.
    debian.shell("""
        printf '#!/bin/sh\\n%s\\n' '. "$1"' >/usr/local/bin/systemd-sysusers
        chmod 0755 /usr/local/bin/systemd-sysusers
        echo 'groupadd -g 65530 fiefdom && useradd -u 65530 -g 65530 fiefdom' >/etc/right
        echo 'groupadd -g 700 wrong && useradd -u 700 -g 700 wrong' >/etc/wrong
    """)
    debian.take_all(("account", "fiefdom", "65530", "/etc/right"))
    assert (
        debian.failure(("account", "wrong", "65531", "/etc/wrong"))
        == "wrong\twas to have the number 65531 and has 700:700"
    )
    assert debian.failure(("account", "x", "65532", "/etc/none")).startswith("x\tcannot be made: ")
    debian.shell("setpriv --reuid=700 --clear-groups --regid=700 sleep 600 >/dev/null 2>&1 &")
    debian.shell("until grep -qs '^Uid:.700' /proc/[0-9]*/status; do sleep 0.05; done")
    status, lines = debian.take(("remove-account", "wrong"), ("remove-account", "fiefdom"), ("remove-account", "never"))
    assert status == 0
    assert lines[0] == "fiefdom-note\tthe account wrong stays, for something runs as it"
    assert debian.shell("getent passwd fiefdom wrong; getent group fiefdom || true").startswith("wrong:")


def test_removal_leaves_what_others_put_there(debian: Debian) -> None:
    debian.shell("mkdir -p /srv/empty /srv/shared; touch /srv/ours /srv/shared/ours /srv/shared/theirs")
    debian.take_all(
        ("remove-file", "/srv/ours"),
        ("remove-file", "/srv/shared/ours"),
        ("remove-file", "/srv/long-gone"),
        ("remove-directory", "/srv/shared"),
        ("remove-directory", "/srv/empty"),
    )
    assert debian.shell("find /srv -mindepth 1").split() == ["/srv/shared", "/srv/shared/theirs"]


def test_an_unknown_step_fails_and_ends_the_run(debian: Debian) -> None:
    words = debian.failure(("directory", "/srv/a", "0755", "0", "0"), ("rm", "-rf", "/srv"), ("remove-file", "/srv/b"))
    assert words == "rm\tis not a step this script knows"
    assert debian.stat("/srv/a") == ["directory 755 0:0"]
    assert debian.leftovers() == ""


def test_a_sysctl_that_does_not_exist_is_one_sentence(debian: Debian) -> None:
    assert debian.failure(("sysctl", "/proc/sys/net/core/no_such", "1")).startswith("/proc/sys/net/core/no_such\t")


def fake_apt(debian: Debian, body: str) -> None:
    """In place of apt-get: a script that finds its verb in $verb."""
    verb = "for verb; do case $verb in update | install | upgrade) break ;; esac; done"
    debian.shell('printf "#!/bin/sh\n%s\n%s\n" "$1" "$2" >$0 && chmod 755 $0'.replace("$0", APT), verb, body)


APT = "/usr/local/sbin/apt-get"


def test_locks_that_apt_itself_does_not_wait_for_are_waited_for(debian: Debian) -> None:
    lists = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 9 (apt-get)"
    archives = "E: Could not get lock /var/cache/apt/archives/lock. It is held by process 9 (apt-get)"
    fake_apt(
        debian,
        f'echo "$verb" >>/calls; [ "$(grep -c "$verb" /calls)" -gt 1 ] && exit\n'
        f'[ "$verb" = update ] && echo "{lists}" || echo "{archives}"; exit 100',
    )
    debian.take_all(("packages", "curl"))
    assert debian.shell("cat /calls").split() == ["update", "update", "install", "install"]


def test_what_could_not_be_reached_is_why_nothing_is_found(debian: Debian) -> None:
    gone = "Err:1 http://10.99.0.1:9/gone stable InRelease"
    fake_apt(
        debian,
        f'[ "$verb" != update ] || {{ echo "{gone}"; exit 0; }}\necho "E: Unable to locate package curl"; exit 100',
    )
    status, lines = debian.take(("packages", "curl"))
    assert (status, lines) == (
        1,
        ["fiefdom-log\tapt-get install\tE: Unable to locate package curl", f"fiefdom-failed\tapt-get install\t{gone}"],
    )


def test_a_host_without_lists_fetches_no_words_of_packages_and_one_that_has_them_keeps_them(debian: Debian) -> None:
    fake_apt(debian, 'echo "$*" >>/calls')
    debian.shell("rm -f /var/lib/apt/lists/*Translation*")
    debian.take_all(("packages", "curl"))
    debian.shell("touch /var/lib/apt/lists/deb.debian.org_debian_dists_trixie_main_i18n_Translation-en.lz4")
    debian.take_all(("packages", "curl"))
    updates = [call for call in debian.shell("cat /calls").splitlines() if " update" in call]
    assert [call.partition(" update")[2] for call in updates] == [" -o Acquire::Languages=none", ""]


def test_an_upgrade_brings_kernels_which_are_packages_of_another_name(debian: Debian) -> None:
    fake_apt(debian, 'echo "$*" >>/calls')
    debian.take_all(("upgrade",))
    update, upgrade = debian.shell("cat /calls").splitlines()
    assert update.endswith(" update")
    assert upgrade.endswith(" upgrade --with-new-pkgs --no-install-recommends")


def test_field_values_are_data(debian: Debian) -> None:
    debian.take_all(
        stage(HOSTILE, HOSTILE.encode()),
        ("check", HOSTILE, "grep", "-qF", "$(touch /pwned)", "{}"),
        ("check", HOSTILE, "sh", "-c", '[ "$2" = "$(cat "$1")" ]', "sh", "{}", HOSTILE),
        ("record", "file", HOSTILE),
        ("place", HOSTILE),
        ("directory", f"{HOSTILE}.d", "0755", "0", "0"),
    )
    assert debian.shell('cat "$1"', HOSTILE) == HOSTILE
    assert debian.manifest() == [f"file\t{HOSTILE}"]
    assert debian.exists(f"{HOSTILE}.d")
    debian.take_all(("remove-directory", f"{HOSTILE}.d"), ("remove-file", HOSTILE), ("forget", "file", HOSTILE))
    assert not debian.exists(HOSTILE) and not debian.exists(f"{HOSTILE}.d")
    assert debian.failure((HOSTILE, HOSTILE)) == f"{HOSTILE}\tis not a step this script knows"
    assert not debian.exists("/pwned")


def test_runs_take_turns(debian: Debian) -> None:
    """The second waits for the first one's lock instead of tearing its staging folder away."""
    slow = steps_script.steps_text([stage("/srv/x", b"x\n"), ("check", "/srv/x", "sleep", "1.5"), ("place", "/srv/x")])
    command = ["docker", "exec", "-i", debian.id, "sh", "-c", steps_script.SCRIPT, "fiefdom"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as first:
        assert first.stdin is not None
        first.stdin.write(slow)
        first.stdin.close()
        debian.shell("until [ -e /var/lib/fiefdom/staging ]; do sleep 0.05; done")
        debian.take_all(("remove-file", "/srv/x"))
        assert first.wait() == 0
    assert not debian.exists("/srv/x")


@pytest.mark.parametrize(("until", "words"), [("+ 45", r"[34]\d s"), ("- 3", "0 s"), ("+ 90000", "0 s")])
def test_nothing_is_made_while_a_change_may_still_be_taken_back(debian: Debian, until: str, words: str) -> None:
    """The timer restores the manifest as well, and would forget it."""
    debian.shell(
        "mkdir -p /var/lib/fiefdom/guard && touch /var/lib/fiefdom/guard/pending;"
        f"echo $(($(cut -d . -f 1 /proc/uptime) {until})) >/var/lib/fiefdom/guard/until"
    )
    said = debian.failure(("record", "file", "/srv/x"), stage("/srv/x", b"x"), ("place", "/srv/x"))
    waits = "an earlier change waits for its confirmation; it takes itself back within"
    assert re.fullmatch(rf"/var/lib/fiefdom/guard\t{waits} ({words}): try again then", said)
    assert not debian.exists("/srv/x") and not debian.exists("/var/lib/fiefdom/manifest")
    debian.shell("rm /var/lib/fiefdom/guard/pending")
    debian.take_all(("record", "file", "/srv/x"))


# --- Turns: what they keep, and the way back

# systemd and docker are the lab's to prove. Here they write down what they are asked; a file stands for a container.
STUBS = r"""
mkdir -p /stub/containers /stub/broken
cat >/usr/local/bin/docker <<'END'
#!/bin/sh
echo "docker $*" >>/stub/log
for last; do :; done
case $1 in
inspect)
    [ -e "/stub/containers/$last" ] || exit 1
    case $* in *.Image*) cat "/stub/containers/$last" ;; *) cut -f 1 "/stub/containers/$last" ;; esac ;;
rename) mv "/stub/containers/$2" "/stub/containers/$3" ;;
rm) rm -f "/stub/containers/$last" ;;
esac
END
cat >/usr/local/bin/systemctl <<'END'
#!/bin/sh
case $1 in -q) shift ;; esac
case $1 in is-active) [ ! -e "/stub/broken/$2" ] && [ "$2" != fiefdom-turn.service ]; exit ;; reset-failed) exit ;; esac
case $1 in is-enabled) [ ! -e "/stub/masked/$2" ] || echo masked; exit ;; esac
echo "systemctl $*" >>/stub/log
verb=$1
shift
for unit; do
    [ ! -e "/stub/broken/$unit" ] || [ "$verb" = stop ] || status=1
    case $verb:$unit in restart:*-web@8000.*) printf 'id-new\timage-new\tweb:2\n' >/stub/containers/web-8000 ;; esac
done
exit "${status:-0}"
END
cat >/usr/local/bin/systemd-run <<'END'
#!/bin/sh
for word; do
    case $word in
    --property=StandardInput=file:*) from=${word#*file:} ;;
    --property=StandardOutput=append:*) to=${word#*append:} ;;
    esac
    last=$word
done
exec /bin/sh "$last" <"$from" >>"$to"
END
chmod 0755 /usr/local/bin/*
printf 'id-old\timage-old\tweb:1\n' >/stub/containers/web-8000
mkdir -p /srv && printf 'old' >/srv/env && chmod 0640 /srv/env && chown 5:6 /srv/env
"""
OFFER = "fiefdom-offer-web.service"
KEPT: tuple[Step, ...] = (
    ("keep", "begin", "turn-1"),
    ("keep", "file", "/srv/env"),
    ("keep", "file", "/srv/conf"),
    ("keep", "container", "web-8000", "fiefdom-web@8000.service"),
    ("keep", "offer", OFFER),
    ("keep", "done"),
)
STAGED: tuple[Step, ...] = (stage("/srv/env", b"new", "0600"), stage("/srv/conf", b"new"))
REPLACED: tuple[Step, ...] = (
    ("containers", "stop", OFFER),
    ("place", "/srv/env"),
    ("place", "/srv/conf"),
    ("containers", "restart", "fiefdom-web@8000.service"),
)
BAD: Step = ("sysctl", "/proc/sys/no/such", "1")
BACK = "fiefdom-restored\t"


@pytest.fixture
def stubbed(debian: Debian) -> Debian:
    debian.shell(STUBS)
    return debian


def log(debian: Debian) -> list[str]:
    """What systemd and docker were asked to change since the last time."""
    lines = debian.shell("cat /stub/log 2>/dev/null; rm -f /stub/log").splitlines()
    return [line for line in lines if not line.startswith("docker inspect")]


def is_old(debian: Debian) -> bool:
    """Whether the files are those of before the turn: content, mode, owner, and none that was not there."""
    assert debian.stat("/srv/env") == ["regular file 640 5:6"]
    return debian.shell("cat /srv/env") == "old" and not debian.exists("/srv/conf")


def test_a_turn_that_fails_puts_everything_back_and_keeps_what_failed_aside(stubbed: Debian) -> None:
    status, lines = stubbed.take(*STAGED, *KEPT, ("say", "replace"), *REPLACED, BAD)
    assert status == 1
    failed = next(i for i, line in enumerate(lines) if line.startswith("fiefdom-failed\t/proc/sys/no/such\t"))
    assert lines[failed + 1] == "fiefdom-stage\trestore"
    assert lines[failed + 2].startswith(BACK) and len(lines) == failed + 3
    assert is_old(stubbed)
    assert stubbed.leftovers() == "" and not stubbed.exists("/var/lib/fiefdom/previous/unfinished")
    assert stubbed.shell("cat /stub/containers/web-8000.failed") == "id-new\timage-new\tweb:2\n"
    assert log(stubbed)[-8:] == [
        f"systemctl stop {OFFER}",
        "docker tag image-old web:1",
        "systemctl stop fiefdom-web@8000.service",
        "docker rm -f web-8000.failed",
        "docker rename web-8000 web-8000.failed",
        "systemctl daemon-reload",
        "systemctl start fiefdom-web@8000.service",
        f"systemctl start {OFFER}",
    ]


def test_a_turn_that_fails_puts_back_what_went_to_another_disk(start: Callable[..., Debian]) -> None:
    debian = start("--tmpfs=/var/lib/fiefdom")
    debian.shell(STUBS)
    status, lines = debian.take(*STAGED, *KEPT, *REPLACED, BAD)
    assert status == 1 and lines[-1].startswith(BACK)
    assert is_old(debian) and debian.leftovers() == ""


def test_a_reload_that_fails_says_why_although_the_old_one_serves_on(stubbed: Debian) -> None:
    stubbed.shell(
        "for tool in systemctl journalctl; do rm -f /usr/local/bin/$tool; done;"
        "printf '#!/bin/sh\ncase $1 in reload) echo Job failed.; exit 1 ;; is-active) echo active ;; esac\n'"
        " >/usr/local/bin/systemctl;"
        "printf '#!/bin/sh\necho gateway: the successor ended before it had taken over\n' >/usr/local/bin/journalctl;"
        "chmod 755 /usr/local/bin/*"
    )
    assert stubbed.failure(("containers", "reload", "fiefdom-gateway.service")) == (
        "fiefdom-gateway.service\tthe successor ended before it had taken over"
    )


def test_a_service_that_does_not_come_up_ends_nothing_and_fails_the_run(stubbed: Debian) -> None:
    """It is offered with the instance that came up; another one whose instances are all dead is not waited for."""
    stubbed.shell("touch /stub/broken/fiefdom-web@8001.service /stub/broken/fiefdom-sick@9000.service")
    status, lines = stubbed.take(
        ("instances", "fiefdom-web@8000.service", "fiefdom-web@8001.service", "fiefdom-sick@9000.service"),
        ("offer", "start", OFFER, "fiefdom-web@8000.service", "fiefdom-web@8001.service"),
        ("offer", "start", "fiefdom-offer-sick.service", "fiefdom-sick@9000.service"),
        ("record", "file", "/srv/after"),
    )
    assert status == 1
    sick = [line.split("\t")[1] for line in lines if line.startswith("fiefdom-sick\t")]
    assert sick == ["fiefdom-web@8001.service", "fiefdom-sick@9000.service"]
    assert not any(line.startswith("fiefdom-failed") for line in lines)
    assert "done\trecord\tfile" in lines
    done = log(stubbed)
    assert f"systemctl start {OFFER}" in done
    assert "systemctl --no-block start fiefdom-offer-sick.service" in done


def test_a_unit_that_somebody_masked_ends_nothing_and_is_told_once(stubbed: Debian) -> None:
    unit = "fiefdom-web@8001.service"
    stubbed.shell(f"mkdir -p /stub/masked; touch /stub/broken/{unit} /stub/masked/{unit}")
    status, lines = stubbed.take(
        ("unit", unit, "enable", "", ""),
        ("instances", "fiefdom-web@8000.service", unit),
        ("record", "file", "/srv/after"),
    )
    assert status == 1 and "done\trecord\tfile" in lines
    told = [line for line in lines if line.startswith(("fiefdom-sick\t", "fiefdom-failed\t"))]
    assert told == [f"fiefdom-sick\t{unit}\tit is masked, and starts again after systemctl unmask {unit} there"]


def test_a_service_whose_instance_does_not_start_is_offered_by_itself_once_it_does(stubbed: Debian) -> None:
    """An offer waits for its instances, so its start is asked for and not waited for."""
    stubbed.shell("touch /stub/broken/fiefdom-web@8001.service")
    resting: tuple[Step, ...] = (("rest", OFFER), ("containers", "stop", OFFER))
    assert stubbed.failure(*resting, ("containers", "restart", "fiefdom-web@8001.service")).startswith(
        "fiefdom-web@8001.service\t"
    )
    assert log(stubbed)[-1] == f"systemctl --no-block start {OFFER}"
    stubbed.take_all(*resting, ("containers", "restart", "fiefdom-web@8000.service", OFFER))
    assert log(stubbed)[-1] == f"systemctl start {OFFER}"  # which is up
    stubbed.take_all(("containers", "stop", OFFER))
    assert log(stubbed) == [f"systemctl stop {OFFER}"]


@pytest.mark.parametrize("how", ["replace", "aside"])
def test_a_turn_that_did_well_goes_back_when_asked(stubbed: Debian, how: str) -> None:
    assert stubbed.take(*STAGED, *KEPT, *REPLACED, ("settled",))[0] == 0
    assert stubbed.shell("cat /srv/env /srv/conf") == "newnew"
    status, lines = stubbed.take(("kept", "turn-1"), ("say", "restore"), ("restore", how))
    assert status == 0 and any(line.startswith(BACK) for line in lines)
    assert is_old(stubbed)
    assert stubbed.exists("/stub/containers/web-8000.failed") == (how == "aside")


def test_what_another_turn_kept_is_left_alone(stubbed: Debian) -> None:
    """A turn that failed before it kept anything must not be undone with the way back of the release before it."""
    assert stubbed.take(*STAGED, *KEPT, *REPLACED, ("settled",))[0] == 0
    log(stubbed)
    stubbed.failure(stage("/srv/env", b"newer"), ("check", "/srv/env", "false"), ("keep", "begin", "turn-2"))
    status, lines = stubbed.take(("kept", "turn-2"), ("say", "drain"), ("restore", "aside"))
    assert status == 0 and [line.startswith(BACK) for line in lines] == [True]
    assert stubbed.shell("cat /srv/env /srv/conf") == "newnew"
    assert log(stubbed) == []


def test_without_anything_kept_there_is_no_way_back(stubbed: Debian) -> None:
    status, lines = stubbed.take(("restore", "aside"))
    assert (status, lines) == (
        1,
        ["fiefdom-not-restored\t/var/lib/fiefdom/previous\tnothing was kept of an earlier release"],
    )


def test_a_turn_that_was_killed_leaves_its_older_state_to_the_next(stubbed: Debian) -> None:
    """A power cut after the files were placed: the next turn keeps what was there before the first, and its own."""
    stubbed.shell("echo w >/srv/other")
    assert stubbed.take(*STAGED, *KEPT, *REPLACED, ("settled",))[0] == 0
    stubbed.shell("touch /var/lib/fiefdom/previous/unfinished")  # as if it had ended one step before
    status, lines = stubbed.take(
        stage("/srv/other", b"newer"),
        ("keep", "begin", "turn-2"),
        *KEPT[1:-1],
        ("keep", "file", "/srv/other"),
        ("keep", "done"),
        ("place", "/srv/other"),
        BAD,
    )
    assert status == 1 and lines[-1].startswith(BACK)
    assert is_old(stubbed)
    assert stubbed.shell("cat /srv/other") == "w\n"


def test_a_way_back_that_misses_a_file_says_so_and_stays_unfinished(stubbed: Debian) -> None:
    assert stubbed.take(*STAGED, *KEPT, *REPLACED, ("settled",))[0] == 0
    stubbed.shell(
        "touch /var/lib/fiefdom/previous/unfinished; rm /srv/env && mkdir /srv/env && touch /srv/env/in-the-way"
    )
    status, lines = stubbed.take(("restore", "replace"))
    assert status == 1
    assert any(line.startswith("fiefdom-not-restored\t/srv/env\t") for line in lines)
    assert not any(line.startswith(BACK) for line in lines)
    assert stubbed.exists("/var/lib/fiefdom/previous/unfinished")
    assert f"systemctl start {OFFER}" in log(stubbed)  # and the host serves all the same


def test_a_unit_that_does_not_come_back_is_named(stubbed: Debian) -> None:
    assert stubbed.take(*STAGED, *KEPT, *REPLACED, ("settled",))[0] == 0
    stubbed.shell("touch /stub/broken/fiefdom-web@8000.service")
    status, lines = stubbed.take(("restore", "aside"))
    assert (status, lines[-1]) == (1, "fiefdom-not-restored\tfiefdom-web@8000.service\tdid not start")


@pytest.mark.parametrize("size_kib", [32, 48, 64, 72, 76, 80, 84, 88])
def test_a_full_disk_while_keeping_changes_nothing(start: Callable[..., Debian], size_kib: int) -> None:
    """Whichever write is the one without room: the copy, the list of copies, the mark."""
    debian = start(f"--tmpfs=/var/lib/fiefdom:size={size_kib}k")
    debian.shell(STUBS)
    debian.shell("head -c 60000 /dev/zero >/srv/large")
    steps = (("keep", "begin", "t"), ("keep", "file", "/srv/large"), *KEPT[1:], *REPLACED[:1], BAD)
    status, lines = debian.take(*steps)
    assert status == 1
    if not debian.exists("/var/lib/fiefdom/previous"):
        assert lines[-1].startswith("fiefdom-failed\t") and "KiB free" in lines[-1]
        assert log(debian) == []
    else:  # it had room: then for all of it
        assert lines[-1].startswith(BACK)
    assert is_old(debian)


def test_a_turn_holds_the_whole_of_apply_and_prints_what_it_prints(stubbed: Debian) -> None:
    assert SCRIPT in TURN and "@APPLY@" not in TURN
    assert "FIEFDOM_APPLY" not in SCRIPT
    steps = steps_text([*STAGED, *KEPT, ("say", "replace"), *REPLACED, ("settled",)])
    command = ["docker", "exec", "-i", stubbed.id, "sh", "-c", TURN, "fiefdom"]
    done = subprocess.run(command, input=steps, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "done\tsettled\t"
    assert "fiefdom-stage\treplace" in done.stdout.splitlines()
    assert stubbed.shell("cat /srv/env") == "new"
    # Steps hold secrets.
    assert not stubbed.exists("/run/fiefdom/turn/steps")
    assert stubbed.stat("/run/fiefdom/turn") == ["directory 700 0:0"]


def test_pulls_take_the_registrys_password_where_there_is_one(debian: Debian) -> None:
    stub = '#!/bin/sh\necho "${DOCKER_CONFIG:-none} $*" >>/pulled\n'
    debian.shell('printf %s "$1" >/usr/local/bin/docker && chmod 755 /usr/local/bin/docker', stub)
    config = "/etc/fiefdom/docker/config.json"
    debian.take_all(("pull", "r/team/web:1"))
    debian.take_all(stage(config, b"{}", "0600"), ("place", config), ("pull", "r/team/web:2"))
    assert debian.shell("cat /pulled").splitlines() == [
        "none pull -q r/team/web:1",
        "/etc/fiefdom/docker pull -q r/team/web:2",
    ]


def test_what_a_digest_names_is_pulled_by_it_and_has_the_name_that_hosts_know(debian: Debian) -> None:
    stub = '#!/bin/sh\necho "$*" >>/pulled\n[ "$1 $2" != "tag r/web@sha256:2" ] || { echo no room; exit 1; }\n'
    debian.shell('printf %s "$1" >/usr/local/bin/docker && chmod 755 /usr/local/bin/docker', stub)
    debian.take_all(("pull", "r/web:1", "r/web@sha256:1"))
    assert debian.shell("cat /pulled").splitlines() == ["pull -q r/web@sha256:1", "tag r/web@sha256:1 r/web:1"]
    assert debian.failure(("pull", "r/web:2", "r/web@sha256:2")) == "r/web:2\tcannot be named: no room"


def test_a_farewell_takes_the_memory_of_it_all(debian: Debian) -> None:
    debian.take_all(("record", "file", "/srv/x"), ("erase",))
    assert not debian.exists("/var/lib/fiefdom")


# --- Units that have another name now


def test_a_unit_is_let_go_with_nothing_of_its_end_and_what_somebody_added_to_it_stays(stubbed: Debian) -> None:
    folder = "/run/systemd/system/web@8000.service.d"
    look = f'[ "$1" != daemon-reload ] || cat {folder}/zz*.conf >>/stub/log'
    stubbed.shell(f"sed -i '2i {look}' /usr/local/bin/systemctl; mkdir -p {folder}; touch {folder}/theirs.conf")
    stubbed.shell("mkdir -p /var/lib/fiefdom/stamps; touch /var/lib/fiefdom/stamps/gateway.service")
    stubbed.take_all(("let-go", "web@8000.service", "gateway.service"))
    assert log(stubbed) == [
        *("[Service]", "ExecStop=", "KillSignal=SIGKILL", "SuccessExitStatus=SIGKILL"),
        "systemctl daemon-reload",
        "systemctl disable --now web@8000.service gateway.service",
    ]
    assert stubbed.shell(f"ls {folder}") == "theirs.conf\n"
    assert not stubbed.exists("/run/systemd/system/gateway.service.d")
    assert not stubbed.exists("/var/lib/fiefdom/stamps/gateway.service")


def test_what_an_unfinished_turn_kept_goes_back_under_the_name_of_now(stubbed: Debian) -> None:
    index = (
        "file\\t/srv/env\\nfile\\t/etc/systemd/system/web@.service\\nfile\\t/etc/systemd/system/web-2@.service\\n"
        "container\\tweb-8000\\tweb@8000.service\\tid\\timage\\tweb:1\\n"
        "container\\tweb-2-8000\\tweb-2@8000.service\\tid\\timage\\tweb:1\\n"
    )
    stubbed.shell(f"mkdir -p /var/lib/fiefdom/previous; printf '{index}' >/var/lib/fiefdom/previous/index")
    stubbed.take_all(("renamed", "web@8000.service", "fiefdom-web@8000.service"))
    assert stubbed.shell("cut -f 1-3 /var/lib/fiefdom/previous/index").splitlines() == [
        "file\t/srv/env",
        "file\t/etc/systemd/system/web-2@.service",
        "container\tweb-8000\tfiefdom-web@8000.service",
        "container\tweb-2-8000\tweb-2@8000.service",
    ]
    assert stubbed.shell("cut -f 4- /var/lib/fiefdom/previous/index").splitlines()[-1] == "id\timage\tweb:1"
