"""Anonymous clients of a Parlant 4.0 server in production: one guest token for each client, and in no text."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.raw_api import in_background

from parlant_sync import AgentError, AuthenticationError, Client, NotFoundError, PermissionDeniedError
from parlant_sync._http.auth import GuestToken
from parlant_sync.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer("4.0", policy="production", token="admin") as server:
        server.agent("a")
        yield server


def bearers(server: FakeServer) -> set[str | None]:
    return {request.headers.get("authorization") for request in server.requests}


def test_a_guest_holds_a_conversation_and_comes_back(server: FakeServer) -> None:
    with Client(server.base_url) as client:
        assert client.guest_token is None
        session = client.create_session("a")
        token = client.guest_token
        assert token
        assert session.send("hello").text == "echo: hello"
        assert client.create_session("a").send("again").text == "echo: again"
        assert client.guest_token == token
        assert bearers(server) == {None, f"Bearer {token}"}
    with Client(server.base_url, token=token) as again:
        assert again.session(session.id).send("back").text == "echo: back"
        assert again.guest_token is None  # it is given now
    with Client(server.base_url) as stranger, pytest.raises((AuthenticationError, PermissionDeniedError)):
        stranger.session(session.id)


@pytest.mark.parametrize(
    "options", [{"token": "admin"}, {"auth": lambda r: r}, {"headers": {"authorization": "Bearer admin"}}], ids=list
)
def test_only_anonymous_clients_are_guests(server: FakeServer, options: dict[str, Any]) -> None:
    with Client(server.base_url, **options) as client:
        client.create_session("a")
        assert client.guest_token is None


@pytest.mark.parametrize("version", ["3.0", "3.3", "4.0"])
def test_other_servers_give_no_token(version: str) -> None:
    with FakeServer(version) as server, Client(server.base_url) as client:
        server.agent("a")
        assert client.create_session("a").send("hello").text == "echo: hello"
        assert client.guest_token is None


def test_two_first_sessions_at_once_belong_to_one_guest(server: FakeServer) -> None:
    both = threading.Barrier(2)
    with Client(server.base_url) as client:
        hold = server.hold_next("POST /sessions", times=2)

        def converse() -> str:
            both.wait(5)
            return client.create_session("a").send("hello").text

        calls = [in_background(converse) for _ in range(2)]
        hold.wait(count=2)
        hold.release()
        assert [call.result(10) for call in calls] == ["echo: hello"] * 2
        assert len(bearers(server)) == 2  # none, and the one


def test_a_guest_whose_token_has_expired_becomes_another_one(server: FakeServer) -> None:
    with Client(server.base_url) as client:
        old = client.create_session("a")
        token = client.guest_token
        server.restart(keep=True)  # without a secret, it forgets its guests
        assert client.create_session("a").send("hello").text == "echo: hello"
        assert client.guest_token not in (None, token)
        with pytest.raises((AuthenticationError, PermissionDeniedError)):
            client.history(old.id)


def test_the_token_is_in_no_text(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Client(server.base_url) as client:
        session = client.create_session("a")
        token = client.guest_token or "?"
        with pytest.raises(PermissionDeniedError) as refused:  # its body repeats all headers
            session.update(title="t")
        server.agent("a").fails(f"a header was Bearer {token}")
        with pytest.raises(AgentError) as failed:
            session.send("hello", timeout=20)
        texts = [
            str(failed.value),
            failed.value.detail,
            repr(client),
            repr(session),
            repr(client._transport.guest),
            str(refused.value),
            refused.value.detail,
            caplog.text,
        ]
        assert not [text for text in texts if token in text]


def test_what_cannot_be_sent_is_not_kept() -> None:
    guest = GuestToken()
    assert guest.value is None
    assert guest.keep("a b")
    assert guest.value is None
    assert guest.keep("one")
    assert not guest.keep("two")
    guest.forget("two")
    assert guest.value == "one"
    guest.forget("one")
    assert guest.keep("two")


@pytest.mark.parametrize(
    ("detail", "told"),
    [("Item 'c1' not found", "does not know customer 'c1'"), ("Item 'a' not found", "agent id"), ("x", "agent id")],
)
def test_an_unknown_customer_is_named(detail: str, told: str) -> None:
    with FakeServer("4.0") as server, Client(server.base_url) as client:
        server.agent("a")
        server.fail_next("POST /sessions", 404, f'{{"detail": "{detail}"}}')
        with pytest.raises(NotFoundError, match=told) as refused:
            client.create_session("a", customer_id="c1")
        assert (refused.value.status, refused.value.detail) == (404, detail)
        with pytest.raises(NotFoundError, match="does not know customer 'nobody'"):
            client.create_session("a", customer_id="nobody")
