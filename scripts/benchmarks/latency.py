"""From the wire to the caller: single events, and the end of a turn. The server stamps what it sends."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice
from statistics import median
from typing import Any

from benchmarks.contestants import alternative, is_end
from benchmarks.rows import CONTESTANTS, LIMIT, OURS, Row, difference, medians, percentile
from benchmarks.running import Bench
from benchmarks.wire import STAMP

# Milliseconds between a poll and its event: the contestant is waiting for it by then.
_PAUSE = 5
# The first ones warm up what is made once.
_SKIPPED = 5


def measure(bench: Bench) -> list[Row]:
    count = bench.pick(400, 20)
    events = bench.rounds(CONTESTANTS, lambda name: bench.work("latency.events", name, count=count))
    turns = bench.rounds(CONTESTANTS, lambda name: bench.work("latency.turns", name, count=bench.pick(200, 8)))
    return [
        *_rows("latency", "bytes on the socket → event in hand", events),
        *_rows("turn-end", "last event of a turn on the wire → send() returns", turns),
    ]


def _rows(name: str, what: str, samples: dict[str, list[list[float]]]) -> list[Row]:
    rows = []
    for label, pick, bar in (("median", median, 0.2), ("p99", lambda v: percentile(v, 99), 3.0)):
        runs = {who: [pick(run) for run in found] for who, found in samples.items()}
        over = difference(runs, OURS, LIMIT)
        limit = f"≤ {bar} ms over the limit"
        rows.append(Row(name, f"{what}, {label}", "ms", medians(runs), f"{over:+.2f} ms", limit, over <= bar))
    return rows


def _age(metadata: Any) -> float:
    """Milliseconds since the server's stamp."""
    return float(time.monotonic_ns() - metadata[STAMP]) / 1e6


def events(contestant: str, url: str, count: int) -> list[float]:
    """Milliseconds from the stamp to the caller, for each of ``count`` events that come one by one."""
    name = f"tick.{_PAUSE}.x"
    if contestant == OURS:
        from parlant_sync import Client

        with Client(url) as client:
            return _collect((event.metadata for event in client.session(name, since=0).iter_events()), count)
    other = alternative(contestant, url)
    return _collect((event["metadata"] for event in other.follow(name, 0)), count)


def _collect(stream: Iterable[Any], count: int) -> list[float]:
    return [_age(metadata) for metadata in islice(stream, count + _SKIPPED)][_SKIPPED:]


def turns(contestant: str, url: str, count: int) -> list[float]:
    """Milliseconds from the stamp of a turn's last event until the caller knows that the turn is over."""
    agent, ages = f"turn.{3 * _PAUSE}", []
    if contestant == OURS:
        from parlant_sync import Client

        with Client(url) as client:
            session = client.create_session(agent)
            for _turn in range(count + _SKIPPED):
                reply = session.send("hello")
                ages.append(_age(reply.events[-1].metadata))
    else:
        other = alternative(contestant, url)
        name = other.create(agent)
        stream = other.follow(name, 0)
        for _turn in range(count + _SKIPPED):
            other.post(name, "hello")
            ages.append(_age(next(event for event in stream if is_end(event))["metadata"]))
    return ages[_SKIPPED:]
