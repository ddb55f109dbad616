"""Blocks of Fiefdom's in files that are somebody else's: planned, placed and taken out again by the real scripts.

A folder stands for the host.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fiefdom.converge import diffs, plan, snapshot, steps, steps_script
from fiefdom.converge.snapshot import FoundFile, Snapshot
from fiefdom.converge.steps_script import Step
from fiefdom.desired.state import BLOCK_MARK, Block, File, HostState, digest

OWN = "127.0.0.1 localhost\n127.0.1.1\tapp1.example.com app1\n\n# ours\n192.0.2.7 nas\n"
LINES = b"10.1.0.21\tapp1\n10.1.0.22\tapp2\n"
AROUND = b"127.0.0.1 localhost\n::1 ip6-localhost\n"
BEGIN, END = f"{BLOCK_MARK} begin", f"{BLOCK_MARK} end"
FORMER = "# Managed by Fiefdom: edit the inventory, not this file.\n127.0.0.1 localhost\n\n10.1.0.21 app1\n"


@dataclass(frozen=True)
class Host:
    """A folder with one file that somebody else's lines are in."""

    root: Path

    @property
    def path(self) -> Path:
        return self.root / "hosts"

    @property
    def state(self) -> Path:
        return self.root / "state"

    def block(self, content: bytes = LINES) -> Block:
        return Block(str(self.path), content, around=AROUND)

    def text(self, content: bytes = LINES) -> str:
        return self.block(content).text.decode()

    def take(self, *taken: Step, code: int = 0) -> str:
        script = steps_script.SCRIPT.replace("/var/lib/fiefdom", str(self.state))
        command = ["sh", "-c", script, "fiefdom"]
        done = subprocess.run(
            command, input=steps_script.steps_text(taken), capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stderr) == (code, ""), done.stdout
        return done.stdout

    def look(self) -> Snapshot:
        """What the script's own lines tell of the block, and what the host says that is Fiefdom's."""
        script = snapshot.SCRIPT
        part = script[script.index("host_paths() {") : script.index("# shellcheck disable=SC2086 # what is asked")]
        own = self.path.parent / "own"
        own.mkdir(exist_ok=True)
        script = f"""tab=$(printf '\\t') newline='\n' own={own} kept={own}/kept IFS='\n'
            asked_file='' asked_block=$1 asked_login='' asked_live=''
            {part}
            host_paths && host_files | host_records
        """
        words = ["sh", "-c", script, "fiefdom", str(self.path)]
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        told = [line for line in done.stdout.splitlines() if line.startswith("block\t")]
        manifest = self.state / "manifest"
        made = [f"made\t{line}" for line in manifest.read_text().splitlines()] if manifest.exists() else []
        kept = self.state / f"originals{self.path}"
        made += [f"original\t{self.path}\t-"] * kept.exists()
        made += [f"file\t{self.path}\tregular file\t644\t0\t0"] * self.path.exists()
        return snapshot.parse("app1", ["uid\t0", "os\tdebian\ttrixie", *told, *made, "end"])

    def plan(self, *blocks: Block) -> plan.HostPlan:
        return plan.of_host("app1", HostState(blocks=blocks), self.look(), {})

    def changes(self, *blocks: Block) -> list[str]:
        return [f"{c.sign} {c.kind}: {c.why}" for c in self.plan(*blocks).changes if c.kind != "record"]

    def converge(self, *blocks: Block) -> None:
        for phase in steps.phases(self.plan(*blocks)):
            self.take(*phase.steps)
        assert self.changes(*blocks) == []

    def was_fiefdoms(self, *, original: str | None, claimed: bool = True) -> None:
        """As a Fiefdom left it that wrote the whole file."""
        self.path.write_text(FORMER)
        self.state.mkdir()
        (self.state / "manifest").write_text(f"file\t{self.path}\n" if claimed else "")
        if original is not None:
            kept = self.state / f"originals{self.path}"
            kept.parent.mkdir(parents=True)
            kept.write_text(original)
            (self.state / "originals.placed").write_text(f"{digest(FORMER)}\t{self.path}\n")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    host.path.write_text(OWN)
    yield host
    assert not (host.state / "staging").exists()


def test_it_comes_after_the_hosts_own_lines_and_goes_without_them(host: Host) -> None:
    host.path.chmod(0o664)
    assert host.changes(host.block()) == ["+ block: beside what is there"]
    host.converge(host.block())
    assert host.path.read_text() == OWN + host.text()
    assert host.path.stat().st_mode & 0o777 == 0o664
    assert (host.state / "manifest").read_text() == f"block\t{host.path}\n"
    assert not (host.state / "originals").exists()
    assert host.changes() == ["- block: no longer in the inventory"]
    host.converge()
    assert host.path.read_text() == OWN
    assert (host.state / "manifest").read_text() == ""


def test_what_is_outside_is_no_drift_and_stays_around_it(host: Host) -> None:
    host.converge(host.block())
    host.path.write_text(f"# first\n{host.path.read_text()}192.0.2.8 later\n")
    assert host.changes(host.block()) == []
    other = host.block(b"10.1.0.23\tapp3\n")
    assert host.changes(other) == ["~ block: content"]
    host.converge(other)
    assert host.path.read_text() == f"# first\n{OWN}{host.text(other.content)}192.0.2.8 later\n"


