"""Opens sessions until there is no descriptor left. argv: URL."""

from __future__ import annotations

import os
import resource
import sys

from parlant_sync import Client, TransportError


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


client = Client(sys.argv[1])
first = client.create_session("quick")
assert first.send("warm").text == "echo: warm"  # everything is imported now
reader = first.iter_events(timeout=10)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
opened = []
refused: TransportError | None = None
for _ in range(100):
    try:
        opened.append(client.create_session("quick"))
        opened[-1].history()
    except TransportError as error:
        refused = error
        break
# A poller may be the one that got no descriptor: it backs off, and its state says so.
troubled = [session for session in opened if session.health.last_error]
assert refused is not None or troubled, "100 sessions with 64 descriptors?"
if refused is not None:
    assert "open files" in str(refused).lower() or "resource" in str(refused).lower(), refused
assert first.history(), "what has its connections works on"

for session in opened:
    session.close()
assert first.send("room again", timeout=30).text == "echo: room again"
again = client.create_session("quick")
assert again.send("recovered", timeout=30).text == "echo: recovered"
again.close()
held = [event.offset for event in first.history()]
got = []
for event in reader:
    got.append(event.offset)
    if len(got) == len(held):
        break
assert got == held, (got, held)
client.close()
assert descriptors() < 20, os.listdir("/proc/self/fd")
print("READY", len(opened), refused)
