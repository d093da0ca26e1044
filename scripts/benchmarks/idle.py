"""A thousand sessions in which nothing happens: how soon all poll, and what they cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.contestants import Official, Thread
from benchmarks.process import cpu, rss, wake_ups
from benchmarks.rows import OFFICIAL, OURS, THREAD, Row, median
from benchmarks.running import Bench, Desk

# A client of its own for each session is what the official one needs; each takes a hundredth of a second and more.
_FEW = 50
_SHORT = 5.0


def measure(bench: Bench) -> list[Row]:
    count = bench.pick(1000, 20)
    window = _SHORT if not bench.quick else 0.5
    counts = {OURS: count, THREAD: count, OFFICIAL: min(_FEW, count)}

    def once(name: str) -> Any:
        return bench.work("idle.idle", name, count=counts[name], window=window)

    plain = bench.rounds((OURS, THREAD, OFFICIAL), once)
    server = bench.tls()
    tls = []
    if server is not None:
        tls = bench.rounds([OURS], lambda name: bench.work("idle.idle", name, server, count=count, window=window))[OURS]
    # Once over a whole minute, in which each of them polls anew.
    wait = bench.pick(60, 1)
    minute = bench.work("idle.idle", OURS, count=count, window=wait * 1.05, wait=wait)
    return [
        _start(count, plain[OURS], tls),
        *_memory(count, plain, tls),
        *_rest(count, plain[OURS], tls, minute, wait),
        *_many(bench),
    ]


def _many(bench: Bench) -> list[Row]:
    count = bench.pick(10_000, 30)
    runs = [bench.work("idle.idle", OURS, count=count, window=1.0, wait=600) for _ in range(bench.pick(3, 1))]
    rows = []
    for what, name, unit, limit in (
        ("memory of each", "rss", "KiB", 48),
        ("to open all", "start", "s", 15),
        ("to close all", "close", "s", 2.5),
    ):
        value = _of(runs, name)
        rows.append(Row("many", f"{count:,} sessions, polls held: {what}", f"<= {limit} {unit}", unit, {OURS: value}))
        rows[-1].result, rows[-1].met = f"{value:.3g} {unit}", value <= limit
    return rows


def _of(runs: list[Any], name: str) -> float:
    return median([run[name] for run in runs])


def _start(count: int, plain: list[Any], tls: list[Any]) -> Row:
    seconds = _of(plain, "start")
    row = Row("idle", f"{count:,} sessions: all polling", "<= 5 s after the start (plain)", "s", {OURS: seconds})
    row.result, row.met = f"{seconds:.2f} s", seconds <= 5.0
    if tls:
        row.result += f", TLS {_of(tls, 'start'):.2f} s"
    return row


def _memory(count: int, plain: dict[str, list[Any]], tls: list[Any]) -> list[Row]:
    rows = []
    figures = {name: _of(runs, "rss") for name, runs in plain.items()}
    row = Row("idle", f"{count:,} idle sessions: memory of each", "<= 64 KiB", "KiB", figures)
    row.result, row.met = f"{figures[OURS]:.0f} KiB", figures[OURS] <= 64
    if OFFICIAL in figures:
        row.notes.append(f"the official client by {min(_FEW, count)} sessions, each with a client and a thread")
    rows.append(row)
    if tls:
        size = _of(tls, "rss")
        rows.append(Row("idle", f"{count:,} idle sessions over TLS: memory of each", "", "KiB", {OURS: size}))
        rows[-1].result = f"{size:.0f} KiB"
    return rows


def _rest(count: int, plain: list[Any], tls: list[Any], minute: Any, wait: int) -> list[Row]:
    share, woken = _of(plain, "cpu"), _of(plain, "wake_ups")
    between = Row("idle", f"{count:,} idle sessions: CPU between polls", "< 0.5 % of a core", "%", {OURS: share})
    between.result, between.met = f"{share:.3f} %", share < 0.5
    wakes = Row("idle", f"{count:,} idle sessions: wake-ups between polls", "none", "", {OURS: woken})
    wakes.result, wakes.met = f"{woken:.0f}", woken == 0
    if tls:
        between.result += f", TLS {_of(tls, 'cpu'):.3f} %"
        wakes.result += f", TLS {_of(tls, 'wake_ups'):.0f}"
    whole = Row("idle", f"{count:,} idle sessions: CPU over {wait} s, each polling anew once", "<= 0.9 %", "%", {})
    whole.figures = {OURS: minute["cpu"]}
    whole.result, whole.met = f"{minute['cpu']:.2f} %", minute["cpu"] <= 0.9
    polls = minute["polls"] / count
    requests = Row("idle", f"requests of an idle session in {wait} s", "1", "", {OURS: polls})
    requests.result, requests.met = f"{polls:.2f}", polls <= 1.05
    return [between, wakes, whole, requests]


def idle(
    contestant: str, url: str, authority: str, count: int, window: float, wait: int = 60, **_: Any
) -> dict[str, float]:
    """Opens ``count`` sessions one after the other, waits until all poll, and then lets them be for ``window`` s."""
    open_one, close = _opener(contestant, url, authority, wait)
    with Desk(url, authority) as desk:
        open_one("first")  # what is made once, by whoever is first, is no session's
        desk.wait_until_held(1)
        before, started = rss(collect=True), time.perf_counter()
        for number in range(count):
            open_one(str(number))
        desk.wait_until_held(count + 1)
        start = time.perf_counter() - started
        size = (rss(collect=True) - before) / count
        asked, woken, spent = desk.report()["requests"]["poll"], wake_ups(), cpu()
        threading.Event().wait(window)
        # Of one moment: to look at a thousand threads takes longer than they do.
        share = (cpu() - spent) / window * 100
        result = {"start": start, "rss": size, "cpu": share, "wake_ups": wake_ups() - woken}
        result["polls"] = desk.report()["requests"]["poll"] - asked
        started = time.perf_counter()
        close()
        result["close"] = time.perf_counter() - started
    return result


def _opener(contestant: str, url: str, authority: str, wait: int) -> tuple[Callable[[str], object], Callable[[], None]]:
    kept: list[Any] = []
    if contestant == OURS:
        from parlant_sync import Client

        client = Client(url, verify=authority or True, poll_wait=wait)
        return (lambda name: kept.append(client.session(f"idle.{name}", since=0).iter_events())), client.close
    if contestant == THREAD:

        def start(name: str) -> None:
            thread = Thread(url, wait=wait)
            kept.append(thread)
            thread.start(f"idle.{name}", 0)

        return start, lambda: None  # daemons: this process ends

    def follow(name: str) -> None:
        client = Official(url)
        kept.append(client)
        thread = threading.Thread(target=lambda: next(client.follow(f"idle.{name}", 0)), daemon=True)
        thread.start()

    return follow, lambda: None
