"""Whatever takes longer than a second says at a terminal what it waits for; and says so no longer than it waits."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import resource
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.cli_runs import Cli

from parlant_sync.cli import terminal
from parlant_sync.cli.logs import LogLines
from parlant_sync.cli.terminal import Waiting, cut, pad, width
from parlant_sync.cli.turn_view import Live
from parlant_sync.testing import FakeServer


@pytest.mark.parametrize(
    ("request_line", "command"),
    [
        ("GET /agents", ("agents",)),
        ("GET /agents", ("send", "x")),
        ("POST /sessions", ("send", "--agent-id", "support", "x")),
        ("GET /sessions", ("sessions", "list")),
        ("GET /healthz", ("doctor",)),
    ],
)
def test_requests(fake: Cli, parlant_server: FakeServer, request_line: str, command: tuple[str, ...]) -> None:
    parlant_server.agent("support")
    hold = parlant_server.hold_next(request_line)
    with fake.terminal(*command) as shown:
        shown.expect("waiting for")
        hold.release()
        assert shown.end() == 0


@pytest.mark.parametrize("request_line", ["POST /sessions", "POST /events"])
@pytest.mark.parametrize("options", [(), ("--stream",)], ids=["whole", "stream"])
def test_a_pause_after_a_429_is_shown(
    fake: Cli, parlant_server: FakeServer, request_line: str, options: tuple[str, ...]
) -> None:
    """Of a new session and of a message; the client itself waits, so the command only sees that it takes longer."""
    parlant_server.agent("support")
    parlant_server.fail_next(request_line, 429, '{"detail": "slow down"}', {"Retry-After": "20"})
    with fake.terminal("send", "--agent-id", "support", *options, "x") as shown:
        shown.expect("(429: next in 1")


def test_an_agent_that_is_ready_is_waited_for(fake: Cli, parlant_server: FakeServer) -> None:
    """It says so between two steps of its turn, too."""
    parlant_server.agent("support").waits("gate")
    session = parlant_server.create_session("support")
    with fake.terminal("chat", "--session-id", session) as shown:
        shown.expect("> ")
        shown.type("x\n")
        parlant_server.reached("gate", timeout=30)
        shown.expect("Support is writing ...")
        parlant_server.add_event(session, "status", {"status": "ready", "data": {}})
        shown.expect("waiting for Support ...")
        parlant_server.release("gate")
        shown.expect("echo: x")


def test_another_run(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "--conversation", "c", "x").code == 0
    with open(fake.states[0].with_suffix(".lock")) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with fake.terminal("send", "--conversation", "c", "--wait-lock", "60", "y") as shown:
            shown.expect("waiting for another run")
            fcntl.flock(held, fcntl.LOCK_UN)
            shown.expect("echo: y")
            assert shown.end() == 0


def test_a_second_ctrl_c_while_a_turn_is_left_ends_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        def __iter__(self) -> Any:
            return iter(())

        def close(self) -> None:
            raise KeyboardInterrupt

    class Session:
        def iter_events(self, **_: Any) -> Reader:
            return Reader()

    monkeypatch.setattr(terminal.output, "is_terminal", lambda _: True)
    session: Any = Session()
    client: Any = None
    with pytest.raises(KeyboardInterrupt), Live(client, session, "agent"):
        pass
    assert "parlant-sync-waiting" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("waiting", 7, "waiting"),
        ("waiting", 6, "wai..."),
        ("상담원을 기다림", 9, "상담원..."),
        ("한국어", 2, ".."),
        ("x", 0, ""),
    ],
)
def test_cut_counts_columns(text: str, columns: int, expected: str) -> None:
    assert cut(text, columns) == expected
    assert width(pad("한국", 8)) == 8


def test_a_narrow_terminal_gets_a_narrow_line(fake: Cli, parlant_server: FakeServer) -> None:
    agent = "질문에 대답하는 상담원"
    parlant_server.agent(agent).waits("gate")
    with fake.terminal("send", "--agent-id", agent, "x", columns=20) as shown:
        shown.expect("...")
        parlant_server.release("gate")
        assert shown.end() == 0
    drawn = re.findall(r"\x1b\[K(?:\x1b\[2m)?([^\x1b\r]+)", shown.screen)
    assert drawn
    assert max(map(width, drawn)) < 20


def test_a_job_in_the_background_draws_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(terminal.output, "is_terminal", lambda _: True)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    for group, drawn in ((os.getpgrp() + 1, False), (os.getpgrp(), True)):
        monkeypatch.setattr(os, "tcgetpgrp", lambda _, group=group: group)
        Waiting(lambda: "waiting")._draw(2.0)
        assert ("waiting 2 s" in capsys.readouterr().err) is drawn


def test_warnings_of_the_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """They are lines of their own: above the waiting line, and after the prompt that somebody types at."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(terminal.output, "is_terminal", lambda _: True)
    monkeypatch.setattr(terminal, "_in_foreground", lambda: True)
    log, logger = LogLines(0), logging.getLogger("parlant_sync.test")
    log.start()
    try:
        with Waiting(lambda: "waiting") as waiting:
            with waiting._lock:
                waiting._draw(2.0)
            logger.warning("the server\n%s", "is gone")
            logger.info("not asked for")
            assert capsys.readouterr().err.endswith("waiting 2 s\x1b[22m\r\x1b[Kparlant-sync: warning: the server\n")
        with log.hold():
            logger.warning("typing")
            assert capsys.readouterr().err == ""
        assert capsys.readouterr().err == "parlant-sync: warning: typing\n"
    finally:
        log.stop()
    assert log not in logging.getLogger().handlers


def test_what_is_typed_during_a_turn_is_shown_by_the_next_prompt(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").waits("gate").replies("one").echoes()
    with fake.terminal("chat") as shown:
        shown.expect("> ")
        shown.type("x\n")
        parlant_server.reached("gate", timeout=30)
        shown.expect("writing ...")
        shown.type("early")
        shown.expect("writing ...")
        parlant_server.release("gate")
        assert "early" not in shown.expect("    one")
        shown.expect("> early")
        shown.type("\n")
        shown.expect("    echo: early")


def test_1100_inherited_descriptors(fake: Cli, parlant_server: FakeServer, tmp_path: Path) -> None:
    parlant_server.agent("support")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("this system allows too few descriptors")
    # In a process between: those that this one does not hand on would leave low numbers free.
    shell = tmp_path / "shell"
    shell.write_text(
        f"#!{sys.executable}\nimport os, sys\nfor number in range(3, 1100):\n    os.dup2(0, number)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    shell.chmod(0o700)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        done = fake.run("send", "x", executable=str(shell))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (done.code, done.out, done.err) == (0, "echo: x\n", "")
