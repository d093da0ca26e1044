"""Reading a long history: 50,000 events at once. In seconds of CPU, which other programs change least."""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.contestants import alternative
from benchmarks.rows import CONTESTANTS, LIMIT, OFFICIAL, OURS, THREAD, Row, medians, ratio
from benchmarks.running import Bench

# In the first small run everything is loaded and connected that is so once in a process.
_WARM_UP = 200
_FAST = "parlant_sync with orjson"


def measure(bench: Bench) -> list[Row]:
    count = bench.pick(50_000, 500)
    bench.work("backlog.history", LIMIT, count=count)  # the server makes the events
    lists = bench.rounds((*CONTESTANTS, _FAST), lambda name: bench.work("backlog.history", name, count=count))
    streams = bench.rounds((OURS, THREAD, LIMIT), lambda name: bench.work("backlog.iterate", name, count=count))
    fast = {OURS: lists.pop(_FAST), LIMIT: lists[LIMIT]}
    whole, faster, of_fast, of_stream = (
        ratio(runs, *names)
        for runs, names in (
            (lists, (OURS, LIMIT)),
            (lists, (OFFICIAL, OURS)),
            (fast, (OURS, LIMIT)),
            (streams, (OURS, LIMIT)),
        )
    )
    what = f"{count:,} events: history()"
    bar = "≤ 1.15 x limit, ≥ 15 x faster than the official client"
    result = f"{whole:.2f} x limit, {faster:.1f} x faster"
    return [
        Row("backlog", what, "s", medians(lists), result, bar, whole <= 1.15 and faster >= 15),
        Row(
            "backlog",
            f'{what} with the extra "speed"',
            "s",
            medians(fast),
            f"{of_fast:.2f} x limit",
            "≤ 0.6 x limit",
            of_fast <= 0.6,
        ),
        Row(
            "backlog",
            f"{count:,} events: iter_events()",
            "s",
            medians(streams),
            f"{of_stream:.2f} x limit",
            "≤ 3.0 x limit",
            of_stream <= 3.0,
        ),
    ]


def history(contestant: str, url: str, count: int) -> float:
    """Seconds of CPU for one list."""
    if contestant not in (OURS, _FAST):
        other = alternative(contestant, url)
        other.list(f"backlog.{_WARM_UP}.x", 0, 0)
        started = time.process_time()
        found = other.list(f"backlog.{count}.x", 0, 0)
        seconds = time.process_time() - started
        assert len(found) == count
        return seconds

    from parlant_sync import Client
    from parlant_sync._http import codec

    if contestant == OURS:
        codec._LONG = sys.maxsize  # no body is so long: as it is without the extra
    with Client(url) as client:
        client.session(f"backlog.{_WARM_UP}.x", since=_WARM_UP).history()
        session = client.session(f"backlog.{count}.x", since=count)
        started = time.process_time()
        events: list[Any] = session.history()
        seconds = time.process_time() - started
    assert len(events) == count
    return seconds


def iterate(contestant: str, url: str, count: int) -> float:
    """Seconds of CPU from the beginning of the list to the last event in the caller's hands."""
    if contestant == OURS:
        from parlant_sync import Client

        with Client(url) as client:
            client.session(f"backlog.{_WARM_UP}.x", since=_WARM_UP).history()
            session = client.session(f"backlog.{count}.x", since=count)
            started = time.process_time()
            with session.iter_events(since=0) as events:
                for _event in events:
                    if events.cursor == count - 1:
                        break
            return time.process_time() - started
    other = alternative(contestant, url)
    started = time.process_time()
    for number, _other_event in enumerate(other.follow(f"backlog.{count}.x", 0), 1):
        if number == count:
            break
    # The thread is left to its poll: it is daemon, and this process ends.
    return time.process_time() - started
