"""What `systemd-analyze security` says of Fiefdom's own units, as they are rendered for each Debian."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parent / "expected").glob("*/*/etc/systemd/system/*.service"))

# Exposure from 0 to 10. The rest is their work: the host's network and processes, the Docker socket as root.
MOST = {"fiefdom-firewall.service": 1.8}
MOST_OF_CONTAINERS = 2.1

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: apt-get install systemd"
)


def exposure(unit: Path) -> float:
    """The worst of what is said of a unit file. systemd 252 and 257 agree on these."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    return float(found[1])


def in_words(unit: Path) -> str:
    return "/".join((*unit.relative_to(Path(__file__).parent / "expected").parts[:2], unit.name))


@needs_systemd
@pytest.mark.parametrize("unit", UNITS, ids=in_words)
def test_a_unit_is_exposed_no_more_than_it_must_be(unit: Path) -> None:
    assert exposure(unit) <= MOST.get(unit.name, MOST_OF_CONTAINERS)


def test_a_unit_of_the_early_boot_needs_no_folder_that_others_still_make_or_empty() -> None:
    early = [unit.read_text() for unit in UNITS if "\nDefaultDependencies=no\n" in unit.read_text()]
    assert early
    assert not any(re.search("^Private(Devices|Tmp)=yes", text, re.MULTILINE) for text in early)


def test_every_kind_of_unit_is_looked_at() -> None:
    names = {unit.name for unit in UNITS}
    assert names >= {
        "fiefdom-firewall.service",
        "fiefdom-gateway.service",
        "fiefdom-predictor@.service",
        "fiefdom-serf-agent.service",
    }


@needs_systemd
def test_a_unit_that_lost_its_sandbox_would_be_noticed(tmp_path: Path) -> None:
    unit = next(u for u in UNITS if u.name == "fiefdom-gateway.service")
    bare = tmp_path / unit.name
    bare.write_text(re.sub(r"^(ProtectSystem|SystemCallFilter)=.*\n", "", unit.read_text(), flags=re.MULTILINE))
    assert exposure(bare) > MOST_OF_CONTAINERS
