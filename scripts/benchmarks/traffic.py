"""How many requests a turn takes."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.contestants import alternative, is_end
from benchmarks.rows import CONTESTANTS, OURS, Row, medians
from benchmarks.running import Bench, Desk
from benchmarks.wire import Turns

_TURNS = 3
_LENGTH = 150  # ms


def measure(bench: Bench) -> list[Row]:
    runs = bench.rounds(CONTESTANTS, lambda name: bench.work("traffic.turn", name))
    figures = medians(runs)
    limit = Turns.BATCHES + 2
    row = Row("traffic", f"requests of a turn of {Turns.BATCHES} batches", f"<= batches + 2 = {limit}", "", figures)
    row.result, row.met = f"{figures[OURS]:.2f}", figures[OURS] <= limit
    return [row]


def turn(contestant: str, url: str, **_: Any) -> float:
    """Requests for one turn, from before the post until the next poll waits: the mean of a few."""
    agent = f"turn.{_LENGTH}"
    with Desk(url) as desk:
        if contestant == OURS:
            from parlant_sync import Client

            with Client(url) as client:
                session = client.create_session(agent)
                desk.wait_until_held(1)
                before = _count(desk)
                for _turn in range(_TURNS):
                    session.send("hello")
                desk.wait_until_held(1)
                return (_count(desk) - before) / _TURNS
        other = alternative(contestant, url)
        name = other.create(agent)
        stream = other.follow(name, 0)
        before = _count(desk)
        for _turn in range(_TURNS):
            other.post(name, "hello")
            next(event for event in stream if is_end(event))
        time.sleep(0.1)  # the thread's next poll counts as ours does
        return (_count(desk) - before) / _TURNS


def _count(desk: Desk) -> int:
    return sum(desk.report()["requests"].values())
