"""examples/chat: its own tests, and the page in a real browser behind gunicorn."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import chromium, say, until, was_cancelled
from support.docs_blocks import ROOT
from support.process_helpers import gunicorn

from parlant_sync import Client
from parlant_sync.testing import FakeServer

CHAT = ROOT / "examples/chat"


def test_its_own_tests(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(CHAT),
    ]
    done = subprocess.run([*command, str(CHAT)], cwd=CHAT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)


@pytest.mark.skipif(shutil.which("pyright") is None, reason="pyright is not installed (npm install -g pyright)")
def test_pyright_strict() -> None:
    command = ["pyright", "--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_with_one_command_and_ends_with_a_signal(number: int, server: FakeServer) -> None:
    pytest.importorskip("gunicorn")
    command = [sys.executable, str(CHAT / "run.py"), "--port", "0"]
    environment = {**os.environ, "PARLANT_SERVER": server.base_url}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        assert any("Listening at" in line for line in process.stderr)
        process.send_signal(number)
        assert process.wait(timeout=30) == 0


@pytest.fixture
def page(server: FakeServer, tmp_path: Path) -> Iterator[str]:
    """The address of the page, served by gunicorn."""
    settings = {"PARLANT_SERVER": server.base_url, "PARLANT_AGENT_ID": "support"}
    with gunicorn(CHAT, tmp_path / "gunicorn.log", "app:create_app()", **settings) as address:
        yield address


@pytest.fixture
def driver(page: str) -> Iterator[Any]:
    with chromium() as running:
        running.get(page)
        yield running


def lines(driver: Any, kind: str) -> list[str]:
    return [line.text for line in driver.find_elements("css selector", f".said.{kind}")]


def test_the_answer_appears_while_it_is_written(server: FakeServer, driver: Any) -> None:
    agent = server.agent("support")
    agent.streams("Long polling holds a request until there is news.", every=0.2).with_preamble("Let me check...")
    say(driver, "What is long polling?")
    until(driver, lambda: lines(driver, "preamble") == ["Let me check..."], "the preamble")
    part = until(driver, lambda: next(iter(lines(driver, "answer")), ""), "the first piece")
    assert len(part) < len("Long polling holds a request until there is news.")
    until(
        driver, lambda: lines(driver, "answer") == ["Long polling holds a request until there is news."], "the answer"
    )
    until(driver, lambda: driver.find_element("id", "status").text == "", "the end")

    driver.refresh()
    until(driver, lambda: len(lines(driver, "agent")) == 1, "the conversation, after a reload")
    assert lines(driver, "customer") == ["What is long polling?"]
    assert lines(driver, "agent") == ["Long polling holds a request until there is news."]  # without the preamble


def test_try_again_posts_once(server: FakeServer, driver: Any) -> None:
    server.agent("support").echoes()
    say(driver, "one")
    until(driver, lambda: lines(driver, "answer") == ["echo: one"], "the first answer")
    server.fail_next("POST /events", 503, stored=True, times=1)
    server.fail_next("GET /events", 503, times=None)  # so nobody can say whether it arrived
    say(driver, "two")
    until(driver, lambda: lines(driver, "problem"), "the problem", timeout=60)
    server.clear_faults()
    driver.find_element("css selector", ".problem button").click()
    until(driver, lambda: lines(driver, "answer")[-1:] == ["echo: two"], "the second answer", timeout=60)
    (session_id,) = server.sessions
    with Client(server.base_url) as client:
        posted = client.history(session_id, kinds="message", sources="customer")
    assert [event.message for event in posted] == ["one", "two"]


def test_a_reload_in_the_middle_of_a_turn_follows_it(server: FakeServer, driver: Any) -> None:
    server.agent("support").streams("Long polling holds a request.").with_preamble("Let me check...").waits("answer")
    say(driver, "What is it?")
    until(driver, lambda: lines(driver, "preamble"), "the preamble")
    driver.refresh()
    until(driver, lambda: lines(driver, "preamble"), "the preamble, again")
    server.release("answer")
    until(driver, lambda: lines(driver, "answer") == ["Long polling holds a request."], "the answer")
    assert lines(driver, "customer") == ["What is it?"]
    (session_id,) = server.sessions
    assert [e["data"]["message"] for e in server.events(session_id) if e["source"] == "customer"] == ["What is it?"]
    driver.refresh()
    until(driver, lambda: lines(driver, "agent") == ["Long polling holds a request."], "the conversation, once")


def test_two_messages_that_get_one_answer_show_it_once(server: FakeServer, driver: Any) -> None:
    server.agent("support").echoes().with_preamble("Let me check...").waits("answer")
    say(driver, "one")
    until(driver, lambda: lines(driver, "preamble"), "the preamble")
    say(driver, "two")
    until(driver, lambda: was_cancelled(server), "the end of the first turn")
    server.release("answer")
    until(driver, lambda: lines(driver, "answer"), "the answer")
    until(driver, lambda: driver.find_element("id", "status").text == "", "the end")
    assert lines(driver, "answer") == ["echo: two"]


def test_text_is_never_markup(server: FakeServer, driver: Any) -> None:
    server.agent("support").replies("<img src=x onerror=\"document.title='broken'\">")
    say(driver, "<b>bold</b>")
    until(driver, lambda: lines(driver, "answer"), "the answer")
    assert lines(driver, "answer") == ["<img src=x onerror=\"document.title='broken'\">"]
    assert lines(driver, "customer") == ["<b>bold</b>"]
    assert driver.title == "Chat"


def test_a_visitor_who_leaves_blocks_nothing(server: FakeServer, driver: Any, page: str) -> None:
    """The next message of the same visitor is answered at once, although the first turn never ends."""
    server.agent("support").ignores()
    server.agent("support").echoes()
    say(driver, "one")
    server.wait_requests("POST /events", count=1)
    driver.get(page)  # leaves in the middle of the turn
    say(driver, "two")
    until(driver, lambda: "echo: two" in lines(driver, "answer"), "the answer to the second message")
