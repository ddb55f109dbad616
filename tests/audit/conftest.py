"""Scanners on converged hosts: `make audit`, with the lab up (`make demo`).

What a scanner wants and Fiefdom does not do stands beside the test with the reason, and fails the day that it is no
longer so. On bare hosts (`fiefdom lab up`) the same tests tell where they begin: the numbers at the end count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.audited import CONFIG, HOSTS, SAID, Target

COUNTS: dict[str, Counter[str]] = {}
"""Outcomes by scanner and host."""

_targets = {name: Target(name) for name in HOSTS}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("audit")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", list(_targets.values()), ids=HOSTS, scope="session")


@pytest.fixture(scope="session", autouse=True)
def _lab() -> None:
    if not CONFIG.exists():
        pytest.exit(f"there is no lab to audit ({CONFIG} is missing): `make demo` first", returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    callspec = getattr(item, "callspec", None)
    if report.when == "call" and callspec is not None and "target" in callspec.params:
        where = f"{item.path.stem.removeprefix('test_').replace('_', '-')}: {callspec.params['target'].name}"
        outcome = "accepted" if hasattr(report, "wasxfail") and report.skipped else report.outcome
        COUNTS.setdefault(where, Counter())[outcome] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.section("what the scanners say")
    for line in sorted(SAID):
        terminalreporter.line(line)
    for where, counts in sorted(COUNTS.items()):
        terminalreporter.line(f"{where}: {', '.join(f'{n} {outcome}' for outcome, n in sorted(counts.items()))}")
