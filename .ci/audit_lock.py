"""Asks pip-audit whether a locked package is known to be vulnerable: `audit_lock.py LOCK EXCEPTIONS`.

Exit 1 where one is and no exception says why it may stay, where an exception is no longer needed, or where pip-audit
fails for any other reason than that its service cannot be reached. pip-audit itself
exits 0 with "No known vulnerabilities found" where its service knows none of the packages, as some mirrors of PyPI do;
what no service answered for is named here in a line that begins with "not checked".
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVICES = ("pypi", "osv")
_TIMEOUT_S = 300.0
# What pip-audit says where it reaches nobody: its own words, or the last line of a traceback.
_UNREACHABLE = re.compile(
    r"Could not connect to |is not redirecting properly"
    r"|^requests\.exceptions\.(ConnectionError|ConnectTimeout|ReadTimeout|ProxyError)\b",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Finding:
    """``ids`` are all names of one vulnerability: PYSEC, CVE, GHSA."""

    package: str
    version: str
    ids: frozenset[str]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        mend = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no release fixes it"
        return f"{self.package} {self.version}: {', '.join(sorted(self.ids))}; {mend}"


@dataclass(frozen=True)
class Answer:
    """What a service said: the packages it knows, and what is wrong with them. A silent one knows none."""

    known: frozenset[str] = frozenset()
    findings: tuple[Finding, ...] = ()


def read_answer(report: str, errors: str = "") -> Answer:
    """What pip-audit's JSON report says; nothing where there is none because ``errors`` tell of a lost connection.

    Raises ValueError for any other answer.
    """
    if not report.strip() and _UNREACHABLE.search(errors):
        return Answer()
    try:
        return _answer(json.loads(report)["dependencies"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        said = (errors.strip() or report.strip() or "nothing").splitlines()[-1][:200]
        raise ValueError(f"pip-audit gave no report ({type(error).__name__}), and says: {said}") from None


def _answer(packages: Sequence[Mapping[str, Any]]) -> Answer:
    answered = [p for p in packages if "skip_reason" not in p]
    return Answer(
        frozenset(p["name"] for p in answered),
        tuple(
            Finding(p["name"], p["version"], frozenset([v["id"], *v["aliases"]]), tuple(v["fix_versions"]))
            for p in answered
            for v in p["vulns"]
        ),
    )


def read_exceptions(text: str) -> dict[str, str]:
    """Reasons by id, from lines of an id and a reason. Raises ValueError for one without a reason."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, _, reason = line.strip().partition(" ")
        if not name or name.startswith("#"):
            continue
        if not reason.strip():
            raise ValueError(f"line {number}: {name} has no reason; say behind it why it may stay")
        found[name] = reason.strip()
    return found


def verdict(names: Sequence[str], answers: Sequence[Answer], exceptions: Mapping[str, str]) -> tuple[bool, list[str]]:
    """Whether the lock may stay as it is, and the lines that say so. ``names`` are its packages."""
    known = frozenset().union(*(a.known for a in answers))
    findings = {(f.package, min(f.ids)): f for a in answers for f in a.findings}.values()
    wrong = [str(f) for f in findings if not f.ids & exceptions.keys()]
    unchecked = sorted(set(names) - known)
    lines = [f"vulnerable: {line}" for line in sorted(wrong)]
    lines += [f"excepted: {i} ({reason})" for i, reason in exceptions.items() if any(i in f.ids for f in findings)]
    stale = [] if unchecked else [i for i in exceptions if not any(i in f.ids for f in findings)]
    lines += [f"no longer needed: the exception {i}; remove it" for i in stale]
    if unchecked:
        some = ", ".join(unchecked[:5]) + (", ..." if len(unchecked) > 5 else "")
        lines.append(
            f"not checked: {len(unchecked)} of {len(set(names))} locked packages ({some}): no vulnerability service "
            "that can be reached from here knows them"
        )
    elif not wrong:
        lines.append(f"checked: {len(set(names))} locked packages, no other vulnerability known")
    return not wrong and not stale, lines


def locked_here(lock: Path) -> list[str]:
    """Names of the packages that the lock means for this Python and system."""
    from packaging.requirements import Requirement

    lines = (line.rstrip("\\ ") for line in lock.read_text().splitlines())
    wanted = [Requirement(line) for line in lines if line and not line.startswith((" ", "#"))]
    return [r.name for r in wanted if r.marker is None or r.marker.evaluate()]


def _ask(lock: Path) -> Iterator[Answer]:
    """The services' answers: the second is asked only for what the first does not know."""
    missing = set(locked_here(lock))
    for service in _SERVICES:
        if missing:
            command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--require-hashes"]
            options = ["--disable-pip", "--progress-spinner=off", "--format=json", f"--vulnerability-service={service}"]
            try:
                run = subprocess.run(
                    [*command, *options], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
                )
            except subprocess.TimeoutExpired:
                continue
            answer = read_answer(run.stdout, run.stderr)
            missing -= answer.known
            yield answer


def main(lock: str, exceptions: str) -> int:
    try:
        excepted = read_exceptions(Path(exceptions).read_text())
    except ValueError as error:
        print(f"{exceptions}: {error}")
        return 1
    try:
        answers = list(_ask(Path(lock)))
    except ValueError as error:
        print(f"not checked: {error}; run `make pip-audit` again, or mend it")
        return 1
    fine, lines = verdict(locked_here(Path(lock)), answers, excepted)
    print("\n".join(f"pip-audit: {line}" for line in lines))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
