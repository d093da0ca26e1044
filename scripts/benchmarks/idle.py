"""Sessions in which nothing happens: a thousand over a minute, in which each of them polls anew, and ten thousand."""

from __future__ import annotations

import threading
import time
from statistics import median
from typing import Any

from benchmarks.rows import OURS, Row
from benchmarks.running import Bench
from benchmarks.worker import Desk, collected_rss


def measure(bench: Bench) -> list[Row]:
    return [*_a_minute(bench), *_many(bench)]


def _a_minute(bench: Bench) -> list[Row]:
    count, wait = bench.pick(1000, 20), bench.pick(60, 1)
    window = wait * 1.05
    found = bench.work("idle.idle", OURS, count=count, window=window, wait=wait)
    share, polls = found["cpu"] / window * 100, found["polls"] / count
    spent = f"{count:,} idle sessions: CPU over {window:.0f} s, each polling anew once"
    requests = f"requests of an idle session in {window:.0f} s"
    return [
        Row("idle", spent, "%", {OURS: share}, f"{share:.2f} %", "≤ 0.9 %", share <= 0.9),
        Row("idle", requests, "", {OURS: polls}, f"{polls:.2f}", "1", polls <= 1.05),
    ]


def _many(bench: Bench) -> list[Row]:
    count = bench.pick(10_000, 30)
    runs = [bench.work("idle.idle", OURS, count=count, window=0.0, wait=600) for _ in range(bench.pick(3, 1))]
    rows = []
    for what, name, unit, limit in (
        ("memory of each", "rss", "KiB", 48),
        ("to open all", "start", "s", 15),
        ("to close all", "close", "s", 2.5),
    ):
        value = median(run[name] for run in runs)
        what = f"{count:,} sessions, polls held: {what}"
        rows.append(Row("many", what, unit, {OURS: value}, f"{value:.3g} {unit}", f"≤ {limit} {unit}", value <= limit))
    return rows


def idle(contestant: str, url: str, count: int, window: float, wait: int) -> dict[str, float]:
    """Opens ``count`` sessions one after the other, waits until all poll, and then lets them be for ``window`` s.

    Seconds to open and to close all, KiB of each, and of the window the polls and the seconds of CPU.
    """
    from parlant_sync import Client

    with Desk(url) as desk, Client(url, poll_wait=wait) as client:
        readers = [client.session("idle.first", since=0).iter_events()]  # what is made once is no session's
        desk.wait_until_held(1)
        before, started = collected_rss(), time.perf_counter()
        readers += [client.session(f"idle.{number}", since=0).iter_events() for number in range(count)]
        desk.wait_until_held(count + 1)
        found: dict[str, Any] = {"start": time.perf_counter() - started}
        found["rss"] = (collected_rss() - before) / count
        asked, spent = desk.report()["requests"]["poll"], time.process_time()
        threading.Event().wait(window)
        found["cpu"] = time.process_time() - spent
        found["polls"] = desk.report()["requests"]["poll"] - asked
        started = time.perf_counter()
        client.close()
        found["close"] = time.perf_counter() - started
    return found
