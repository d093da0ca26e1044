"""Wrong arguments get one line that names them, before anything is sent."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from parlant_sync import Client, ConfigurationError, Session
from parlant_sync.testing import FakeServer

WRONG: list[tuple[str, Callable[[Session], object]]] = [
    ("key", lambda s: s.send("x", key=5)),
    ("key must be a non-empty", lambda s: s.post("x", key="")),
    ("key must be", lambda s: s.find(None)),
    ("metadata", lambda s: s.send("x", metadata="abc")),
    ("participant", lambda s: s.send("x", participant="Bob")),
    ("kinds", lambda s: s.history(kinds=5)),
    ("sources", lambda s: s.iter_events(sources=[1])),
    ("guidelines", lambda s: s.trigger([5])),
    ("guidelines", lambda s: s.trigger(5)),
    ("labels", lambda s: s.update(labels="abc")),
    ("metadata", lambda s: s.update(metadata=[1])),
    ("metadata", lambda s: s.update(metadata={1: 2})),
    ("participant", lambda s: s.post("x", participant={True: "Bob"})),
    ("guidelines", lambda s: s.trigger([{"rationale": "buy_time"}])),
    ("since", lambda s: s.iter_events(since="soon")),
    ("since", lambda s: s.history(-1)),
    ("message must be a string", lambda s: s.send(b"bytes")),
    ("message must be a string", lambda s: s.send(None)),
    ("timeout", lambda s: s.iter_events(timeout="5")),
    ("timeout", lambda s: s.send("x", timeout="5")),
    ("Event of a customer's message is needed", lambda s: s.reply_to("q")),
    ("no message to wait for", lambda s: s.reply_to(None)),
    ("timeout", lambda s: s.send("x", timeout=-1)),
    ("timeout", lambda s: s.send("x", timeout=float("nan"))),
    ("message is blank", lambda s: s.send("")),
    ("blank", lambda s: s.stream("  \n\t\u3000")),
    ("message is blank", lambda s: s.post(" ")),
    ("post\\(\\),", lambda s: s.post_event("message", {"message": "x"})),
    ("kind cannot be 'tool'; it must be one of 'custom', 'status'", lambda s: s.post_event("tool", {})),
    ("source cannot be 'human'; did you mean 'human_agent'\\?", lambda s: s.post("x", source="human")),
    ("source cannot be 'ai_agent'", lambda s: s.post("x", source="ai_agent")),
    ("mode cannot be 'manuell'; did you mean 'manual'\\?", lambda s: s.update(mode="manuell")),
    ("moderation cannot be 'paranoia'; did you mean 'paranoid'\\?", lambda s: s.send("x", moderation="paranoia")),
    ("kinds cannot be 'messages'; did you mean 'message'\\?", lambda s: s.history(kinds="messages")),
    ("kinds cannot be 'Status'; did you mean 'status'\\?", lambda s: s.iter_events(kinds=["message", "Status"])),
    ("sources cannot be 'agent'; did you mean 'ai_agent'\\?", lambda s: s.iter_events(sources="agent")),
    ("sources cannot be 'me'; it must be one of 'customer', 'customer_ui'", lambda s: s.history(sources=["me"])),
    ("since", lambda s: s.delete_events("latest")),
]


@pytest.mark.parametrize(("told", "call"), WRONG)
def test_wrong_arguments_are_named_and_nothing_is_sent(
    server: FakeServer, session: Session, told: str, call: Callable[[Session], object]
) -> None:
    server.forget_requests()
    with pytest.raises(ConfigurationError, match=told):
        call(session)
    assert [r for r in server.requests if r.method == "POST"] == []
    assert session.send("still usable").text == "echo: still usable"


def test_wrong_arguments_of_a_client(server: FakeServer) -> None:
    for options in ({"headers": [("a", "b")]}, {"proxies": "x"}, {"headers": {"a b": "c"}}, {"headers": {"a": "c\nd"}}):
        with pytest.raises(ConfigurationError):
            Client(server.base_url, **options)  # type: ignore[arg-type]
    with Client(server.base_url) as client:
        for bad in ({"labels": "abc"}, {"labels": [1]}, {"metadata": "x"}):
            with pytest.raises(ConfigurationError):
                client.create_session("a", **bad)  # type: ignore[arg-type]


def test_what_belongs_to_a_process_says_so(session: Session) -> None:
    with pytest.raises(TypeError, match="hand over its id"):
        pickle.dumps(session)
    with pytest.raises(TypeError, match="one in each worker"):
        pickle.dumps(session._client)
