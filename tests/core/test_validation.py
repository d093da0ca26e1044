"""Wrong arguments get one line that names them, before anything is sent."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from parlant_sync import Client, ConfigurationError, NotFoundError, Session, SessionClosed
from parlant_sync.testing import FakeServer

WRONG: dict[str, Callable[[Any], object]] = {
    "key must": lambda s: s.send("x", key=5),
    "key must be": lambda s: s.post("x", key=""),
    "a key": lambda s: s.find(None),
    "metadata": lambda s: s.send("x", metadata="abc"),
    "participant": lambda s: s.send("x", participant="Bob"),
    "kinds": lambda s: s.history(kinds=5),
    "sources": lambda s: s.iter_events(sources=[1]),
    "guidelines": lambda s: s.trigger([5]),
    "guidelines must": lambda s: s.trigger(5),
    "labels": lambda s: s.update(labels="abc"),
    "metadata must": lambda s: s.update(metadata=[1]),
    "metadata of names": lambda s: s.update(metadata={1: 2}),
    "participant of names": lambda s: s.post("x", participant={True: "Bob"}),
    "guidelines without action": lambda s: s.trigger([{"rationale": "buy_time"}]),
    "since": lambda s: s.iter_events(since="soon"),
    "since must": lambda s: s.history(-1),
    "message of bytes": lambda s: s.send(b"bytes"),
    "message must": lambda s: s.send(None),
    "timeout": lambda s: s.iter_events(timeout="5"),
    "timeout of a turn": lambda s: s.send("x", timeout="5"),
    "timeout is negative": lambda s: s.send("x", timeout=-1),
    "timeout is no number": lambda s: s.send("x", timeout=float("nan")),
    "message is blank": lambda s: s.send(""),
    "blank": lambda s: s.stream("  \n\t\u3000"),
    "the message is blank": lambda s: s.post(" "),
    "post\\(\\), send": lambda s: s.post_event("message", {"message": "x"}),
    "kind cannot be 'tool'; it must be one of 'custom', 'status'": lambda s: s.post_event("tool", {}),
    "source cannot be 'human'; did you mean 'human_agent'\\?": lambda s: s.post("x", source="human"),
    "source cannot be 'ai_agent'": lambda s: s.post("x", source="ai_agent"),
    "mode cannot be 'manuell'; did you mean 'manual'\\?": lambda s: s.update(mode="manuell"),
    "moderation cannot be 'paranoia'; did you mean 'paranoid'\\?": lambda s: s.send("x", moderation="paranoia"),
    "kinds cannot be 'messages'; did you mean 'message'\\?": lambda s: s.history(kinds="messages"),
    "kinds cannot be 'Status'; did you mean 'status'\\?": lambda s: s.iter_events(kinds=["message", "Status"]),
    "sources cannot be 'agent'; did you mean 'ai_agent'\\?": lambda s: s.iter_events(sources="agent"),
    "sources cannot be 'me'; it must be one of 'customer', 'customer_ui'": lambda s: s.history(sources=["me"]),
    "since must be an": lambda s: s.delete_events("latest"),
}


@pytest.mark.parametrize("names", sorted(WRONG))
def test_wrong_arguments(server: FakeServer, session: Session, names: str) -> None:
    server.forget_requests()
    with pytest.raises(ConfigurationError, match=names if " " in names and "'" in names else names.split()[0]):
        WRONG[names](session)
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


def test_a_deleted_session_does_not_promise_to_open_again(session: Session) -> None:
    session.delete()
    # Or the poller was faster, and has heard of it from the server.
    with pytest.raises((SessionClosed, NotFoundError), match=r"was deleted|404"):
        session.send("x")


def test_a_silent_session_in_manual_mode_says_so(server: FakeServer, session: Session) -> None:
    session.update(mode="manual")
    with pytest.raises(TimeoutError, match="manual mode"):
        session.send("x", timeout=0.3)


def test_what_belongs_to_a_process_says_so(session: Session) -> None:
    with pytest.raises(TypeError, match="hand over its id"):
        pickle.dumps(session)
    with pytest.raises(TypeError, match="one in each worker"):
        pickle.dumps(session._client)
