"""Files in the working directory are told by their path from there, others by a whole one, whichever command tells."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fiefdom import wording
from helpers import forked
from helpers.inventories import changed

# One of each kind of file and folder that an inventory names, none of which is there or may be as it is.
WRONG = {
    "hooks": {"before": "hook"},
    "serf": {"key_file": "gossip.key"},
    "ssh": {"key": "id.pub"},
    "secrets": {
        "file": "secrets.age",
        "recipients": ["age1g3wca0mag5tcesluvzsvhqwgqukltsy83tdsnfdszxv2s4y22g2q4azqtw"],
    },
    "gateway": {"tls": {"certificates": {"own": {"chain": "own.pem", "key": "own.key"}}}},
    "services/web/build": "web",
    "services/web/route": {"maintenance": {"page": "page.html"}},
    "services/web/files": {"/etc/app/a": {"file": "a"}, "/etc/app/b": {"secret": "b", "owner": "999"}},
    "development": {"services": {"db": {"build": "db", "port": 5432}}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "clusters"
    made.mkdir()
    (made / "mine.yaml").write_text(yaml.safe_dump(changed(WRONG)))
    (made / "id.pub").write_text("ssh-ed25519 AAAA")
    return made


def test_a_check_tells_paths_from_the_working_directory(folder: Path) -> None:
    (folder / "gossip.key").write_text("none\n")
    (folder / "gossip.key").chmod(0o644)
    said = forked.fiefdom("check", "clusters/mine.yaml", cwd=folder.parent).stdout
    names = ("hook", "gossip.key", "id.pub", "secrets.age", "own.pem", "own.key", "web", "page.html", "a", "db")
    assert [name for name in names if f" clusters/{name}" not in said] == []
    assert str(folder) not in said


def test_from_elsewhere_it_tells_whole_ones(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    said = forked.fiefdom("check", "../clusters/mine.yaml", cwd=tmp_path / "elsewhere").stdout
    assert said.count(f" {folder}/") == 9


def test_so_does_who_makes_a_key(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changed({"serf": {"key_file": "keys/gossip.key"}})))
    made = forked.fiefdom("keygen", "mine.yaml", cwd=tmp_path)
    assert made.stdout == (
        "keys/gossip.key holds a new gossip key. Keep gossip.key* out of version control, and keep a copy.\n"
    )
    again = forked.fiefdom("keygen", "mine.yaml", cwd=tmp_path)
    assert again.stderr.startswith("error: keys/gossip.key: exists already and stays as it is")


def test_so_does_who_reads_secrets(folder: Path) -> None:
    said = forked.fiefdom("secret", "list", "mine.yaml", cwd=folder).stderr
    assert said.startswith("error: secrets.age: there is no such file; ")


def test_a_working_directory_that_is_gone_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert wording.from_here(gone / "a") == Path("a")
    gone.rmdir()
    assert wording.from_here(gone / "a") == gone / "a"
