"""How a session ends: deleted on the server during a poll, or closed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.contract_steps import is_writing, wait_for
from support.waiting import Background, wait_until

from parlant_sync import Client, NotFoundError, SessionClosed


def test_a_session_deleted_during_a_poll(server: Any, make_client: Callable[..., Client]) -> None:
    """Somebody else deletes it: everybody who waits is told within about a second, with what the server said."""
    client, other = make_client(server), make_client(server)
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    reader = session.iter_events()
    turn = Background(session.send, server.script("quick", "never", gate=gate))
    wait_for(session, is_writing)
    waiters = [turn, Background(list, reader), Background(session.reply_to, session.history()[0])]
    other.delete_session(session.id)
    for waiter in waiters:
        error = waiter.error(10)
        assert isinstance(error, NotFoundError)
        assert error.status == 404
        assert session.id in str(error)
    server.release(gate)
    assert session.closed
    wait_until(lambda: session.id not in client.sessions)
    with pytest.raises(NotFoundError):
        session.send("hello?")
    with pytest.raises(NotFoundError):
        client.session(session.id)


def test_a_reader_gets_what_had_come_before_the_end(server: Any, make_client: Callable[..., Client]) -> None:
    session = make_client(server).create_session(server.agents["quick"])
    session.send("hello")
    history = session.history()
    seen = []

    def read() -> None:
        for event in session.iter_events():
            seen.append(event.offset)
            if len(seen) == len(history):
                server.request("DELETE", f"/sessions/{session.id}")

    with pytest.raises(NotFoundError):
        read()
    assert seen == [event.offset for event in history]


@pytest.mark.parametrize("how", ["by the session", "by the client"])
def test_a_session_deleted_here(server: Any, client: Client, how: str) -> None:
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    reader = Background(list, session.iter_events(since="latest"))
    turn = Background(session.send, server.script("quick", "never", gate=gate))
    wait_for(session, is_writing)
    if how == "by the session":
        session.delete()
    else:
        client.delete_session(session.id)
    # Whoever waits learns that it was closed, or that it is gone; which of the two is first is not foreseeable.
    assert isinstance(turn.error(10), SessionClosed | NotFoundError)
    assert isinstance(reader.error(10), NotFoundError | None)
    assert session.closed
    assert session.id not in client.sessions
    with pytest.raises(NotFoundError):
        client.session(session.id)
    with pytest.raises(NotFoundError):
        client.delete_session(session.id)


def test_closing_here_leaves_the_session_there(server: Any, client: Client) -> None:
    with client.create_session(server.agents["quick"]) as session:
        session.send("hello")
    assert session.closed
    for ask in (lambda: session.send("hello?"), session.history, session.refresh):
        with pytest.raises(SessionClosed):
            ask()
    again = client.session(session.id)
    assert again is not session
    assert again.send("and again").text == "echo: and again"


def test_close_ends_every_wait_at_once(server: Any, client: Client) -> None:
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    turn = Background(session.send, server.script("quick", "never", gate=gate))
    wait_for(session, is_writing)
    queued = Background(session.send, "waits for its turn")
    reader = Background(list, session.iter_events(since="latest"))
    session.close()
    assert isinstance(turn.error(5), SessionClosed)
    assert isinstance(queued.error(5), SessionClosed)
    assert reader.result(5) == []


def test_the_last_one_out_closes(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    with session:
        with client.session(session.id):
            pass
        assert not session.closed
        assert session.send("still here").text == "echo: still here"
    assert session.closed
