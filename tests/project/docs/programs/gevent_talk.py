"""A conversation under gevent, all of it in greenlets of one thread: several sessions at once, then a prompt end."""

import sys
import threading
import time

from gevent import monkey

monkey.patch_all()  # before anything else is imported

import gevent  # noqa: E402

from parlant_sync import Client, TurnTimeout  # noqa: E402

ticks = 0


def ticking() -> None:
    """Counts only while nobody blocks the one thread."""
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.005)


def talk(client: Client, number: int) -> list[str]:
    session = client.create_session("slow")
    said = [session.send(f"{number}.{n}").text for n in range(3)]
    with session.stream("stream") as turn:
        said.append("".join(turn.text))
    events = [event.offset for event in session.iter_events(timeout=0)]
    assert events == sorted(set(events)), events
    assert len(session.history(kinds="message", sources="customer")) == 4
    return said


def main(url: str) -> None:
    gevent.spawn(ticking)
    client = Client(url)
    before = ticks
    talks = [gevent.spawn(talk, client, number) for number in range(8)]
    for number, one in enumerate(talks):
        assert one.get(timeout=30) == [*(f"echo: {number}.{n}" for n in range(3)), "echo: stream"], one.value
    assert ticks - before > 10, "the event loop stood still"

    session = client.create_session("mute")
    try:
        session.send("anybody there?", timeout=0.3)
    except TurnTimeout:
        pass
    else:
        raise AssertionError("a turn that never comes must end in time")
    assert client.stats().sessions == 9
    started = time.monotonic()
    client.close()
    took = time.monotonic() - started
    assert took < 1, took
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("parlant-sync")]
    assert left == [], left
    print(f"closed 9 sessions in {took * 1000:.0f} ms")


main(sys.argv[1])
