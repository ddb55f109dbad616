"""The check for known vulnerabilities: what services answer, what is excepted, and what nobody answered for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ["click", "paramiko"]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_lock", ROOT / ".ci/audit_lock.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit_lock"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def report(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


FINE = {"name": "click", "version": "8.5.1", "vulns": []}
VULNERABLE = {
    "name": "paramiko",
    "version": "4.0.0",
    "vulns": [
        {"id": "PYSEC-2026-1", "aliases": ["CVE-2026-1", "GHSA-x"], "fix_versions": ["5.0.0"], "description": ""}
    ],
}
UNKNOWN = {"name": "paramiko", "skip_reason": "Dependency not found on PyPI and could not be audited: paramiko (4.0.0)"}


LOST = "Traceback\nrequests.exceptions.ConnectionError: HTTPSConnectionPool(host='api.osv.dev'): no route"


@pytest.mark.parametrize(
    "words", [LOST, "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed\nERROR: Tip: try another"]
)
def test_a_service_that_cannot_be_reached_knows_nothing(audit: ModuleType, words: str) -> None:
    assert audit.read_answer("", words) == audit.Answer()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", ""),
        ("", "No module named pip_audit"),
        ("", "requests.exceptions.HTTPError: 500"),
        ("not JSON", LOST),
        ("[]", ""),
        ("{}", ""),
        ('{"dependencies": null}', ""),
        ('{"dependencies": [1]}', ""),
        ('{"dependencies": [{}]}', ""),
        (report({"name": "click", "version": "1", "vulns": [{"id": "X", "aliases": None, "fix_versions": []}]}), ""),
    ],
)
def test_any_other_failure_fails(
    audit: ModuleType, answer: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    done = subprocess.CompletedProcess([], 1, answer, words)
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    (tmp_path / "lock").write_text("click==8.5.1 \\\n    --hash=sha256:0\n")
    (tmp_path / "exceptions").touch()
    assert audit.main(str(tmp_path / "lock"), str(tmp_path / "exceptions")) == 1
    assert "pip-audit gave no report" in capsys.readouterr().out


def test_a_vulnerability_fails_and_is_told_with_its_mend(audit: ModuleType) -> None:
    fine, lines = audit.verdict(NAMES, [audit.read_answer(report(FINE, VULNERABLE))], {})
    assert not fine
    assert lines == ["vulnerable: paramiko 4.0.0: CVE-2026-1, GHSA-x, PYSEC-2026-1; fixed in 5.0.0"]


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1", "GHSA-x"])
def test_an_exception_by_any_of_its_names_lets_it_stay_with_the_reason(audit: ModuleType, name: str) -> None:
    fine, lines = audit.verdict(NAMES, [audit.read_answer(report(FINE, VULNERABLE))], {name: "not reached"})
    assert fine
    assert lines[0] == f"excepted: {name} (not reached)"
    assert lines[1].startswith("checked: 2 locked packages")


def test_an_exception_that_outlived_its_reason_fails(audit: ModuleType) -> None:
    fine, lines = audit.verdict(["click"], [audit.read_answer(report(FINE))], {"CVE-2026-1": "not reached"})
    assert not fine
    assert lines[0] == "no longer needed: the exception CVE-2026-1; remove it"


def test_what_no_service_knows_is_said_and_never_called_checked(audit: ModuleType) -> None:
    """pip-audit itself exits 0 with "No known vulnerabilities found" here."""
    fine, lines = audit.verdict(
        NAMES, [audit.read_answer(report(FINE, UNKNOWN)), audit.read_answer("", LOST)], {"CVE-2026-1": "x"}
    )
    assert fine
    (line,) = lines
    assert line.startswith("not checked: 1 of 2 locked packages (paramiko)")


def test_a_vulnerability_fails_also_where_something_else_could_not_be_checked(audit: ModuleType) -> None:
    fine, lines = audit.verdict([*NAMES, "rich"], [audit.read_answer(report(FINE, VULNERABLE))], {})
    assert not fine
    assert [line.partition(":")[0] for line in lines] == ["vulnerable", "not checked"]


def test_the_second_service_stands_in_for_the_first(audit: ModuleType) -> None:
    answers = [audit.read_answer(report(FINE, UNKNOWN)), audit.read_answer(report(VULNERABLE))]
    assert audit.verdict(NAMES, answers, {}) == (False, audit.verdict(NAMES, answers[1:], {})[1][:1])


def test_an_exception_needs_a_reason(audit: ModuleType) -> None:
    assert audit.read_exceptions("# why\n\nCVE-1  it is not reached\n") == {"CVE-1": "it is not reached"}
    with pytest.raises(ValueError, match=r"^line 2: CVE-2 has no reason"):
        audit.read_exceptions("CVE-1 because\nCVE-2\n")


def test_the_written_exceptions_are_of_locked_packages(audit: ModuleType) -> None:
    locked = audit.locked_here(ROOT / "requirements.lock")
    assert "pyinfra" in locked
    for reason in audit.read_exceptions((ROOT / ".ci/pip-audit.exceptions").read_text()).values():
        assert reason.split()[0] in locked
