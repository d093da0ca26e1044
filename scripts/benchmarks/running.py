"""Processes of the benchmark: the answering server, and one fresh process for each run of each contestant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

SCRIPTS = Path(__file__).resolve().parent.parent
# A run that takes longer hangs.
LONGEST_RUN = 600.0


class BenchError(Exception):
    """A run failed; the text has what it said."""


class Bench:
    """What all scenarios share. ``quick`` is for tests: everything once, and small."""

    def __init__(self, *, quick: bool, runs: int, say: Callable[[str], None]) -> None:
        self.quick = quick
        self.runs = 1 if quick else runs
        self.say = say
        self._temporary = tempfile.TemporaryDirectory(prefix="parlant-sync-bench-")
        self.folder = Path(self._temporary.name)
        # Byte code is kept, whatever the caller's settings: nobody's import compiles its modules each time.
        # Processes run in a folder of their own: it is on their path, and no copy of anything is in it.
        foreign = ("PYTHONDONTWRITEBYTECODE", "PARLANT_SERVER", "PARLANT_TOKEN")
        self.environment = {name: value for name, value in os.environ.items() if name not in foreign}
        path = os.environ.get("PYTHONPATH")
        self.environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS), *([path] if path else [])])
        self.environment["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            cwd=self.folder,
        )
        assert self._server.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._server.stdout.readline())}"

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()  # closes its stdin, which ends it
        self._temporary.cleanup()

    def pick(self, full: int, quick: int) -> int:
        """A size: of a real run, or of a quick one."""
        return quick if self.quick else full

    def work(self, job: str, contestant: str, **options: Any) -> Any:
        """What the function ``job`` (``module.function``) returns, run for one contestant in a fresh process."""
        given = json.dumps({"contestant": contestant, "url": self.url, **options})
        command = [sys.executable, "-m", "benchmarks.worker", job, given]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=self.environment, cwd=self.folder, timeout=LONGEST_RUN
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"hangs: {' '.join(command)}") from None
        if done.returncode != 0:
            raise BenchError(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    def rounds(
        self, contestants: Iterable[str], once: Callable[[str], Any], *, runs: int | None = None
    ) -> dict[str, list[Any]]:
        """Each contestant once, again and again: A B C, A B C, ..."""
        results: dict[str, list[Any]] = {name: [] for name in contestants}
        for _ in range(runs or self.runs):
            for name in results:
                results[name].append(once(name))
        return results
