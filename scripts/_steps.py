"""Run commands one after the other, show and time each, and sum up what came of them."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import _env

# pytest's exit codes that are no failure of their own: 5 is "no test matched", which the total judges.
_NO_TESTS = 5


@dataclass(frozen=True)
class Counts:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass(frozen=True)
class Result:
    name: str
    ok: bool
    seconds: float
    counts: Counts | None = None  # of a pytest run


def read_counts(report: Path) -> Counts | None:
    """The sums of a JUnit report; None if pytest did not live to write it."""
    try:
        root = ElementTree.parse(report).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    total = Counts()
    for suite in root.iter("testsuite"):
        tests, failures, errors, skipped = (
            int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")
        )
        # A test whose teardown fails too is counted once as a test and twice as broken.
        total += Counts(max(0, tests - failures - errors - skipped), failures + errors, skipped)
    return total


class Steps:
    """The steps of one run and what came of each."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self._started = time.monotonic()

    @property
    def counts(self) -> Counts:
        return sum((result.counts for result in self.results if result.counts), Counts())

    @property
    def ok(self) -> bool:
        """Nothing failed, and something was tested: a run that tested nothing must not look like one that passed."""
        return all(result.ok for result in self.results) and self.counts.passed > 0

    def run(self, name: str, command: Sequence[str], extra: Mapping[str, str] | None = None) -> bool:
        code, seconds = self._execute(name, command, extra)
        self._add(Result(name, code == 0, seconds))
        return code == 0

    def pytest(self, name: str, python: Path, arguments: Sequence[str], extra: Mapping[str, str] | None = None) -> bool:
        with tempfile.TemporaryDirectory(prefix="parlant-sync-test-") as folder:
            report = Path(folder) / "report.xml"
            command = [str(python), "-m", "pytest", f"--junit-xml={report}", "-o", "junit_logging=no", *arguments]
            code, seconds = self._execute(name, command, extra)
            counts = read_counts(report) or Counts(failed=1)  # it crashed: that is a failure that nobody counted
        ok = code in (0, _NO_TESTS) and counts.failed == 0
        if not ok and counts.failed == 0:
            counts += Counts(failed=1)  # an interrupt, a usage error
        self._add(Result(name, ok, seconds, counts))
        return ok

    @property
    def seconds(self) -> float:
        """Since the first step."""
        return time.monotonic() - self._started

    def left_out(self, name: str, reason: str) -> None:
        """A step that is not taken, and is no failure."""
        print(f"\n=== {name}\nleft out: {reason}", flush=True)
        self._add(Result(f"{name}: left out, {reason}", True, 0.0))

    def failed(self, name: str, reason: str) -> None:
        """A step that could not even start."""
        print(f"\n=== {name}\n{reason}", flush=True)
        self._add(Result(name, False, 0.0))

    def _add(self, result: Result) -> None:
        self.results.append(result)

    def _execute(self, name: str, command: Sequence[str], extra: Mapping[str, str] | None) -> tuple[int, float]:
        variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in (extra or {}).items())
        print(f"\n=== {name}\n$ {variables}{' ' if variables else ''}{shorten(command)}", flush=True)
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=_env.ROOT, env=_env.environ(extra))
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # The terminal told it as well: it is stopping its servers. A second Ctrl-C ends it at once.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
            raise
        return code, time.monotonic() - started

    def summary(self) -> str:
        lines = ["", "=== summary"]
        for result in self.results:
            counts = f"  ({result.counts})" if result.counts else ""
            lines.append(f"{'ok    ' if result.ok else 'FAILED'} {result.seconds:7.1f} s  {result.name}{counts}")
        lines.append(f"       {self.seconds:7.1f} s  in all")
        broken = [result.name for result in self.results if not result.ok]
        if broken:
            lines.append(f"failed: {', '.join(broken)}")
        elif not self.counts.passed:
            lines.append("failed: no test was run")
        lines.append(str(self.counts))
        return "\n".join(lines)


def shorten(command: Sequence[str]) -> str:
    """The command as one would type it in the project's folder."""
    prefix = str(_env.ROOT) + os.sep
    shown = [part[len(prefix) :] if part.startswith(prefix) else part for part in command]
    hidden = [part for part in shown if not part.startswith("--junit-xml=")]
    return shlex.join(hidden).replace("-o junit_logging=no ", "")
