"""``iter_events()``: every event of the session, in order, once; and readers of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.contract_steps import list_of, texts
from support.waiting import Background, wait_until

from parlant_sync import Client, ConcurrencyError, Event


def offsets(events: Any) -> list[int]:
    return [event.offset for event in events]


def test_a_later_loop_goes_on_after_the_last_event(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    session.send("one")
    first = list(session.iter_events(timeout=0))
    session.send("two")
    with session.iter_events(timeout=0) as reader:
        second = [next(reader)]
    assert session.cursor == second[0].offset
    session.send("three")
    rest = list(session.iter_events(timeout=0))
    assert offsets([*first, *second, *rest]) == offsets(session.history())
    assert list(session.iter_events(timeout=0)) == []


def test_a_reader_in_a_thread_sees_the_turns_of_send(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["hesitant"])
    reader = session.iter_events(timeout=20)
    seen: list[Event] = []

    def read() -> None:
        seen.extend(reader)

    call = Background(read)
    for number in range(3):
        session.send(f"number {number}")
    history = session.history()
    wait_until(lambda: len(seen) >= len(history))
    reader.close()
    call.result()
    assert offsets(seen) == offsets(history), list_of(seen)
    assert texts(seen, "customer") == [f"number {number}" for number in range(3)]


def test_readers_of_their_own(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    session.send("one")
    end = session.history()[-1].offset + 1
    session.send("two")
    history = session.history()
    assert offsets(session.iter_events(since="beginning", timeout=0)) == offsets(history)
    assert offsets(session.iter_events(since="beginning", timeout=0)) == offsets(history)
    assert offsets(session.iter_events(since=end, timeout=0)) == offsets(history[end:])
    with session.iter_events(since="latest", timeout=10) as reader:
        session.send("three")
        assert next(reader).message == "three"
    # None of these moved the default reader.
    assert offsets(session.iter_events(timeout=0)) == offsets(session.history())


def test_two_default_readers_at_once(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    reader = session.iter_events(timeout=20)
    call = Background(next, reader)

    def refused() -> bool:
        try:
            session.iter_events(timeout=0).close()
        except ConcurrencyError:
            return True
        return False

    wait_until(refused)
    session.post("hello")
    assert call.result().message == "hello"


def test_filters(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["hesitant"])
    session.send("look")
    session.post_event("custom", {"page": "prices"})
    said = list(session.iter_events(since="beginning", kinds=["message"], sources=["ai_agent"], timeout=0))
    assert texts(said)[-1] == "echo: look"
    assert all(event.kind == "message" for event in said)
    custom = list(session.iter_events(since="beginning", kinds="custom", timeout=0))
    assert [event.data for event in custom] == [{"page": "prices"}]
    # What a filter leaves out is passed, not kept for a later loop.
    assert [event.data for event in session.iter_events(kinds="custom", timeout=0)] == [{"page": "prices"}]
    assert list(session.iter_events(timeout=0)) == []


def test_the_cursor_resumes_after_a_restart(server: Any, make_client: Callable[..., Client]) -> None:
    """A program that saves the cursor gets the last event once more, and nothing is lost."""
    with make_client(server) as client:
        session = client.create_session(server.agents["quick"])
        session.send("before")
        reader = session.iter_events(timeout=0)
        handled = [next(reader) for _ in range(3)]
        saved = session.cursor
        assert saved == reader.cursor == handled[-1].offset
    again = make_client(server).session(session.id, since=saved)
    again.send("after")
    rest = list(again.iter_events(timeout=0))
    assert rest[0] == handled[-1]
    assert offsets(handled[:-1] + rest) == offsets(again.history())


def test_attaching_later(server: Any, make_client: Callable[..., Client]) -> None:
    """``since`` of an attach: the latest by default, the beginning, or an offset; another one is refused."""
    session = make_client(server).create_session(server.agents["quick"])
    session.send("one")
    client = make_client(server)
    attached = client.session(session.id)
    assert attached.cursor is None  # the first turn or reader decides where it begins
    assert client.session(session.id) is attached
    assert client.session(session.id, since="latest") is attached
    with pytest.raises(ConcurrencyError):
        client.session(session.id, since="beginning")
    attached.send("two")
    assert texts(attached.iter_events(timeout=0)) == ["echo: two"]
    whole = make_client(server).session(session.id, since="beginning")
    assert offsets(whole.iter_events(timeout=0)) == offsets(session.history())


def test_the_end_of_a_loop(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    session.send("one")
    history = session.history()
    # A timeout ends it after what there was, and so does close(), from another thread.
    assert offsets(session.iter_events(timeout=0.3)) == offsets(history)
    reader = session.iter_events(since="latest")
    call = Background(list, reader)
    wait_until(lambda: call.running)
    session.close()
    assert call.result(5) == []
    with pytest.raises(StopIteration):
        next(reader)
