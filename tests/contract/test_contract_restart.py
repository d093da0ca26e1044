"""The server crashes and comes back, with its sessions or without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.contract_steps import is_writing, list_of, texts, wait_for
from support.waiting import Background, wait_until

from parlant_sync import Client, Event, NotFoundError, TransportError, TurnTimeout

# A real server takes some ten seconds to come back, on a busy machine more.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def local(servers: Callable[[str], Any]) -> Any:
    """A server whose sessions outlive it."""
    return servers("local")


def test_the_same_session_goes_on(local: Any, make_client: Callable[..., Client]) -> None:
    """No event is lost or given twice; what is sent meanwhile is posted, once, when the server is back."""
    session = make_client(local).create_session(local.agents["quick"])
    seen: list[Event] = []
    reader = session.iter_events()
    call = Background(seen.extend, reader)
    assert session.send("before").text == "echo: before"
    local.kill()
    wait_until(lambda: session.health.consecutive_failures >= 1)
    # An outage does not end a session, but nobody waits longer than they said.
    for ask in (session.refresh, lambda: session.send("in vain", timeout=1)):
        with pytest.raises(TransportError):
            ask()
    assert list(session.iter_events(since=0, timeout=0.5)) == []
    assert not session.closed
    meanwhile = Background(session.send, "meanwhile", timeout=120)
    local.restart()
    assert meanwhile.result(120).text == "echo: meanwhile"
    assert session.send("after").text == "echo: after"
    history = session.history()
    assert texts(history, "customer") == ["before", "meanwhile", "after"]
    assert texts(history) == ["echo: before", "echo: meanwhile", "echo: after"]
    wait_until(lambda: len(seen) >= len(history))
    reader.close()
    call.result()
    assert [event.offset for event in seen] == [event.offset for event in history], list_of(seen)
    health = session.health
    assert health.state == "polling"
    assert (health.consecutive_failures, health.reconnects) == (0, 1)


def test_a_turn_that_the_crash_cut_has_no_end(local: Any, make_client: Callable[..., Client]) -> None:
    """It gets no last word: who waits for it gets the next turn, which answers both, or runs out of time."""
    client = make_client(local)
    patient, hasty = (client.create_session(local.agents["quick"]) for _ in range(2))
    gate = local.gate()
    waits = Background(patient.send, local.script("quick", "cut off", gate=gate), timeout=120)
    cut = wait_for(patient, is_writing).trace_id
    gives_up = Background(hasty.send, local.script("quick", "cut off", gate=gate), timeout=local.moment)
    wait_for(hasty, is_writing)
    local.kill()
    error = gives_up.error()
    assert isinstance(error, TurnTimeout)
    assert error.event is not None
    local.restart()
    event = patient.post("again")
    reply = waits.result(60)
    assert reply.text == "echo: again"
    assert reply.trace_id == patient.reply_to(event).trace_id
    assert cut not in {event.trace_id for event in reply.events}
    reply = hasty.send("again")
    assert reply.text == "echo: again"
    assert hasty.reply_to(error.event).trace_id == reply.trace_id


def test_a_store_in_memory_forgets_the_session(
    servers: Callable[[str], Any], make_client: Callable[..., Client]
) -> None:
    """Everybody who waits is told, and so is everybody who asks later."""
    server = servers("memory")
    client = make_client(server)
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    reader = session.iter_events()
    turn = Background(session.send, server.script("quick", "never", gate=gate), timeout=120)
    event = wait_for(session, is_writing)
    waiters = [
        turn,
        Background(session.reply_to, session.history()[0], timeout=120),
        Background(list, reader),
        Background(list, session.iter_events(since=event.offset)),
        Background(session.send, "waits for its turn", timeout=120),
    ]
    server.kill()
    wait_until(lambda: session.health.consecutive_failures >= 1)
    assert all(waiter.running for waiter in waiters)
    server.restart()
    for waiter in waiters:
        assert isinstance(waiter.error(), NotFoundError)
    assert session.closed
    assert session.health.state == "ended"
    assert session.health.last_error is not None
    later: list[Callable[[], Any]] = [
        lambda: session.send("hello?"),
        lambda: session.post("hello?"),
        lambda: next(session.iter_events()),
        session.trigger,
        session.refresh,
    ]
    for ask in later:
        with pytest.raises(NotFoundError):
            ask()
    # The client is not harmed: it forgets the session, and goes on with others.
    assert session.id not in client.sessions
    assert client.create_session(server.agents["quick"]).send("anew").text == "echo: anew"
