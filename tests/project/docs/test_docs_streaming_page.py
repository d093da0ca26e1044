"""docs/streaming-page.md: the page that a reader gets from it, behind gunicorn, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import docs_blocks
from support.browser import chromium, say, until, was_cancelled
from support.process_helpers import gunicorn

from parlant_sync.testing import FakeServer

TEXT = "Long polling holds a request."


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "gunicorn.log"


@pytest.fixture
def driver(server: FakeServer, tmp_path: Path, log: Path) -> Iterator[Any]:
    pytest.importorskip("flask")
    for block in docs_blocks.blocks(docs_blocks.ROOT / "docs/streaming-page.md"):
        if name := block.notes.get("file"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(block.text, "utf-8")
    with gunicorn(tmp_path, log, "app:create_app()", PARLANT_SERVER=server.base_url) as page, chromium() as running:
        running.get(page)
        yield running


def lines(driver: Any) -> list[str]:
    return driver.find_element("id", "log").text.splitlines()  # type: ignore[no-any-return]


def test_the_answer_grows_and_the_conversation_goes_on(server: FakeServer, driver: Any) -> None:
    server.agent("research").streams(TEXT, every=0.2).with_preamble("Let me check...")
    for number in range(2):
        say(driver, f"question {number}")
        part = until(driver, lambda n=number: len(found := lines(driver)) == 2 * n + 2 and found[-1], "the first piece")
        assert TEXT.startswith(part)
        assert part != TEXT
        until(driver, lambda: lines(driver)[-1] == TEXT, "the whole answer")
    assert lines(driver) == ["You: question 0", TEXT, "You: question 1", TEXT]
    assert len(server.sessions) == 1  # the cookie came with the first answer


def test_two_messages_that_get_one_answer_show_it_once(server: FakeServer, driver: Any) -> None:
    server.agent("research").echoes().waits("typing")
    say(driver, "one")
    server.wait_requests("POST /events", count=1)
    say(driver, "two")
    until(driver, lambda: was_cancelled(server), "the end of the first turn")
    server.release("typing")
    until(driver, lambda: len(lines(driver)) > 2, "the answer")
    say(driver, "three")
    until(driver, lambda: lines(driver)[-1:] == ["echo: three"], "the next answer")
    assert lines(driver) == ["You: one", "You: two", "echo: two", "You: three", "echo: three"]


def test_what_goes_wrong_is_said_and_logged(server: FakeServer, driver: Any, log: Path) -> None:
    server.agent("research").when("fail").fails("out of tokens")
    server.agent("research").echoes()
    say(driver, "fail")
    until(driver, lambda: lines(driver)[-1:] == ["The agent could not answer."], "the agent's failure")
    assert "out of tokens" in log.read_text()
    server.restart()  # sessions in memory are gone
    say(driver, "two")
    until(driver, lambda: lines(driver)[-1:] == ["echo: two"], "an answer in a new session")
    server.stop()
    say(driver, "three")
    until(driver, lambda: lines(driver)[-1:] == ["The agent cannot be reached."], "the failure")
    assert "Connection refused" in log.read_text()
