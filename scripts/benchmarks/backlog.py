"""Reading a long history: 50,000 events at once. In seconds of CPU, which other programs change least."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

from benchmarks.contestants import Thread, alternative
from benchmarks.rows import LIMIT, OFFICIAL, OURS, THREAD, Row, medians, ratio
from benchmarks.running import Bench

# In the first small run everything is loaded and connected that is so once in a process.
_WARM_UP = 16
_FAST = "parlant_sync with orjson"


def measure(bench: Bench) -> list[Row]:
    count = bench.pick(50_000, 500)
    bench.work("backlog.history", LIMIT, count=count)  # the server makes the events
    has_orjson = importlib.util.find_spec("orjson") is not None
    names = (OURS, *((_FAST,) if has_orjson else ()), OFFICIAL, THREAD, LIMIT)
    lists = bench.rounds(names, lambda name: bench.work("backlog.history", name, count=count))
    streams = bench.rounds((OURS, THREAD, LIMIT), lambda name: bench.work("backlog.iterate", name, count=count))
    fast = lists.pop(_FAST, [])
    to_limit, to_official = ratio(lists, OURS, LIMIT), ratio(lists, OFFICIAL, OURS)
    assert to_limit is not None
    first = Row("backlog", f"{count:,} events: history()", "<= 1.15 x limit", "s", medians(lists))
    first.met = to_limit <= 1.15
    first.result = f"{to_limit:.2f} x limit"
    if to_official is not None:
        first.bar += ", >= 15 x faster than the official client"
        first.met = first.met and to_official >= 15
        first.result += f", {to_official:.1f} x faster"
    rows = [first]
    if fast:
        with_orjson = {OURS: fast, LIMIT: lists[LIMIT]}
        to_limit = ratio(with_orjson, OURS, LIMIT)
        assert to_limit is not None
        rows.append(Row("backlog", f'{count:,} events: history() with the extra "speed"', "<= 0.6 x limit", "s", {}))
        rows[-1].figures = medians(with_orjson)
        rows[-1].met, rows[-1].result = to_limit <= 0.6, f"{to_limit:.2f} x limit"
    to_limit = ratio(streams, OURS, LIMIT)
    assert to_limit is not None
    second = Row("backlog", f"{count:,} events: iter_events()", "<= 3.0 x limit", "s", medians(streams))
    second.met, second.result = to_limit <= 3.0, f"{to_limit:.2f} x limit"
    return [*rows, second]


def history(contestant: str, url: str, count: int, **_: Any) -> float:
    """Seconds of CPU for one list."""
    if contestant in (OURS, _FAST):
        from parlant_sync import Client
        from parlant_sync._http import codec

        if contestant == OURS:
            codec._fast_loads = None  # as it is without the extra

        with Client(url) as client:
            client.session(f"backlog.{_WARM_UP}.x", since=_WARM_UP).history()
            session = client.session(f"backlog.{count}.x", since=count)
            started = time.process_time()
            found: list[Any] = session.history()
            seconds = time.process_time() - started
    elif contestant == THREAD:
        import requests

        with requests.Session() as http:
            http.get(f"{url}/sessions/backlog.{_WARM_UP}.x/events", params={"wait_for_data": 0}).json()
            started = time.process_time()
            found = http.get(f"{url}/sessions/backlog.{count}.x/events", params={"wait_for_data": 0}).json()
            seconds = time.process_time() - started
    else:
        other = alternative(contestant, url)
        assert not isinstance(other, Thread)
        other.list(f"backlog.{_WARM_UP}.x", 0, 0)
        started = time.process_time()
        found = other.list(f"backlog.{count}.x", 0, 0)
        seconds = time.process_time() - started
        other.close()
    assert len(found) == count
    return seconds


def iterate(contestant: str, url: str, count: int, **_: Any) -> float:
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
