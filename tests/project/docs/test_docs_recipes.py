"""What the recipes promise, with real servers: FastAPI under uvicorn, Streamlit, a chat bridge, the relay."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from support import docs_blocks
from support.docs_runner import Runner
from support.waiting import wait_until

import parlant_sync


def recipe(runner: Runner, name: str) -> Any:
    """The module that a page tells its readers to save under this name."""
    found = [
        block for page in docs_blocks.PAGES for block in docs_blocks.blocks(page) if block.notes.get("file") == name
    ]
    assert len(found) == 1
    runner.run(found[0])
    return importlib.import_module(name.removesuffix(".py"))


def messages(runner: Runner, session_id: str) -> list[str]:
    return [e["data"]["message"] for e in runner.server.events(session_id) if e["source"] == "customer"]


def begun(runner: Runner, session_id: str, count: int) -> None:
    """Wait (bounded) until so many turns have begun."""

    def statuses() -> list[Any]:
        return [event["data"].get("status") for event in runner.server.events(session_id)]

    wait_until(lambda: statuses().count("acknowledged") >= count)


# -- FastAPI


@pytest.fixture
def api(runner: Runner) -> Any:
    pytest.importorskip("fastapi")
    pytest.importorskip("itsdangerous")
    return recipe(runner, "api.py")


@pytest.fixture
def served(api: Any) -> Iterator[str]:
    """The address of the application behind a real uvicorn."""
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(api.app, port=0, log_level="error", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield "http://{}:{}".format(*server.servers[0].sockets[0].getsockname())
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_fastapi_a_visitor_who_leaves_frees_the_thread_and_the_session(
    api: Any, served: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.server.agent("support").forget().when("one").ignores()
    runner.server.agent("support").echoes()
    closed = threading.Event()
    close = parlant_sync.Turn.close
    monkeypatch.setattr(parlant_sync.Turn, "close", lambda turn: (close(turn), closed.set()))
    monkeypatch.setattr(api, "as_sse", lambda turn, heartbeat: parlant_sync.as_sse(turn, heartbeat=heartbeat / 50))
    with requests.Session() as visitor:
        with visitor.post(f"{served}/stream", json={"text": "one", "key": "1"}, stream=True) as first:
            assert first.headers["Content-Type"].startswith("text/event-stream")
            assert not closed.is_set()
        started = time.monotonic()
        assert closed.wait(20)  # noticed at a heartbeat, although the agent says nothing
        second = visitor.post(f"{served}/stream", json={"text": "two", "key": "2"})
        assert "echo: two" in second.text
        assert time.monotonic() - started < 10
        (session_id,) = runner.server.sessions  # the cookie came with the stream
        assert messages(runner, session_id) == ["one", "two"]


def test_fastapi_one_message_per_key_a_new_session_if_it_is_gone_and_a_status_if_it_fails(
    api: Any, runner: Runner
) -> None:
    from fastapi.testclient import TestClient

    runner.server.agent("support").forget().when("fail").fails("secret reason")
    runner.server.agent("support").echoes()
    web = TestClient(api.app)
    for _ in range(2):
        assert web.post("/ask", json={"text": "Hi", "key": "1"}).json() == {"answer": "echo: Hi"}
    (session_id,) = runner.server.sessions
    assert messages(runner, session_id) == ["Hi"]
    failed = web.post("/ask", json={"text": "fail", "key": "2"})
    assert failed.status_code == 502
    assert "secret" not in failed.text
    runner.server.restart()
    assert web.post("/ask", json={"text": "again", "key": "3"}).json() == {"answer": "echo: again"}
    runner.server.stop()
    assert web.post("/stream", json={"text": "Hi", "key": "4"}).status_code == 502


# -- Streamlit


def test_streamlit(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = pytest.importorskip("streamlit.testing.v1")
    # It puts the page in this place. A process that a later test spawns would run it.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    (text,) = [
        block.text
        for block in docs_blocks.blocks(docs_blocks.ROOT / "docs/recipes.md")
        if "import streamlit" in block.text
    ]
    app = kit.AppTest.from_string(text, default_timeout=30)
    app.run()
    assert not app.exception
    for _ in range(2):
        app.chat_input[0].set_value("What is it?").run()
        assert not app.exception
    said = [(message.name, message.markdown[0].value) for message in app.chat_message]
    answer = "Long polling holds a request until there is news."
    assert said == [("user", "What is it?"), ("assistant", answer)] * 2  # without preambles
    assert len(runner.server.sessions) == 1


# -- chat bridges


def test_a_chat_bridge_says_one_answer_for_messages_that_come_together(runner: Runner) -> None:
    bridge = recipe(runner, "bridge.py")
    runner.server.agent("support").forget().echoes().waits("answer")
    session = bridge.client.create_session("support")
    said: list[str] = []
    with ThreadPoolExecutor() as pool:
        calls = []
        for number, text in enumerate(["Hi", "I have a question", "about my order"]):
            calls.append(pool.submit(bridge.on_message, session.id, text, f"m{number}", said.append))
            begun(runner, session.id, number + 1)
        # The chat's library delivers the last one twice.
        calls.append(pool.submit(bridge.on_message, session.id, "about my order", "m2", said.append))
        runner.server.release("answer")
        for call in calls:
            call.result(30)
    assert said == ["echo: about my order"]
    assert messages(runner, session.id) == ["Hi", "I have a question", "about my order"]


# -- the relay


def test_the_relay_gives_each_event_once_however_long_it_lasts(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flask")
    relay = recipe(runner, "relay.py")
    session = relay.client.create_session("support")
    session.send("Hi")
    short = parlant_sync.Session.iter_events
    monkeypatch.setattr(parlant_sync.Session, "iter_events", lambda self, **how: short(self, **{**how, "timeout": 0.1}))
    web = relay.app.test_client()
    stream = iter(web.get(f"/events/{session.id}").response)

    def ids(until: bytes) -> list[int]:
        found = []
        while not (block := next(stream)).startswith(until):
            found.append(int(block.split(b"\n")[0].removeprefix(b"id: ")))
        return found

    first = ids(b": still here")
    assert first == list(range(len(runner.server.events(session.id))))
    assert ids(b": still here") == []  # nothing is sent again
    session.post("more")
    while (block := next(stream)).startswith(b": still here"):
        pass
    assert block.startswith(f"id: {first[-1] + 1}\n".encode())
    stream.close()  # type: ignore[attr-defined]
    assert web.get("/events/unknown").status_code == 500  # before the stream has begun
    resumed = iter(web.get(f"/events/{session.id}", headers={"Last-Event-ID": "2"}).response)
    assert next(resumed).startswith(b"id: 3\n")
    resumed.close()  # type: ignore[attr-defined]
    assert next(iter(web.get(f"/events/{session.id}", headers={"Last-Event-ID": "x"}).response)).startswith(b"id: 0\n")
