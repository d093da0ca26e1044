"""How cost grows: events through one session and through a thousand, memory behind a slow reader, idle sessions.

``scripts/bench.py --growth FOLDER`` draws one plot for each. Run once, not in rounds: the shape is what matters.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import svg
from benchmarks.contestants import Thread
from benchmarks.rows import OURS, THREAD
from benchmarks.running import Bench, BenchError
from benchmarks.worker import rss

# Events of each answer, and of all sessions together.
_BATCH = 10
_EVENTS = 50_000
# Events of each answer to the slow reader, and what the server keeps: a reader that is behind reads that much again, by
# one response.
_FLOOD_BATCH = 1000
_KEPT = 20_000
# The slow reader rests so long after so many events: a tenth of the speed at which they come, and less.
_REST, _AFTER = 0.01, 100


def draw(bench: Bench, folder: Path) -> list[Path]:
    """Measure and write three plots. Returns their files."""
    plots = {"events": _throughput, "memory": _memory, "sessions": _sessions}
    files = []
    for name, plot in plots.items():
        bench.say(f"growth: {name} ...")
        files.append(folder / f"growth-{name}.svg")
        files[-1].write_text(plot(bench), "utf-8")
    return files


def _throughput(bench: Bench) -> str:
    counts = (1, 10, 100, 1000) if not bench.quick else (1, 10)
    points = [(n, bench.work("growth.throughput", OURS, sessions=n)) for n in counts]
    return svg.lines(
        f"Events per second of CPU, {_BATCH} in each answer",
        "sessions that are read at the same time",
        {"events a second": points},
        logarithmic=True,
    )


def _memory(bench: Bench) -> str:
    total = bench.pick(1_000_000, 60_000)
    series = {}
    # An unbounded queue is given a part of the events only, so that it fits into the machine.
    for who, label, part in ((OURS, "parlant_sync", 1), (THREAD, "a thread with an unbounded queue", 10)):
        found = bench.work("growth.flood", who, total=total // part)
        series[label] = [(passed, size / 1024) for passed, size in found]
    return svg.lines("Memory (MiB) while events pass a slow reader", "events that have passed", series)


def _sessions(bench: Bench) -> str:
    counts = (100, 1000, 10_000) if not bench.quick else (5, 20)
    names = {"memory (KiB)": ("rss", 1), "time to open (ms)": ("start", 1000), "time to close (ms)": ("close", 1000)}
    series: dict[str, list[tuple[float, float]]] = {label: [] for label in (*names, "CPU of one poll (ms)")}
    for count in counts:
        wait = bench.pick(max(5, count // 200), 1)
        try:
            found = bench.work("idle.idle", OURS, count=count, window=0.0, wait=600)
            polled = bench.work("idle.idle", OURS, count=count, window=wait * 1.5, wait=wait)
        except BenchError as error:
            bench.say(f"{count} sessions failed: {error}")
            continue
        for label, (name, factor) in names.items():
            each = found[name] if name == "rss" else found[name] / count
            series[label].append((count, each * factor))
        series["CPU of one poll (ms)"].append((count, polled["cpu"] / max(1.0, polled["polls"]) * 1000))
    return svg.lines("Cost of each idle session", "sessions in one process", series, logarithmic=True)


def throughput(contestant: str, url: str, sessions: int) -> float:
    """Events per second of CPU until all events of so many sessions are in the caller's hands."""
    from parlant_sync import Client

    each = _EVENTS // sessions
    with Client(url) as client:
        stamp = time.monotonic_ns()
        readers = []
        before = time.process_time()
        for number in range(sessions):
            name = f"flood.{each}.{_BATCH}.{each}.{stamp}.{number}"
            readers.append(client.session(name, since=0).iter_events())
        for reader in readers:
            for event in reader:
                if event.offset == each - 1:
                    break
        return each * sessions / (time.process_time() - before)


def flood(contestant: str, url: str, total: int) -> list[tuple[int, int]]:
    """At most 60 samples while ``total`` events pass a slow reader: how many have passed, and the memory (KiB)."""
    name = f"flood.{total}.{_FLOOD_BATCH}.{_KEPT}.{time.monotonic_ns()}"
    if contestant == THREAD:
        return _thread_flood(url, name, total)

    from parlant_sync import Client

    last = 0
    with Client(url) as client:
        session = client.session(name, since="beginning")
        with _sampled(lambda: session.health.next_offset) as samples:
            for number, event in enumerate(session.iter_events(), 1):
                assert event.offset >= last, "out of order"
                last = event.offset + 1
                if number % _AFTER == 0:
                    time.sleep(_REST)
                if last >= total:
                    break
    return samples[:: max(1, len(samples) // 60)]


def _thread_flood(url: str, name: str, total: int) -> list[tuple[int, int]]:
    thread, given = Thread(url), 0
    with _sampled(lambda: thread.events.qsize() + given) as samples:
        thread.start(name, 0)
        while thread.events.qsize() + given < total:
            for _event in range(_AFTER):
                thread.events.get()
            given += _AFTER
            time.sleep(_REST)
    return samples[:: max(1, len(samples) // 60)]


@contextmanager
def _sampled(passed: Callable[[], int]) -> Iterator[list[tuple[int, int]]]:
    """Looks a hundred times a second at how many events have passed, and at the memory."""
    samples: list[tuple[int, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            samples.append((passed(), rss()))

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    yield samples
    over.set()
    looking.join()
