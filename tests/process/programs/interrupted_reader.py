"""Reads a session while SIGINT comes again and again. argv: URL, session id, how many signals."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading

from parlant_sync import Client

url, session_id, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance = random.Random(3)
inside = threading.Event()  # only a loop is interrupted, not this program's own steps between two loops
enough = threading.Event()


def shoot() -> None:
    for _ in range(count):
        enough.wait(chance.uniform(0.0, 0.01))
        inside.wait()
        inside.clear()
        os.kill(os.getpid(), signal.SIGINT)


client = Client(url)
session = client.session(session_id, since="beginning")
thread = threading.Thread(target=shoot)
thread.start()
seen: list[int] = []
interrupts = 0
while thread.is_alive():
    got: int | None = None
    try:
        inside.set()
        for event in session.iter_events(timeout=0.5):
            got = event.offset
            seen.append(got)
            if not thread.is_alive():
                break  # the last signal came between two loops, and this one would not end
            if not inside.is_set():
                inside.set()
    except KeyboardInterrupt:
        interrupts += 1
        # Between the reader's return and the append the event is on its way: the cursor still names it.
        if session.cursor < session._opened.hub.position.offset and session.cursor not in seen[-1:]:
            seen.append(session.cursor)
signal.signal(signal.SIGINT, signal.SIG_IGN)
thread.join()
held = [event.offset for event in session.history()]
last = seen[-1]
lost = sorted(set(range(last + 1)) - set(seen))
doubled = len(seen) - len(set(seen))
client.close()
if lost or doubled > interrupts or held[0] != 0:
    print(f"lost {lost[:10]}, {doubled} doubled, {interrupts} interrupts")
    raise SystemExit(1)
print("READY", interrupts, len(seen))
