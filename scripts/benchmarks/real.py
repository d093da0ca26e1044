"""The same turn on a real Parlant server: what the SDK adds to what the server takes."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

from benchmarks.contestants import alternative, is_end
from benchmarks.rows import CONTESTANTS, LIMIT, OURS, Row, difference, median, medians
from benchmarks.running import Bench


def measure(bench: Bench) -> list[Row]:
    if importlib.util.find_spec("parlant") is None:
        bench.notes.append("parlant is not installed: the real server is left out")
        return []
    from parlant_sync.demo.launcher import DemoServer, DemoServerError

    try:
        demo = DemoServer(test_agents=True, home=bench.folder / "demo").start()
    except DemoServerError as error:
        bench.notes.append(f"the real server did not start and is left out: {str(error).splitlines()[0]}")
        return []
    with_server = f"real server {demo.version}: message -> reply"
    try:
        options: dict[str, Any] = {
            "server_url": demo.base_url,
            "agent": demo.agents["quick"],
            "count": bench.pick(5, 1),
        }
        runs = bench.rounds(CONTESTANTS, lambda name: bench.work("real.turns", name, **options))
    finally:
        demo.stop()
    over = difference(runs, OURS, LIMIT)
    assert over is not None
    row = Row("real", with_server, "", "ms", medians(runs), result=f"{over:+.0f} ms")
    row.notes.append("the others know the end of a turn here, which a hand-written poller has to find out first")
    return [row]


def turns(contestant: str, server_url: str, agent: str, count: int, **_: Any) -> float:
    """Milliseconds from the post to the known end of the turn: the median of ``count``, after one to warm up."""
    seconds = []
    if contestant == OURS:
        from parlant_sync import Client

        with Client(server_url) as client:
            session = client.create_session(agent)
            for _turn in range(count + 1):
                started = time.perf_counter()
                session.send("hello")
                seconds.append(time.perf_counter() - started)
    else:
        other = alternative(contestant, server_url)
        name = other.create(agent)
        stream = other.follow(name, 0)
        for _turn in range(count + 1):
            started = time.perf_counter()
            other.post(name, "hello")
            next(event for event in stream if is_end(event))
            seconds.append(time.perf_counter() - started)
    return median(seconds[1:]) * 1000
