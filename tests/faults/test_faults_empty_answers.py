"""A 200 without a body, which a proxy makes of an answer that broke off, is never taken for an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.fault_backends import Backend, connected, polling, take
from support.raw_server import answer

from parlant_sync import Client, DeliveryUncertain, Session, TransportError

pytestmark = pytest.mark.usefixtures("quick_retries", "quick_looks")

EMPTY = answer(b"")
LISTENING = "200, but with an empty body"


def _of(method: str, end: str) -> Callable[[Any], bool]:
    return lambda exchange: exchange.method == method and exchange.path.endswith(end)


def _ids(found: Any) -> list[str]:
    return [each.id for each in found]


def _refreshed(session: Session) -> Any:
    return session.refresh().title


READS: dict[str, tuple[str, Callable[[Client, Session], Any]]] = {
    "events": ("/events", lambda client, session: _ids(session.history())),
    "find": ("/events", lambda client, session: getattr(session.find("the key"), "message", None)),
    "a session": ("", lambda client, session: _refreshed(session)),
    "sessions": ("/sessions", lambda client, session: _ids(client.list_sessions())),
    "agents": ("/agents", lambda client, session: _ids(client.agents())),
}
WRITES: dict[str, tuple[str, str, Callable[[Client, Session], Any]]] = {
    "create": ("POST", "/sessions", lambda client, session: client.create_session("quick")),
    "update": ("PATCH", "", lambda client, session: session.update(title="another")),
    "delete": ("DELETE", "", lambda client, session: client.delete_session(session.id)),
    "delete events": ("DELETE", "/events", lambda client, session: session.delete_events("beginning")),
}


@pytest.mark.parametrize("what", READS)
def test_a_read_is_asked_again(what: str, fake: Backend) -> None:
    end, ask = READS[what]
    with connected(fake) as (proxy, client):
        session = client.create_session("quick", title="the title")
        session.send("a question", key="the key", timeout=20)
        expected = ask(client, session)
        assert expected
        order = proxy.answer(EMPTY, _of("GET", end or session.id), times=1)
        assert ask(client, session) == expected
        order.wait()
        proxy.answer(EMPTY, _of("GET", end or session.id), times=float("inf"))
        with pytest.raises(TransportError, match=LISTENING):
            ask(client, session)


@pytest.mark.parametrize("what", WRITES)
def test_a_change_is_told_as_failed_and_not_made_twice(what: str, fake: Backend) -> None:
    """It may have been made, so only the caller can decide to make it again."""
    method, end, change = WRITES[what]
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        order = proxy.answer(EMPTY, _of(method, end or session.id), times=float("inf"))
        with pytest.raises(TransportError, match=LISTENING):
            change(client, session)
        assert len(order.exchanges) == 1


def test_a_poll_has_failed(fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        reader = session.iter_events(timeout=20)
        fake.custom(session.id)
        take(session, 1, reader)
        polling(proxy, session)
        order = proxy.answer(EMPTY, "poll", times=float("inf"))
        proxy.cut_all()
        proxy.wait(lambda: len(order.exchanges) >= 3, what="three empty answers")
        proxy.wait(lambda: LISTENING in str(session.health.last_error), what="the empty answer in health")
        assert session.health.consecutive_failures >= 2
        assert {exchange.min_offset for exchange in order.exchanges} == {1}
        proxy.clear()
        assert session.send("still alive", timeout=20).text == "echo: still alive"


def test_a_post_is_looked_for(fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        stored = proxy.change(lambda _: (EMPTY, "keep"), "post")
        assert session.send("stored", timeout=20).text == "echo: stored"
        stored.wait()
        assert len(fake.messages(session.id, "stored")) == 1

        lost = proxy.answer(EMPTY, "post", times=float("inf"))
        with pytest.raises(DeliveryUncertain, match=LISTENING):
            session.post("lost")
        assert len(lost.exchanges) == 1
        assert fake.messages(session.id, "lost") == []


def test_the_event_of_a_reply_is_read_again(fake: Backend) -> None:
    """``reply_to()`` reads a single event first."""
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        event = session.post("a question")
        proxy.answer(EMPTY, "read", times=float("inf"))
        assert session.reply_to(event, timeout=20).text == "echo: a question"
