"""Run commands one after the other, show and time each, and count the tests that they ran."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dev import environments

# pytest's exit codes for "all were run, some failed", and "no test matched", which is no failure of one step.
_SOME_FAILED, _NO_TESTS = 1, 5
# Options with which a run that failed has left tests out.
_STOPS_EARLY = ("-x", "--exitfirst", "--maxfail")
# More failures than this are no matter of a busy machine.
_MOST_RETRIED = 5


class Counts(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


class Result(NamedTuple):
    name: str
    ok: bool
    seconds: float
    counts: Counts = Counts()


class Report(NamedTuple):
    """What pytest's JUnit report says, with the names of the tests."""

    counts: Counts
    failed: tuple[str, ...] = ()
    passed: frozenset[str] = frozenset()


class Steps:
    """The steps of one run, and the result of each."""

    def __init__(self, *, retry_alone: bool = False) -> None:
        """``retry_alone``: up to five failed tests of a step run once more, with nothing beside them."""
        self.retry_alone = retry_alone
        self.unsteady: list[str] = []  # the tests that passed only then
        self.results: list[Result] = []
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the first step."""
        return time.monotonic() - self._started

    @property
    def counts(self) -> Counts:
        return Counts(*(sum(column) for column in zip(*(r.counts for r in self.results), strict=True)))

    @property
    def ok(self) -> bool:
        """True if nothing failed and something was tested: a run without a test must not look like a success."""
        return all(result.ok for result in self.results) and self.counts.passed > 0

    def run(self, name: str, command: Sequence[str]) -> None:
        code, seconds = self._execute(name, command)
        self.results.append(Result(name, code == 0, seconds))

    def pytest(self, name: str, python: Path, arguments: Sequence[str], extra: Mapping[str, str] | None = None) -> None:
        """Run pytest and count the tests by its JUnit report. A run that crashed counts as one failure."""
        seconds, code, report = self._pytest(name, python, arguments, extra)
        counts, failed = report.counts, report.failed
        all_ran = code == _SOME_FAILED and not any(argument.startswith(_STOPS_EARLY) for argument in arguments)
        if self.retry_alone and all_ran and len(failed) == counts.failed <= _MOST_RETRIED:
            one = ["-n", "0"] if "-n" in arguments else []
            alone = [*arguments, *one, "--last-failed", "--last-failed-no-failures", "none"]
            more, _, again = self._pytest(f"{name}: failed tests alone", python, alone, extra)
            seconds += more
            # By name: which tests failed last is in a file that other runs of this clone write, too.
            if not again.counts.failed and again.passed.issuperset(failed):
                counts = counts._replace(passed=counts.passed + counts.failed, failed=0)
                self.unsteady += failed
        self.results.append(Result(name, counts.failed == 0, seconds, counts))

    def _pytest(
        self, name: str, python: Path, arguments: Sequence[str], extra: Mapping[str, str] | None
    ) -> tuple[float, int, Report]:
        """The seconds it took, the exit code, and the report."""
        with tempfile.TemporaryDirectory(prefix="parlant-sync-test-") as folder:
            path = Path(folder) / "report.xml"
            command = [str(python), "-m", "pytest", f"--junit-xml={path}", "-o", "junit_logging=no", *arguments]
            code, seconds = self._execute(name, command, extra)
            report = _read_report(path)
        if code not in (0, _NO_TESTS) and report.counts.failed == 0:
            report = report._replace(counts=report.counts._replace(failed=1))
        return seconds, code, report

    def left_out(self, name: str, reason: str, *, ok: bool = True) -> None:
        """A step that was not started."""
        print(f"\n=== {name}\nleft out: {reason}", flush=True)
        self.results.append(Result(f"{name}: left out, {reason.splitlines()[0]}", ok, 0.0))

    def _execute(self, name: str, command: Sequence[str], extra: Mapping[str, str] | None = None) -> tuple[int, float]:
        print(f"\n=== {name}\n$ {shown(command, extra)}", flush=True)
        started = time.monotonic()
        with subprocess.Popen(command, cwd=environments.ROOT, env=environments.environ(extra)) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                # The terminal has signalled the process as well: it is stopping its servers.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=30)
                process.kill()
                raise
        return code, time.monotonic() - started

    def summary(self) -> str:
        lines = ["", "=== summary"]
        for result in self.results:
            counts = f"  ({result.counts})" if any(result.counts) else ""
            lines.append(f"{'ok    ' if result.ok else 'FAILED'} {result.seconds:7.1f} s  {result.name}{counts}")
        lines.append(f"       {self.seconds:7.1f} s  in all")
        if self.unsteady:
            lines.append(f"failed beside others and passed alone: {', '.join(self.unsteady)}")
        failed = [result.name for result in self.results if not result.ok]
        if failed:
            lines.append(f"failed: {', '.join(failed)}")
        elif not self.counts.passed:
            lines.append("failed: no test was run")
        return "\n".join([*lines, str(self.counts)])


def _read_report(path: Path) -> Report:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return Report(Counts(failed=1))  # pytest did not live to write it
    tests, failures, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in root.iter("testsuite"))
        for name in ("tests", "failures", "errors", "skipped")
    )
    outcomes = [
        (f"{case.get('classname')}.{case.get('name')}", {child.tag for child in case}) for case in root.iter("testcase")
    ]
    # A test whose teardown fails too is counted once as a test and twice as broken.
    counts = Counts(max(0, tests - failures - errors - skipped), failures + errors, skipped)
    return Report(
        counts,
        failed=tuple(name for name, outcome in outcomes if outcome & {"failure", "error"}),
        passed=frozenset(name for name, outcome in outcomes if not outcome & {"failure", "error", "skipped"}),
    )


def shown(command: Sequence[str], extra: Mapping[str, str] | None = None) -> str:
    """The command as one would type it in the project's folder."""
    prefix = str(environments.ROOT) + os.sep
    parts = [part.removeprefix(prefix) for part in command if not part.startswith("--junit-xml=")]
    variables = [f"{name}={shlex.quote(value)}" for name, value in (extra or {}).items()]
    return " ".join([*variables, shlex.join(parts).replace("-o junit_logging=no ", "")])