def test_what_is_inside_is_put_right(host: Host) -> None:
    host.converge(host.block())
    host.path.write_text(host.path.read_text().replace("10.1.0.22", "10.1.0.99"))
    assert host.changes(host.block()) == ["~ block: content"]
    shown = diffs.of_plan(plan.merge([host.plan(host.block())]), lambda _, path: Path(path).read_text())
    (text,) = shown.values()
    assert "-10.1.0.99\tapp2" in text and "+10.1.0.22\tapp2" in text and "nas" not in text
    host.converge(host.block())
    assert host.path.read_text() == OWN + host.text()


DAMAGES = {
    "no end": f"{BEGIN}\n10.1.0.21\tapp1\n192.0.2.8 later\n10.1.0.22\tapp2\n",
    "no begin": f"192.0.2.8 later\n10.1.0.21\tapp1\n10.1.0.22\tapp2\n{END}\n",
    "the wrong way round": f"10.1.0.21\tapp1\n{END}\n192.0.2.8 later\n{BEGIN}\n10.1.0.22\tapp2\n",
    "twice": f"{BEGIN}\n10.1.0.21\tapp1\n{END}\n192.0.2.8 later\n{BEGIN}\n10.1.0.22\tapp2\n{END}\n",
    "another begin inside": f"{BEGIN}\n{BEGIN}\n10.1.0.21\tapp1\n192.0.2.8 later\n{END}\n",
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_marks_lose_no_line_of_the_hosts_own(host: Host, how: str) -> None:
    host.converge(host.block())
    host.path.write_text(OWN + DAMAGES[how])
    assert host.changes(host.block()) == ["~ block: its marks are damaged; lines that are not Fiefdom's stay"]
    host.converge(host.block())
    found = host.path.read_text()
    assert found.replace(host.text(), "") == OWN + "192.0.2.8 later\n"
    assert found.count(host.text()) == 1


@pytest.mark.parametrize("how", DAMAGES)
def test_it_goes_also_where_its_marks_are_damaged(host: Host, how: str) -> None:
    host.converge(host.block())
    host.path.write_text(OWN + DAMAGES[how])
    host.converge()
    assert host.path.read_text() == OWN + "192.0.2.8 later\n"
    assert not (host.state / f"blocks{host.path}").exists()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_line_of_the_hosts_own_may_say_the_same_as_one_of_fiefdoms(host: Host, how: str) -> None:
    own = f"10.1.0.22 app2\n{OWN}"
    host.path.write_text(own)
    host.converge(host.block())
    host.path.write_text(own + DAMAGES[how])
    host.converge(host.block())
    host.converge()
    assert host.path.read_text() == f"{own}192.0.2.8 later\n"


@pytest.mark.parametrize("own", [f"{OWN}10.1.0.22 app2\n10.1.0.21 app1\n", f"10.1.0.22 app2\n{OWN}"])
@pytest.mark.parametrize("mark", [BEGIN, END])
def test_such_a_line_right_beside_the_block_stays_too(host: Host, own: str, mark: str) -> None:
    host.path.write_text(own)
    host.converge(host.block())
    for expected in (host.text(), ""):
        text = f"{own}{host.text()}10.1.0.22\tapp2\n"
        host.path.write_text("".join(line for line in text.splitlines(True) if not line.startswith(mark)))
        host.converge(*[host.block()] * bool(expected))
        assert host.path.read_text() == f"{own}{expected}10.1.0.22\tapp2\n"


LINE = st.sampled_from([BEGIN, END, "10.1.0.21 app1", "10.1.0.22\tapp2", "", "# x", "192.0.2.7 nas", "\\t %s $(id)"])


@pytest.mark.long
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE, max_size=9))
def test_whatever_is_there_own_lines_stay_in_their_order(host: Host, lines: list[str]) -> None:
    host.path.write_text("".join(f"{line}\n" for line in lines))
    host.converge(host.block())
    host.converge(host.block())
    theirs = ("", "# x", "192.0.2.7 nas", "\\t %s $(id)")
    sound = Block.found_in("".join(f"{line}\n" for line in lines))
    kept = "".join(f"{line}\n" for line in lines).replace(sound, "", 1).splitlines()
    host.converge()
    assert [line for line in host.path.read_text().splitlines() if line in theirs] == [k for k in kept if k in theirs]


def test_a_file_that_was_fiefdoms_whole_gets_back_what_was_there_before(host: Host) -> None:
    host.was_fiefdoms(original=OWN)
    (change,) = host.changes(host.block())
    assert change == "~ block: was the whole file, is a block of it now, what was there before comes back"
    host.converge(host.block())
    assert host.path.read_text() == OWN + host.text()
    assert (host.state / "manifest").read_text() == f"block\t{host.path}\n"
    assert not (host.state / f"originals{host.path}").exists()
    host.converge()
    assert host.path.read_text() == OWN


