"""How cost grows: events through one session and through a thousand, memory behind a slow reader, idle sessions.

``scripts/bench.py --growth FOLDER`` draws one plot for each. Run once, not in rounds: the shape is what matters.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import svg
from benchmarks.rows import OURS, THREAD
from benchmarks.running import Bench, BenchError

# Events of each answer, and of all sessions together.
_BATCH = 10
_EVENTS = 50_000


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
        {"events a second": [(n, found["events"] / found["cpu"]) for n, found in points]},
        logarithmic=True,
    )


def _memory(bench: Bench) -> str:
    total = bench.pick(1_000_000, 60_000)
    series = {}
    for who, label, part in ((OURS, "parlant_sync", 1), (THREAD, "a thread with an unbounded queue", 10)):
        found = bench.work("memory.flood", who, total=total // part)["series"]
        series[label] = [(passed, size / 1024) for passed, size in found]
    return svg.lines("Memory (MiB) while events pass a slow reader", "events that have passed", series)


def _sessions(bench: Bench) -> str:
    counts = (100, 1000, 10_000) if not bench.quick else (5, 20)
    names = {"memory (KiB)": ("rss", 1), "time to open (ms)": ("start", 1000), "time to close (ms)": ("close", 1000)}
    series: dict[str, list[tuple[float, float]]] = {label: [] for label in (*names, "CPU of one poll (ms)")}
    for count in counts:
        try:
            found = bench.work("idle.idle", OURS, count=count, window=1.0, wait=600)
            polled = bench.work("growth.polls", OURS, count=count, wait=bench.pick(max(5, count // 200), 1))
        except BenchError as error:
            bench.say(f"{count} sessions failed: {error}")
            continue
        for label, (name, factor) in names.items():
            each = found[name] if name == "rss" else found[name] / count
            series[label].append((count, each * factor))
        series["CPU of one poll (ms)"].append((count, polled * 1000))
    return svg.lines("Cost of each idle session", "sessions in one process", series, logarithmic=True)


def throughput(contestant: str, url: str, sessions: int, **_: Any) -> dict[str, float]:
    """CPU seconds until all events of so many sessions are in the caller's hands."""
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
        cpu = time.process_time() - before
    return {"events": each * sessions, "cpu": cpu}


def polls(contestant: str, url: str, count: int, wait: int, **_: Any) -> float:
    """CPU seconds of one poll that brings nothing, among so many sessions."""
    from benchmarks.idle import idle

    found = idle(OURS, url, "", count, window=wait * 1.5, wait=wait)
    return found["cpu"] / 100 * wait * 1.5 / max(1.0, found["polls"])
