"""Many at once: sessions in threads of their own, and threads that share one session."""

from __future__ import annotations

import threading
from typing import Any

from support.contract_steps import list_of, texts
from support.waiting import Background, wait_until

from parlant_sync import Client

SESSIONS = 20
THREADS = 8


def test_twenty_sessions_in_twenty_threads(server: Any, client: Client) -> None:
    together = threading.Barrier(SESSIONS, timeout=40)

    def converse(number: int) -> tuple[list[str], list[str], list[int]]:
        session = client.create_session(server.agents["quick"], title=f"session {number}")
        together.wait()
        replies = [session.send(f"{number}.{turn}").text for turn in range(2)]
        seen = list(session.iter_events(timeout=0))
        return replies, texts(seen), [event.offset for event in seen]

    calls = [Background(converse, number) for number in range(SESSIONS)]
    for number, call in enumerate(calls):
        replies, seen, offsets = call.result(50)
        assert replies == [f"echo: {number}.{turn}" for turn in range(2)]
        assert seen == replies
        assert offsets == list(range(len(offsets)))
    assert len(client.sessions) == SESSIONS
    polling = [thread.name for thread in threading.enumerate() if thread.name.startswith("parlant-sync-poll-")]
    assert sorted(polling) == sorted(f"parlant-sync-poll-{session_id}" for session_id in client.sessions)


def test_eight_threads_on_one_session_take_turns(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    together = threading.Barrier(THREADS, timeout=40)

    def ask(number: int) -> list[str]:
        together.wait()
        return [session.send(f"{number}.{turn}").text for turn in range(2)]

    calls = [Background(ask, number) for number in range(THREADS)]
    for number, call in enumerate(calls):
        assert call.result(50) == [f"echo: {number}.{turn}" for turn in range(2)]
    # No message was posted while a turn was running: question and answer alternate, and no turn was cancelled.
    history = session.history()
    assert not [event for event in history if event.status == "cancelled"]
    messages = [event for event in history if event.kind == "message"]
    assert [event.source for event in messages] == ["customer", "ai_agent"] * (2 * THREADS), list_of(messages)


def test_a_thread_that_waits_for_its_turn_has_its_own_time(server: Any, client: Client) -> None:
    """The waiting counts: who does not get to post in time is told so, and nothing was posted."""
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    first = Background(session.send, server.script("quick", "first", gate=gate))
    wait_until(lambda: session.agent_status in ("acknowledged", "processing", "typing"))
    second = Background(session.send, "second", timeout=0.3)
    error = second.error()
    assert type(error).__name__ == "TurnTimeout"
    assert error.event is None  # type: ignore[union-attr]
    server.release(gate)
    assert first.result().text == "echo: first"
    assert "second" not in texts(session.history(), "customer")
    assert session.send("third").text == "echo: third"


def test_a_hundred_threads_open_one_session(server: Any, client: Client) -> None:
    opened = client.create_session(server.agents["quick"])
    opened.close()
    together = threading.Barrier(100, timeout=40)

    def attach() -> Any:
        together.wait()
        return client.session(opened.id)

    found = [call.result() for call in [Background(attach) for _ in range(100)]]
    assert len({id(session) for session in found}) == 1
    assert found[0].send("hello").text == "echo: hello"
    pollers = [thread for thread in threading.enumerate() if thread.name == f"parlant-sync-poll-{opened.id}"]
    assert len(pollers) == 1
