"""Tests of the chat page, against the stand-in server: no Parlant, no network, no waiting."""

from __future__ import annotations

import json

import pytest
from app import create_app
from flask.testing import FlaskClient

from parlant_sync import Client
from parlant_sync.testing import FakeServer


@pytest.fixture
def web(parlant_client: Client) -> FlaskClient:
    return create_app(parlant_client, "support").test_client()


def ask(web: FlaskClient, text: str, key: str = "k1") -> list[tuple[str, str]]:
    """The updates of one turn, as the page sees them."""
    answer = web.post("/messages", json={"text": text, "key": key})
    assert answer.status_code == 200, answer.text
    assert answer.mimetype == "text/event-stream"
    found: list[tuple[str, str]] = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])["text"]))
    return found


def said(updates: list[tuple[str, str]], kind: str = "text") -> str:
    return "".join(text for each, text in updates if each == kind)


def test_the_answer_comes_in_pieces_and_has_an_end(parlant_server: FakeServer, web: FlaskClient) -> None:
    parlant_server.agent("support").streams("Long polling holds a request.").with_preamble("Let me check...")
    updates = ask(web, "Hi")
    assert said(updates) == "Long polling holds a request."
    assert said(updates, "preamble") == "Let me check..."
    assert updates[-1][0] == "end"


def test_a_page_that_is_loaded_again_shows_what_was_said_without_preambles(
    parlant_server: FakeServer, web: FlaskClient
) -> None:
    parlant_server.agent("support").replies("Hello.").with_preamble("One moment...")
    ask(web, "Hi")
    assert web.get("/messages").json == [{"who": "customer", "text": "Hi"}, {"who": "ai_agent", "text": "Hello."}]


def test_a_repeated_request_posts_once(parlant_server: FakeServer, web: FlaskClient) -> None:
    parlant_server.agent("support").echoes()
    assert said(ask(web, "Hi", key="same")) == said(ask(web, "Hi", key="same")) == "echo: Hi"
    assert [m["text"] for m in json.loads(web.get("/messages").text) if m["who"] == "customer"] == ["Hi"]


def test_two_visitors_have_two_sessions(parlant_server: FakeServer, parlant_client: Client) -> None:
    parlant_server.agent("support").echoes()
    app = create_app(parlant_client, "support")
    for text in ("mine", "yours"):
        assert said(ask(app.test_client(), text)) == f"echo: {text}"
    assert len(parlant_server.sessions) == 2


def test_a_session_that_the_server_has_forgotten_begins_again(parlant_server: FakeServer, web: FlaskClient) -> None:
    parlant_server.agent("support").echoes()
    ask(web, "one")
    parlant_server.restart()  # sessions in memory are gone
    assert said(ask(web, "two", key="k2")) == "echo: two"


def test_a_failing_agent_shows_no_details(parlant_server: FakeServer, web: FlaskClient) -> None:
    parlant_server.agent("support").fails("model overloaded: key sk-123")
    updates = ask(web, "Hi")
    assert updates[-1][0] == "error"
    assert "sk-123" not in str(updates)


def test_a_server_that_is_down_is_a_503_that_the_page_may_repeat(parlant_server: FakeServer, web: FlaskClient) -> None:
    parlant_server.stop()
    assert web.post("/messages", json={"text": "Hi", "key": "k"}).status_code == 503


def test_a_wrong_agent_is_no_503(parlant_client: Client) -> None:
    web = create_app(parlant_client, "no-such-agent").test_client()
    assert web.post("/messages", json={"text": "Hi", "key": "k"}).status_code == 502
