"""``close()`` with a poll in flight: one session, and a thousand."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.contestants import Thread
from benchmarks.rows import OURS, THREAD, Row, median, percentile
from benchmarks.running import Bench, Desk

# The hand-written thread's poll, in seconds: its join waits for that. A real one waits for 60.
_WAIT = 2


def measure(bench: Bench) -> list[Row]:
    count, many = bench.pick(60, 5), bench.pick(1000, 20)
    ours = bench.rounds([OURS], lambda name: bench.work("closing.one", name, count=count))[OURS]
    thread = bench.rounds([THREAD], lambda name: bench.work("closing.one", name, count=1), runs=bench.pick(3, 1))[
        THREAD
    ]
    all_at_once = bench.rounds([OURS], lambda name: bench.work("closing.many", name, count=many))[OURS]
    p99 = percentile([seconds for run in ours for seconds in run], 99)
    first = Row(
        "closing",
        "close() with a poll in flight, 1 session, p99",
        "<= 10 ms",
        "ms",
        {OURS: p99 * 1000, THREAD: median([run[0] for run in thread]) * 1000},
        result=f"{p99 * 1000:.2f} ms",
        met=p99 <= 0.010,
        notes=[f"the hand-written thread was given polls of {_WAIT} s here; its join waits for the poll, up to 60 s"],
    )
    seconds = median(all_at_once)
    second = Row("closing", f"close() of {many:,} sessions", "<= 0.5 s", "s", {OURS: seconds})
    second.result, second.met = f"{seconds:.2f} s", seconds <= 0.5
    return [first, second]


def one(contestant: str, url: str, count: int, **_: Any) -> list[float]:
    """Seconds of each ``close()``, begun once the server holds the poll."""
    seconds = []
    with Desk(url) as desk:
        if contestant == OURS:
            from parlant_sync import Client

            with Client(url) as client:
                for number in range(count):
                    session = client.session(f"idle.{number}", since=0)
                    session.iter_events().close()  # it polls from here on
                    desk.wait_until_held(1)
                    started = time.perf_counter()
                    session.close()
                    seconds.append(time.perf_counter() - started)
                    while desk.report()["held"]:
                        pass
        else:
            thread = Thread(url, wait=_WAIT)
            thread.start("idle.1", 0)
            desk.wait_until_held(1)
            started = time.perf_counter()
            thread.close()
            seconds.append(time.perf_counter() - started)
    return seconds


def many(contestant: str, url: str, count: int, **_: Any) -> float:
    """Seconds of ``client.close()`` over so many sessions whose polls are in flight."""
    from parlant_sync import Client

    with Desk(url) as desk, Client(url) as client:
        for number in range(count):
            client.session(f"idle.{number}", since=0).iter_events().close()  # it polls from here on
        desk.wait_until_held(count)
        started = time.perf_counter()
        client.close()
        return time.perf_counter() - started
