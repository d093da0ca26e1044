"""How many requests things take: a turn, a list, the first turn after attaching; and how many calls of ours."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contestants import alternative, is_end
from benchmarks.rows import CONTESTANTS, OURS, Row, medians
from benchmarks.running import Bench
from benchmarks.wire import Turns
from benchmarks.worker import Desk

_TURNS = 3
_LENGTH = 150  # ms


def measure(bench: Bench) -> list[Row]:
    figures = medians(bench.rounds(CONTESTANTS, lambda name: bench.work("traffic.turn", name)))
    limit = Turns.BATCHES + 1
    what = f"requests of a turn of {Turns.BATCHES} batches"
    result = f"{figures[OURS]:.2f}"
    turn = Row("traffic", what, "", figures, result, f"≤ batches + 1 = {limit}", figures[OURS] <= limit)
    return [turn, *_lists(bench), _calls(bench)]


def _lists(bench: Bench) -> list[Row]:
    count = bench.pick(50_000, 500)
    found = bench.work("traffic.first", OURS, count=count)
    until_post = found["until_post"]
    rows = [
        Row(
            "attach",
            f"attach to {count:,} events, first send(): requests up to the POST's answer",
            "",
            {OURS: len(until_post)},
            ", ".join(until_post),
            "2",
            len(until_post) <= 2,
            f"the whole call: {', '.join(found['all'])}; {found['bytes']:,} bytes of events were sent",
        )
    ]
    for what, wanted in (("client.session(id).history()", 2), ("client.history(id)", 1)):
        requests, threads = found[what]
        result, met = f"{requests}, {threads or 'no'} threads", requests <= wanted and not threads
        rows.append(Row("attach", f"{what}: requests", "", {OURS: requests}, result, f"{wanted}, no thread", met))
    return rows


def _calls(bench: Bench) -> Row:
    calls, files = bench.work("traffic.calls", OURS)
    return Row(
        "calls",
        "Python calls of ours in one warm send()",
        "",
        {OURS: calls},
        f"{calls} in {files} files",
        "≤ 300 in 15 files",
        calls <= 300 and files <= 15,
        "functions in files of parlant_sync, in the calling thread; a turn of one batch; the median of 20",
    )


def first(contestant: str, url: str, count: int) -> dict[str, Any]:
    """What was requested of a long session: by its first turn in this process, and by lists."""
    from parlant_sync import Client

    name = f"long.{count}.x"
    with Desk(url) as desk:
        desk.forget()
        with Client(url) as client:
            client.session(name).send("hello")
            report = desk.report()
        order = report["order"]
        found = {"until_post": order[: order.index("post") + 1], "all": order, "bytes": report["sent"]}
        lists: dict[str, Callable[[Any], object]] = {
            "client.session(id).history()": lambda client: client.session(name).history(),
            "client.history(id)": lambda client: client.history(name),
        }
        for what, call in lists.items():
            desk.forget()
            with Client(url) as client:
                before = threading.active_count()
                call(client)
                found[what] = (len(desk.report()["order"]), threading.active_count() - before)
    return found


def calls(contestant: str, url: str) -> tuple[int, int]:
    """Calls of Python functions of ours during one ``send()``, in its thread; and the files that they are in."""
    import parlant_sync

    ours = str(Path(parlant_sync.__file__).parent)
    counts, files = [], []
    with parlant_sync.Client(url) as client:
        session = client.create_session("turn.0")
        for number in range(25):
            seen: Counter[str] = Counter()

            def profile(frame: Any, event: str, argument: object, seen: Counter[str] = seen) -> None:
                if event == "call" and frame.f_code.co_filename.startswith(ours):
                    seen[frame.f_code.co_filename] += 1

            sys.setprofile(profile)
            session.send("hello")
            sys.setprofile(None)
            if number >= 5:  # warm
                counts.append(seen.total())
                files.append(len(seen))
    return int(median(counts)), int(median(files))


def turn(contestant: str, url: str) -> float:
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