def test_what_somebody_wrote_into_that_file_since_is_kept_aside(host: Host) -> None:
    host.was_fiefdoms(original=OWN)
    host.path.write_text(f"{FORMER}192.0.2.8 later\n")
    host.converge(host.block())
    assert host.path.read_text() == OWN + host.text()
    assert (host.state / f"originals.changed{host.path}.1").read_text() == f"{FORMER}192.0.2.8 later\n"


def test_one_that_somebody_removed_since_comes_back_as_it_was_before_fiefdom(host: Host) -> None:
    host.was_fiefdoms(original=OWN)
    host.path.unlink()
    host.converge(host.block())
    assert host.path.read_text() == OWN + host.text()


def test_what_somebody_writes_in_between_is_not_lost(host: Host) -> None:
    taken = [step for phase in steps.phases(host.plan(host.block())) for step in phase.steps]
    stage, place = (next(step for step in taken if step[0] == verb) for verb in ("stage-block", "place-block"))
    # A check stands for whoever writes.
    check = ("check", str(host.path), "sh", "-c", f"echo '192.0.2.8 later' >>'{host.path}'", "sh", "{}")
    said = host.take(stage, check, place, code=1)
    assert said.splitlines()[-1] == f"fiefdom-failed\t{host.path}\tsomebody has just written it; run it again"
    assert host.path.read_text() == f"{OWN}192.0.2.8 later\n"
    host.converge(host.block())
    assert host.path.read_text() == f"{OWN}192.0.2.8 later\n{host.text()}"


@pytest.mark.parametrize("claimed", [True, False])
def test_one_of_before_originals_were_kept_keeps_what_is_not_fiefdoms(host: Host, claimed: bool) -> None:
    """The very first claimed no file that they had found there."""
    host.was_fiefdoms(original=None, claimed=claimed)
    host.path.write_text(f"{FORMER}192.0.2.8 later\n")
    said = "~ block: was the whole file, is a block of it now" if claimed else "+ block: beside what is there"
    assert host.changes(host.block()) == [said]
    host.converge(host.block())
    found = host.path.read_text()
    assert found == f"{AROUND.decode()}\n192.0.2.8 later\n{host.text()}"
    host.converge()
    assert host.path.read_text() == f"{AROUND.decode()}\n192.0.2.8 later\n"


def test_a_move_that_broke_off_is_finished(host: Host) -> None:
    """The block is there, and the manifest still says that the whole file is Fiefdom's."""
    host.was_fiefdoms(original=OWN)
    with (host.state / "manifest").open("a") as manifest:
        manifest.write(f"block\t{host.path}\n")
    host.path.write_text(OWN + host.text())
    host.converge(host.block())
    assert host.path.read_text() == OWN + host.text()
    assert not (host.state / "originals.changed").exists()
    # Or it is only what was kept that is left.
    kept = host.state / f"originals{host.path}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(OWN)
    host.converge(host.block(b"10.1.0.23\tapp3\n"))
    assert not kept.exists()


def test_a_link_stays_one_and_its_target_gets_the_block(host: Host) -> None:
    host.path.rename(host.root / "real")
    host.path.symlink_to("real")
    host.converge(host.block())
    assert host.path.is_symlink()
    assert (host.root / "real").read_text() == OWN + host.text()
    host.converge()
    assert host.path.is_symlink() and host.path.read_text() == OWN


def test_a_file_that_is_not_there_is_made_with_what_belongs_around(host: Host) -> None:
    host.path.unlink()
    assert host.changes(host.block()) == ["+ block: in a new file"]
    host.converge(host.block())
    assert host.path.read_text() == AROUND.decode() + host.text()
    assert host.path.stat().st_mode & 0o777 == 0o644
    host.path.unlink()
    host.converge()
    assert not host.path.exists()


def test_a_last_line_without_its_end_gets_one(host: Host) -> None:
    host.path.write_text(OWN.removesuffix("\n"))
    host.converge(host.block())
    assert host.path.read_text() == OWN + host.text()


def test_a_folder_in_its_place_is_one_sentence(host: Host) -> None:
    state = HostState(blocks=(host.block(),))
    now = Snapshot(0, "debian", "trixie", files={str(host.path): FoundFile("directory", 0o755, 0, 0)})
    with pytest.raises(plan.FiefdomError, match=r"is a folder where a file should be; move it away$"):
        plan.of_host("app1", state, now, {})


def test_a_block_counts_in_the_plans_hash(host: Host) -> None:
    now = Snapshot(0, "debian", "trixie")

    def hash_of(block: Block) -> str:
        return plan.merge([plan.of_host("app1", HostState(blocks=(block,)), now, {})]).hash

    assert hash_of(host.block()) == hash_of(replace(host.block(), around=b""))
    assert hash_of(host.block()) != hash_of(host.block(b"10.1.0.23\tapp3\n"))


def test_a_state_may_have_a_whole_file_and_a_block_elsewhere(host: Host) -> None:
    whole = File(str(host.root / "whole"), b"x\n")
    state = HostState(files=(whole,), blocks=(host.block(),))
    wanted = plan.of_host("app1", state, host.look(), {})
    assert [c.kind for c in wanted.changes] == ["file", "block", "record"]
