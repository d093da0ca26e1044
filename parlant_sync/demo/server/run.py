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
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from .ending import Ending
from .sockets import HeldPorts


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="server", description="A Parlant server that needs no network.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes any free port")
    parser.add_argument("--store", choices=("memory", "local"), default="memory", help="of sessions and customers")
    parser.add_argument("--home", type=Path, help="where the server may write (else a temporary directory)")
    parser.add_argument("--policy", choices=("development", "production"), default="development")
    parser.add_argument("--agents", default="research,welfare", help="of the demonstration, with commas between")
    parser.add_argument("--test-agents", action="store_true", help="host those for tests, too")
    parser.add_argument("--die-with-stdin", action="store_true", help="end when stdin ends")
    parser.add_argument("--remove-home", action="store_true", help="and remove the home then")
    parser.add_argument("--log-level", default="warning")
    return parser.parse_args(argv)


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
    # What a server that is killed leaves among the temporary files goes with its home.
    os.environ["TMPDIR"] = tempfile.tempdir = str(home)
    os.chdir(home)


async def _serve(
    arguments: argparse.Namespace, *, home: Path, held: HeldPorts, port: int, out: TextIO, ending: Ending
) -> None:
    # Only now: Parlant reads the environment when it is imported.
    import parlant.sdk as p
    from parlant.core.engines.alpha.optimization_policy import BasicOptimizationPolicy, OptimizationPolicy
    from parlant.core.engines.alpha.perceived_performance_policy import PerceivedPerformancePolicy

    from . import agents, durable, memory, nlp, pacing
    from .gates import Gates

    roles = agents.choose(filter(None, arguments.agents.split(",")), test_agents=arguments.test_agents)
    voices = {role.name: role.voice() for role in roles.values()}
    service = nlp.OfflineNLPService(nlp.Cast(voices, Gates(home / "gates")))
    ids: dict[str, str] = {}

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
    async with contextlib.AsyncExitStack() as stack:
        if arguments.store == "local":
            durable.install()
            sessions, customers = "local", "local"
        else:
            sessions, customers = await stack.enter_async_context(memory.session_store()), "transient"
        # Leaving the server's context is what makes it serve.
        server = await stack.enter_async_context(
            p.Server(
                port=port,
                tool_service_port=held.hold("127.0.0.1"),
                nlp_service=lambda container: service,
                session_store=sessions,
                customer_store=customers,
                log_level=p.LogLevel[arguments.log_level.upper()],
                configure_container=configure,
                **({"host": arguments.host} if "host" in inspect.signature(p.Server).parameters else {}),
            )
        )
        ids.update(await agents.create(server, roles))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    out = _keep_stdout()
    held = HeldPorts()
    try:
        port = held.hold(arguments.host, arguments.port)
    except OSError as error:
        print(f"cannot listen on {arguments.host}:{arguments.port}: {error}", file=sys.stderr)
        return 1
    home = arguments.home
    temporary = home is None
    if temporary:
        home = Path(tempfile.mkdtemp(prefix="parlant-sync-demo-"))
    home = home.resolve()
    ending = Ending(home if temporary else None)
    ending.install()
    if arguments.die_with_stdin:
        ending.with_stdin(home if arguments.remove_home else None)
    try:
        _environment(home, arguments.policy)
        asyncio.run(_serve(arguments, home=home, held=held, port=port, out=out, ending=ending))
    finally:
        ending.clean_up()
    return 0
