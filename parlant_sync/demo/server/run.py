# mypy: disallow-subclassing-any=False
"""Runs a Parlant server with this package's agents.

Needs nothing but ``parlant`` (3.0 or newer) in the interpreter that runs it. One JSON line on
stdout says that the server is ready and what it hosts; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, TextIO


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="server", description="A Parlant server that needs no network.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes any free port")
    parser.add_argument("--store", choices=("memory", "local"), default="memory")
    parser.add_argument("--home", type=Path, help="where the server may write (a temporary one)")
    parser.add_argument("--policy", choices=("development", "production"), default="development")
    parser.add_argument("--agents", default="research,welfare", help="of the demonstration")
    parser.add_argument("--test-agents", action="store_true", help="host those for tests, too")
    parser.add_argument("--die-with-stdin", action="store_true", help="end when stdin ends")
    parser.add_argument("--log-level", default="warning")
    return parser.parse_args(argv)


class _Ending:
    """Ends the process on SIGTERM and SIGINT, whatever it is doing."""

    def __init__(self) -> None:
        self.serving = False
        self.temporary: str | None = None

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.serving:
            raise SystemExit(0)
        # While it serves, uvicorn has handlers of its own: it stops, then raises the signal once
        # more, for this one. Going on from here, Parlant would wait for tasks that never end.
        self.clean_up()
        os._exit(0)

    def clean_up(self) -> None:
        if self.temporary:
            os.chdir(os.sep)
            shutil.rmtree(self.temporary, ignore_errors=True)

    def with_stdin(self) -> None:
        """End the process when stdin ends: whoever started it is gone."""

        def watch() -> None:
            with contextlib.suppress(OSError):
                while os.read(0, 4096):
                    pass
            threading.Timer(5.0, os._exit, [1]).start()
            os.kill(os.getpid(), signal.SIGTERM)

        # Daemon: it sits in a read that nothing but the end of stdin ends.
        threading.Thread(target=watch, name="stdin", daemon=True).start()


def _keep_stdout() -> TextIO:
    """Take stdout for the one line; what Parlant prints goes to stderr."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _environment(home: Path, policy: str) -> None:
    """Parlant reads these when it is imported."""
    home.mkdir(parents=True, exist_ok=True)
    for name in list(os.environ):
        # No telemetry, no modules or settings of somebody else's server.
        if name.startswith(("OTEL_", "PARLANT_")):
            del os.environ[name]
    os.environ["PARLANT_HOME"] = str(home)
    os.environ["PARLANT_ENV"] = policy
    os.chdir(home)


async def _serve(arguments: argparse.Namespace, home: Path, out: TextIO, ending: _Ending) -> None:
    # Only now: Parlant reads the environment when it is imported.
    import parlant.sdk as p
    from parlant.core.engines.alpha.optimization_policy import (
        BasicOptimizationPolicy,
        OptimizationPolicy,
    )
    from parlant.core.engines.alpha.perceived_performance_policy import PerceivedPerformancePolicy

    from . import agents, durable, nlp, pacing
    from .gates import Gates
    from .sockets import HeldPorts

    roles = agents.choose(filter(None, arguments.agents.split(",")), test_agents=arguments.test_agents)
    voices = {role.name: role.voice() for role in roles.values()}
    service = nlp.OfflineNLPService(nlp.Cast(voices, Gates(home / "gates")))
    ids: dict[str, str] = {}
    held = HeldPorts()
    port = held.hold(arguments.host, arguments.port)
    tool_port = held.hold("127.0.0.1")

    class Optimization(BasicOptimizationPolicy):
        # The cache is a file that is written anew for every text, and embedding costs nothing.
        def use_embedding_cache(self, hints: Any = None) -> bool:
            return False

    async def configure(container: Any) -> Any:
        container[OptimizationPolicy] = Optimization()
        # Only Parlant 3.0 asks for this one.
        container[PerceivedPerformancePolicy] = pacing.ByName({role.name: role.policy() for role in roles.values()})
        return container

    def started(listening: int) -> None:
        if listening == port:
            ending.serving = True
            ready = {
                "ready": True,
                "url": f"http://{arguments.host}:{port}",
                "port": port,
                "version": version("parlant"),
                "agents": ids,
                "streaming": nlp.STREAMING,
            }
            print(json.dumps(ready), file=out, flush=True)

    held.give_to_uvicorn(started)
    durable.install()
    store = "local" if arguments.store == "local" else "transient"
    options = {"host": arguments.host} if "host" in inspect.signature(p.Server).parameters else {}
    async with p.Server(
        port=port,
        tool_service_port=tool_port,
        nlp_service=lambda container: service,
        session_store=store,
        customer_store=store,
        log_level=p.LogLevel[arguments.log_level.upper()],
        configure_container=configure,
        **options,
    ) as server:
        ids.update(await agents.create(server, roles))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    out = _keep_stdout()
    ending = _Ending()
    ending.install()
    if arguments.die_with_stdin:
        ending.with_stdin()
    home = arguments.home
    if home is None:
        ending.temporary = tempfile.mkdtemp(prefix="parlant-sync-demo-")
        home = Path(ending.temporary)
    home = home.resolve()
    try:
        _environment(home, arguments.policy)
        asyncio.run(_serve(arguments, home, out, ending))
    finally:
        ending.clean_up()
    return 0
