"""Processes of the benchmark: answering servers, and one fresh process for each run of each contestant."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import certificate
from benchmarks.rows import OFFICIAL

SCRIPTS = Path(__file__).resolve().parent.parent
# A run that takes longer hangs.
LONGEST_RUN = 600.0


class BenchError(Exception):
    """A run failed; the text has what it said."""


class Server:
    """An answering server in a process of its own; ends with this object, or with this process."""

    def __init__(self, bench: Bench, tls: tuple[Path, Path] | None = None) -> None:
        command = [sys.executable, "-m", "benchmarks.server", *(["--tls", *map(str, tls)] if tls else [])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=bench.environment, cwd=bench.folder
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.authority = str(tls[0]) if tls else ""
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._process.communicate()  # closes its stdin, which ends it


class Bench:
    """What all scenarios share. ``quick`` is for tests: everything once, and small."""

    def __init__(self, *, quick: bool, runs: int, say: Callable[[str], None]) -> None:
        self.quick = quick
        self.runs = 1 if quick else runs
        self.say = say
        self.notes: list[str] = []
        self._stack = ExitStack()
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="parlant-sync-bench-")))
        # Byte code is kept, whatever the caller's settings: nobody's import compiles its modules each time.
        # Processes run in a folder of their own: it is on their path, and no copy of anything is in it.
        foreign = ("PYTHONDONTWRITEBYTECODE", "PARLANT_SERVER", "PARLANT_TOKEN")
        self.environment = {name: value for name, value in os.environ.items() if name not in foreign}
        path = os.environ.get("PYTHONPATH")
        self.environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS), *([path] if path else [])])
        self.environment["PYTHONPYCACHEPREFIX"] = str(self.folder / "bytecode")
        self.plain = self._server(None)
        self._tls: Server | None = None
        self._absent = set() if importlib.util.find_spec("parlant.client") else {OFFICIAL}
        if self._absent:
            self.notes.append("parlant-client is not installed: its column is left out")

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pick(self, full: int, quick: int) -> int:
        """A size: of a real run, or of a quick one."""
        return quick if self.quick else full

    def _server(self, tls: tuple[Path, Path] | None) -> Server:
        server = Server(self, tls)
        self._stack.callback(server.close)
        return server

    def tls(self) -> Server | None:
        """The server with TLS, started when first asked for."""
        if self._tls is None:
            pair = certificate.make(self.folder)
            if pair is None:
                self.notes.append("no openssl here: TLS is left out")
                return None
            self._tls = self._server(pair)
        return self._tls

    def present(self, contestants: Iterable[str]) -> list[str]:
        return [name for name in contestants if name not in self._absent]

    def work(self, job: str, contestant: str, server: Server | None = None, **options: Any) -> Any:
        """What the function ``job`` (``module.function``) returns, run for one contestant in a fresh process."""
        server = server or self.plain
        options = {"contestant": contestant, "url": server.url, "authority": server.authority, **options}
        command = [sys.executable, "-m", "benchmarks.worker", job, json.dumps(options)]
        output = self.run(command)
        return json.loads(output.splitlines()[-1])

    def run(self, command: Sequence[str]) -> str:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=self.environment, cwd=self.folder, timeout=LONGEST_RUN
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"hangs: {' '.join(command)}") from None
        if done.returncode != 0:
            raise BenchError(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def rounds(
        self, contestants: Iterable[str], once: Callable[[str], Any], *, runs: int | None = None
    ) -> dict[str, list[Any]]:
        """Each contestant once, again and again: A B C, A B C, ..."""
        names = self.present(contestants)
        results: dict[str, list[Any]] = {name: [] for name in names}
        for _ in range(runs or self.runs):
            for name in names:
                results[name].append(once(name))
        return results


class Desk:
    """A connection to an answering server that asks what it has seen; for workers."""

    def __init__(self, url: str, authority: str = "") -> None:
        host = url.split("//")[1]
        if authority:
            context = ssl.create_default_context(cafile=authority)
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, context=context)
        else:
            self._connection = http.client.HTTPConnection(host)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def report(self) -> Any:
        self._connection.request("GET", "/bench")
        return json.loads(self._connection.getresponse().read())

    def forget(self) -> None:
        self._connection.request("DELETE", "/bench")
        self._connection.getresponse().read()

    def wait_until_held(self, count: int) -> None:
        """Until so many polls wait at the server. Asks without a pause: the last one is what is timed."""
        while self.report()["held"] < count:
            pass
