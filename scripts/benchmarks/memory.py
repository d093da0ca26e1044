"""Memory while millions of events pass a reader that is slower than they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.contestants import Thread
from benchmarks.process import rss
from benchmarks.rows import OURS, THREAD, Row, median
from benchmarks.running import Bench

_BATCH = 1000
# What the server keeps: a reader that is behind reads that much again, by one response.
_KEPT = 20_000
# The reader rests so long after so many events: a tenth of the speed at which they come, and less.
_REST, _AFTER = 0.01, 100
# An unbounded queue is given a part of the events only, so that it fits into the machine.
_PART = 20
# Peaks come with each response that is read, and differ a little; a queue that grows would add a thousand MiB.
_GROWTH = 16 * 1024  # KiB


def measure(bench: Bench) -> list[Row]:
    # Four million: on a quick machine the first one has passed before the memory has come to its level.
    total = bench.pick(4_000_000, 60_000)
    runs = bench.rounds([OURS], lambda name: bench.work("memory.flood", name, total=total), runs=bench.pick(3, 1))[OURS]
    other = bench.work("memory.flood", THREAD, total=total // _PART)
    growth = median([run["end"] - run["early"] for run in runs])
    unbounded = (other["end"] - other["start"]) * _PART
    most = median([run["end"] for run in runs]) / 1024
    row = Row(
        "memory",
        f"{total:,} events pass a slow reader: growth of memory",
        "flat",
        "MiB",
        {OURS: growth / 1024, THREAD: unbounded / 1024},
        result=f"{growth / 1024:+.1f} MiB from the first half to the second, {most:.0f} MiB in all",
        met=growth <= _GROWTH,
        notes=[
            f"the server keeps the newest {_KEPT:,} events; the reader was given "
            f"{median([run['given'] for run in runs]):,.0f} of them in order",
            f"the hand-written thread's unbounded queue by one event in {_PART}, its growth times {_PART}",
        ],
    )
    return [row]


class Sampler:
    """Looks at the memory a hundred times a second, and at how many events have passed."""

    def __init__(self, passed: Callable[[], int]) -> None:
        self._passed = passed
        self._samples: list[tuple[int, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.01):
            self._samples.append((self._passed(), rss()))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def series(self) -> list[tuple[int, int]]:
        """At most 60 samples: how many events had passed, and the memory (KiB)."""
        return self._samples[:: max(1, len(self._samples) // 60)]

    def peak(self, first: float, last: float) -> float:
        """The most memory (KiB) while the events from ``first`` to ``last`` passed."""
        return max((size for passed, size in self._samples if first <= passed <= last), default=0)


def flood(contestant: str, url: str, total: int, **_: Any) -> dict[str, Any]:
    """The most memory (KiB) while the first half of the events passed, and while the second half did."""
    name = f"flood.{total}.{_BATCH}.{_KEPT}.{time.monotonic_ns()}"
    if contestant == OURS:
        return _ours(url, name, total)
    thread = Thread(url)
    given = 0
    sampler = Sampler(lambda: thread.events.qsize() + given)
    start = rss()
    thread.start(name, 0)
    while thread.events.qsize() + given < total:
        for _event in range(_AFTER):
            thread.events.get()
        given += _AFTER
        time.sleep(_REST)
    sampler.stop()
    return {"start": start, "end": sampler.peak(0, total), "given": given, "series": sampler.series()}


def _ours(url: str, name: str, total: int) -> dict[str, Any]:
    from parlant_sync import Client

    given = last = 0
    with Client(url) as client:
        session = client.session(name, since="beginning")
        sampler = Sampler(lambda: session.health.next_offset)
        for event in session.iter_events():
            assert event.offset >= last, "out of order"
            last = event.offset + 1
            given += 1
            if given % _AFTER == 0:
                time.sleep(_REST)
            if last >= total:
                break
        sampler.stop()
    peaks = {"early": sampler.peak(0, total / 2), "end": sampler.peak(total / 2, total)}
    return {**peaks, "given": given, "series": sampler.series()}
