"""A session that nothing happens in, over several empty polls, and what happens then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from support.contract_http import Traffic
from support.contract_steps import list_of, texts
from support.waiting import Background, wait_until

from parlant_sync import Client


def test_a_turn_after_several_empty_polls(server: Any, make_client: Callable[..., Client]) -> None:
    """Nothing is missed, and there is one poll at a time, each from the offset after the last event."""
    traffic = Traffic()
    client = make_client(server, poll_wait=1, session_factory=traffic)
    session = client.create_session(server.agents["quick"])
    reader = session.iter_events()
    call = Background(list, reader)
    wait_until(lambda: client.stats().idle_polls >= 3)
    assert session.send("after a while").text == "echo: after a while"
    idle = client.stats().idle_polls
    wait_until(lambda: client.stats().idle_polls >= idle + 1)
    assert session.send("and again").text == "echo: and again"
    history = session.history()
    wait_until(lambda: reader.cursor >= history[-1].offset)
    reader.close()
    events = call.result()
    assert texts(events) == ["echo: after a while", "echo: and again"]
    assert [event.offset for event in events] == [event.offset for event in history], list_of(events)
    assert traffic.most_polls[f"/sessions/{session.id}/events"] == 1
    wait_until(lambda: traffic.polls[-1] == len(history))
    assert traffic.polls == sorted(traffic.polls)
    assert traffic.polls.count(0) >= 4
    stats = client.stats()
    assert stats.events == len(history)
    assert stats.failures == 0
    assert session.health.next_offset == len(history)


def test_what_somebody_else_posts_wakes_an_idle_session(server: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(server, poll_wait=1)
    session = client.create_session(server.agents["quick"])
    reader = session.iter_events(timeout=20, kinds="message", sources="ai_agent")
    wait_until(lambda: client.stats().idle_polls >= 1)
    body = {"kind": "message", "source": "customer", "message": "from elsewhere"}
    server.request("POST", f"/sessions/{session.id}/events", json=body)
    assert next(reader).message == "echo: from elsewhere"


def test_closing_does_not_wait_for_the_poll(server: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(server, poll_wait=60)
    sessions = [client.create_session(server.agents["quick"]) for _ in range(5)]
    waiting = [Background(next, session.iter_events(), None) for session in sessions]
    wait_until(lambda: client.stats().polls >= 5)
    started = time.monotonic()
    client.close()
    # Its polls have 55 seconds to go: without being woken they would have been left to themselves after five.
    assert time.monotonic() - started < 4
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("parlant-sync-poll-")]
    assert [call.result(2) for call in waiting] == [None] * 5
    assert all(session.closed for session in sessions)


def test_a_parked_session_goes_on_where_it_was(server: Any, make_client: Callable[..., Client]) -> None:
    """Nobody uses it: its poller stops. The next use starts it again, and what came meanwhile is there."""
    client = make_client(server, poll_wait=1, idle_timeout=1)
    session = client.create_session(server.agents["quick"])
    assert session.send("before").text == "echo: before"
    wait_until(lambda: session.health.state == "parked")
    body = {"kind": "status", "source": "customer_ui", "status": "typing", "data": {"while": "parked"}}
    server.request("POST", f"/sessions/{session.id}/events", json=body)
    assert session.send("after").text == "echo: after"
    events = list(session.iter_events(timeout=0))
    assert [event.offset for event in events] == [event.offset for event in session.history()]
    assert [event.data["data"] for event in events if event.source == "customer_ui"] == [{"while": "parked"}]
    assert texts(events) == ["echo: before", "echo: after"]
