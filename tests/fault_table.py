"""The table of faults: each fault, the outcome that is expected, and whether the tests saw it.

A test with the mark `@pytest.mark.fault(kind, what, outcome)` is a row; tests with the same fault share it.
`make test-faults` runs them all, the long ones too, and writes docs/reliability.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

#: In the table's order.
KINDS = {
    "kills": "Killed",
    "disk": "The disk",
    "data": "The data",
    "parameters": "Parameters",
    "weights": "Weights and caches",
    "training": "Training",
    "together": "Together, and elsewhere",
    "security": "Security",
    "upgrades": "Upgrades",
}

HEAD = """# Fault-injection results

`make test-faults` runs these tests, the long forms included, and writes this table from their results; `make test` runs
the short forms. Each row is one or more tests that inject the fault into a whole study or into a part of it. "holds"
means that the tests saw the outcome: the right result, or an error that names the place and the next action, with
nothing lost. "untried" gives the reason why the machine that made the table could not try it.
"""


#: Sorts after "holds": of the tests of one fault those count that ran.
NOT_RUN = "untried: left out of the run that made this table"


def pytest_addoption(parser) -> None:
    parser.addoption("--fault-table", metavar="FILE", help="write the table of faults, from the tests of this run")


def pytest_configure(config) -> None:
    if config.getoption("--fault-table") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Table(Path(config.getoption("--fault-table"))), "fault table")


@pytest.hookimpl(tryfirst=True)  # before those are left out that this run does not want
def pytest_collection_modifyitems(config, items: list[pytest.Item]) -> None:
    table = config.pluginmanager.get_plugin("fault table")
    for item in items:
        for mark in item.iter_markers("fault"):
            kind, what, outcome = mark.args
            assert kind in KINDS, f"{item.nodeid}: {kind!r} is none of {', '.join(KINDS)}"
            item.user_properties.append(("fault", (kind, what, outcome)))
            if table:
                table.seen.setdefault((kind, what, outcome), {NOT_RUN})


class _Table:
    """Gathers reports, of workers too, and writes the table at the end."""

    def __init__(self, path: Path):
        self.path = path
        self.seen: dict[tuple[str, str, str], set[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        reason = str(report.longrepr[2]).removeprefix("Skipped: ") if report.skipped else ""
        state = "holds" if report.passed else f"untried: {reason}" if report.skipped else "FAILS"
        for name, fault in report.user_properties:
            if name == "fault":
                self.seen.setdefault(tuple(fault), set()).add(state)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return  # a run that was stopped would leave out the rows that it did not reach
        short = "not long" in session.config.option.markexpr
        told = HEAD + "\nThis table was made without the long forms.\n" * short
        self.path.write_text(render_table(self.seen).replace(HEAD, told), encoding="utf-8")


def render_table(seen: dict[tuple[str, str, str], set[str]]) -> str:
    """One table for each kind, its rows sorted; of several tests a failure counts, then what was tried."""
    text = HEAD
    for kind, title in KINDS.items():
        rows = sorted((what, outcome, states) for (k, what, outcome), states in seen.items() if k == kind)
        if rows:
            text += f"\n## {title}\n\n| fault | what happens | seen |\n|---|---|---|\n"
            text += "".join(f"| {what} | {outcome} | {min(states)} |\n" for what, outcome, states in rows)
    return text
