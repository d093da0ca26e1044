"""A server with Parlant's production policy: five things are allowed, and those so many times a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.contract_steps import texts
from support.waiting import Background

from parlant_sync import Client, PermissionDeniedError

SECRET = "token-that-nobody-may-see"


@pytest.fixture
def production(servers: Callable[[str], Any]) -> Any:
    return servers("production")


def test_a_conversation_with_what_is_allowed(production: Any, make_client: Callable[..., Client]) -> None:
    client = make_client(production)
    agent = client.agent(production.agents["quick"])
    session = client.create_session(agent.id)
    assert [session.send(f"number {n}").text for n in range(2)] == ["echo: number 0", "echo: number 1"]
    event = session.post("posted", key="k")
    assert session.reply_to(event).text == "echo: posted"
    seen = list(session.iter_events(timeout=0))
    assert [event.offset for event in seen] == [event.offset for event in session.history()]
    assert client.session(session.id) is session
    info = client.server_info()
    assert info.latency > 0


def test_a_stream_where_single_events_may_not_be_read(production: Any, make_client: Callable[..., Client]) -> None:
    """Read again by lists, about once a second: still in pieces, to the last word."""
    production.needs("streams", "does not stream (3.2 and newer do)")
    session, middle = make_client(production).create_session(production.agents["streamer"]), production.gate()
    with session.stream(production.script("streamer", "one two three four", gate=middle, at="middle")) as turn:
        pieces = turn.text
        heard = [next(pieces)]
        production.release(middle)
        heard += pieces
    assert len(heard) > 1
    assert "".join(heard) == turn.reply().text == "streamed echo of: one two three four"
    reader = Background(lambda: texts(session.iter_events(timeout=0)))
    assert reader.result() == ["streamed echo of: one two three four"]


def test_what_is_refused_says_so_and_shows_no_secret(production: Any, make_client: Callable[..., Client]) -> None:
    """The server repeats all request headers in its answer, the token included; the error does not."""
    # 4.0 refuses a token that it does not know, and gives anonymous clients one of its own.
    client = make_client(production, token=None if production.compass else SECRET)
    session = client.create_session(production.agents["quick"])
    refused: list[Callable[[], Any]] = [
        client.agents,
        lambda: list(client.list_sessions()),
        lambda: session.update(title="mine"),
        lambda: session.post_event("custom", {"a": 1}),
        lambda: client.create_session(production.agents["quick"], customer_id="somebody"),
        session.delete,
    ]
    for ask in refused:
        with pytest.raises(PermissionDeniedError) as caught:
            ask()
        assert caught.value.status == 403
        assert SECRET not in str(caught.value) + caught.value.detail + repr(caught.value.args)
    assert session.send("still here").text == "echo: still here"
