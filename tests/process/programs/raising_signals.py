"""Signal handlers that raise while a reader takes from its mailbox. argv: Mailbox or Plain, hot or blocked, how many.

Prints what came of it: how often a later put hung, or the poller's thread, and how often ``waiting`` was wrong.
"""

from __future__ import annotations

import json
import queue
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Sequence

from parlant_sync._polling.event_feed import Mailbox
from parlant_sync.events import Event

kind, mode, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
seed = 11
chance = random.Random(seed)
BATCH = [Event({"offset": 0})] * 2


class Strike(BaseException):
    pass


class Plain(Mailbox):
    """What queue.Queue does by itself."""

    def _repair(self) -> None:
        pass


def strike(*_: object) -> None:
    raise Strike


def hangs(call: object) -> bool:
    thread = threading.Thread(target=call, daemon=True)  # type: ignore[arg-type]
    thread.start()
    thread.join(3)
    return thread.is_alive()


def one() -> str:
    box = (Plain if kind == "Plain" else Mailbox)(100_000)
    box.catch_up()
    stop = threading.Event()

    def produce() -> None:
        while not stop.wait(chance.uniform(0, 0.002)):
            box.offer(BATCH)

    producer = threading.Thread(target=produce, daemon=True)
    if mode == "hot":
        for _ in range(6000):
            box.offer(BATCH)
    else:
        producer.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.003))
        while True:
            taken: Sequence[Event] = box.take(10)
            del taken
    except Strike:
        found = "interrupted"
    except queue.Empty:
        found = "not interrupted"
    stop.set()
    if mode != "hot":
        producer.join(3)
        if producer.is_alive():
            return "the poller hangs"
    if hangs(lambda: box.offer(BATCH)):
        return "put hangs"
    box.catch_up()
    if box.waiting != 0:
        return f"{box.waiting} wait in an empty mailbox"
    # A reader that waits is woken by the next event.
    threading.Thread(target=lambda: box.offer(BATCH)).start()
    return found if len(box.take(3)) == 2 and box.waiting == 0 else "the next event was not taken"


signal.signal(signal.SIGALRM, strike)
found: Counter[str] = Counter()
while sum(found.values()) < count:
    try:
        found[one()] += 1
        if kind == "Plain" and len(found) > 1:
            break  # what was to be shown
    except Strike:  # it came late, outside of take()
        signal.setitimer(signal.ITIMER_REAL, 0)
print(json.dumps(found), flush=True)
