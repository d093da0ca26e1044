"""``close()`` with a poll in flight: one session, and a thousand."""

from __future__ import annotations

import time
from statistics import median

from benchmarks.contestants import Thread
from benchmarks.rows import OURS, THREAD, Row, percentile
from benchmarks.running import Bench
from benchmarks.worker import Desk

# The hand-written thread's poll, in seconds: its join waits for that. A real one waits for 60.
_WAIT = 2


def measure(bench: Bench) -> list[Row]:
    count, many = bench.pick(60, 5), bench.pick(1000, 20)
    (ours,) = bench.rounds([OURS], lambda name: bench.work("closing.one", name, count=count)).values()
    (thread,) = bench.rounds([THREAD], lambda name: bench.work("closing.thread", name), runs=bench.pick(3, 1)).values()
    (all_at_once,) = bench.rounds([OURS], lambda name: bench.work("closing.many", name, count=many)).values()
    p99 = 1000 * percentile([seconds for run in ours for seconds in run], 99)
    seconds = median(all_at_once)
    return [
        Row(
            "closing",
            "close() with a poll in flight, 1 session, p99",
            "ms",
            {OURS: p99, THREAD: 1000 * median(thread)},
            f"{p99:.2f} ms",
            "≤ 10 ms",
            p99 <= 10,
            f"the hand-written thread was given polls of {_WAIT} s here; its join waits for the poll, up to 60 s",
        ),
        Row(
            "closing",
            f"close() of {many:,} sessions",
            "s",
            {OURS: seconds},
            f"{seconds:.2f} s",
            "≤ 0.5 s",
            seconds <= 0.5,
        ),
    ]


def one(contestant: str, url: str, count: int) -> list[float]:
    """Seconds of each ``close()`` of a session, begun once the server holds the poll."""
    from parlant_sync import Client

    seconds = []
    with Desk(url) as desk, Client(url) as client:
        for number in range(count):
            session = client.session(f"idle.{number}", since=0)
            session.iter_events().close()  # it polls from here on
            desk.wait_until_held(1)
            started = time.perf_counter()
            session.close()
            seconds.append(time.perf_counter() - started)
            while desk.report()["held"]:
                pass
    return seconds


def thread(contestant: str, url: str) -> float:
    """The same of the hand-written thread."""
    other = Thread(url, wait=_WAIT)
    with Desk(url) as desk:
        other.start("idle.1", 0)
        desk.wait_until_held(1)
        started = time.perf_counter()
        other.close()
        return time.perf_counter() - started


def many(contestant: str, url: str, count: int) -> float:
    """Seconds of ``client.close()`` over so many sessions whose polls are in flight."""
    from parlant_sync import Client

    with Desk(url) as desk, Client(url) as client:
        for number in range(count):
            client.session(f"idle.{number}", since=0).iter_events().close()  # it polls from here on
        desk.wait_until_held(count)
        started = time.perf_counter()
        client.close()
        return time.perf_counter() - started
