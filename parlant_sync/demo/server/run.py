# mypy: disallow-subclassing-any=False
"""Runs a Parlant server with this package's agents.

Needs only ``parlant`` (3.0 or newer) in the interpreter that runs it. One JSON line on stdout says that the server is
ready and what it hosts; everything else goes to stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from .process import HeldPorts, end_if_failed, end_when_asked

HOST = "127.0.0.1"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="server", description="A Parlant server that needs no network, and ends with its stdin."
    )
    parser.add_argument("--port", type=int, required=True, help="0 takes any free port")
    parser.add_argument("--home", type=Path, required=True, help="where the server may write")
    parser.add_argument("--store", choices=("memory", "local"), default="memory", help="of sessions and customers")
    parser.add_argument("--policy", choices=("development", "production"), default="development")
    parser.add_argument("--test-agents", action="store_true", help="also host the agents for tests")
    parser.add_argument("--remove-home", action="store_true", help="remove the home when stdin ends")
    return parser.parse_args(argv)


def _keep_stdout() -> TextIO:
    """Keep stdout for the one line; send what Parlant prints to stderr."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _environment(home: Path, policy: str) -> None:
    """Parlant reads these when it is imported."""
    home.mkdir(parents=True, exist_ok=True)
    for name in list(os.environ):
        # No telemetry, and no modules or settings of another server.
        if name.startswith(("OTEL_", "PARLANT_")):
            del os.environ[name]
    os.environ["PARLANT_HOME"] = str(home)
    os.environ["PARLANT_ENV"] = policy
    os.environ["PARLANT_ADMIN_API_KEY"] = secrets.token_urlsafe()  # 4.0 wants one in production; nobody here uses it
    # The temporary files of a server that is killed are removed with its home.
    os.environ["TMPDIR"] = tempfile.tempdir = str(home)
    os.chdir(home)


async def _serve(arguments: argparse.Namespace, *, home: Path, held: HeldPorts, port: int, out: TextIO) -> None:
    # Only now: Parlant reads the environment when it is imported.
    import parlant.sdk as p
    from parlant.core.engines.alpha.canned_response_generator import NoMatchResponseProvider
    from parlant.core.engines.alpha.optimization_policy import BasicOptimizationPolicy, OptimizationPolicy
    from parlant.core.engines.alpha.perceived_performance_policy import PerceivedPerformancePolicy

    from . import hooks, nlp, patches
    from .agents import DEMO, MATRIX, TEST, Agents

    if nlp.COMPASS:
        from parlant.core.cost_control import CostControlPolicy

        from . import compass

    roles = {**DEMO, **(TEST if arguments.test_agents else {})}
    if arguments.policy == "production":  # which does not allow agents to be made or changed over REST
        roles = {name: role for name, role in roles.items() if name not in MATRIX}
    voices = {role.name: role.voice() for role in roles.values()}
    cast = nlp.Cast(voices, nlp.Gates(home / "gates"))
    service = nlp.OfflineNLPService(cast)
    agents: Agents
    base_url = f"http://{HOST}:{port}"

    class Optimization(BasicOptimizationPolicy):
        # The cache is a file that is written again for every text, and embedding costs nothing here.
        def use_embedding_cache(self, hints: Any = None) -> bool:
            return False

    async def configure(container: Any) -> Any:
        container[OptimizationPolicy] = Optimization()
        container[NoMatchResponseProvider] = hooks.SayTheDraft()
        # Only Parlant 3.0 asks for this one.
        container[PerceivedPerformancePolicy] = hooks.ByName({role.name: role.policy() for role in roles.values()})
        if nlp.COMPASS:
            container[CostControlPolicy] = compass.CostControl(cast)
        return container

    async def announce() -> None:
        await agents.create_over_rest(base_url)
        ready = {
            "ready": True,
            "url": base_url,
            "port": port,
            "version": version("parlant"),
            "agents": agents.ids,
            "streaming": nlp.STREAMING,
        }
        print(json.dumps(ready), file=out, flush=True)

    tasks: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references

    def started(listening: int) -> None:
        if listening == port:
            task = asyncio.get_running_loop().create_task(announce())
            tasks.add(task)
            task.add_done_callback(end_if_failed)

    held.give_to_uvicorn(started)
    async with contextlib.AsyncExitStack() as stack:
        if arguments.store == "local":
            patches.make_json_files_survive_a_kill()
            patches.pass_over_other_sessions()
            sessions, customers = "local", "local"
        else:
            sessions, customers = await stack.enter_async_context(patches.session_store_in_memory()), "transient"
        # Leaving the server's context is what makes it serve.
        server = await stack.enter_async_context(
            p.Server(
                port=port,
                tool_service_port=held.hold(HOST),
                nlp_service=lambda container: service,
                session_store=sessions,
                customer_store=customers,
                log_level=p.LogLevel.WARNING,
                configure_container=configure,
                configure_hooks=hooks.install,
                **({"host": HOST} if "host" in inspect.signature(p.Server).parameters else {}),
            )
        )
        agents = Agents(server, roles)
        await agents.create()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    out = _keep_stdout()
    held = HeldPorts()
    try:
        port = held.hold(HOST, arguments.port)
    except OSError as error:
        print(f"cannot listen on {HOST}:{arguments.port}: {error}", file=sys.stderr)
        return 1
    home = arguments.home.resolve()
    end_when_asked(home if arguments.remove_home else None)
    _environment(home, arguments.policy)
    asyncio.run(_serve(arguments, home=home, held=held, port=port, out=out))
    return 0
