"""What is typed and pasted at the prompt of ``chat``, and before it comes, arrives as it is."""

from __future__ import annotations

import contextlib

import pytest
from support.cli_runs import COMMAND, Cli, Terminal

from parlant_sync.testing import FakeServer

CTRL_D = "\x04"


def _said(server: FakeServer) -> list[str]:
    """The customer's messages, of all sessions."""
    events = [event for session in server.sessions for event in server.events(session)]
    return [event["data"]["message"] for event in events if event["source"] == "customer"]


def _leave(terminal: Terminal) -> None:
    terminal.expect("> ")
    terminal.type(CTRL_D)
    assert terminal.end() == 0


@pytest.mark.parametrize("locale", ["C", "xx_XX.UTF-8"])
def test_text_in_a_locale_that_knows_ascii_only(fake: Cli, parlant_server: FakeServer, locale: str) -> None:
    parlant_server.agent("support")
    with fake.terminal("chat", env={"LC_ALL": locale}) as terminal:
        terminal.expect("> ")
        terminal.type("介護保険 café\n")
        terminal.expect("echo: 介護保険 café")
        _leave(terminal)
    assert _said(parlant_server) == ["介護保険 café"]


def test_lines_that_are_pasted_together_are_one_message(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    with fake.terminal("chat") as terminal:
        terminal.expect("\x1b[?2004h> ")  # the terminal is to mark what is pasted
        terminal.type("\x1b[200~one\rtwo\r\x1b[201~three\r")
        terminal.expect("echo: one")
        _leave(terminal)
    assert _said(parlant_server) == ["one\ntwo\nthree"]


def test_a_long_line_that_is_typed_during_a_turn(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").waits("gate").replies("first").replies("second")
    with fake.terminal("chat") as terminal:
        terminal.expect("> ")
        terminal.type("x\n")
        parlant_server.reached("gate", timeout=30)
        terminal.type("y" * 9000 + "\n")
        parlant_server.release("gate")
        terminal.expect("second")
        _leave(terminal)
    assert _said(parlant_server) == ["x", "y" * 9000]


def test_ctrl_d_during_a_turn_leaves_after_it(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").waits("gate").replies("first")
    with fake.terminal("chat") as terminal:
        terminal.expect("> ")
        terminal.type("x\n")
        parlant_server.reached("gate", timeout=30)
        terminal.type(CTRL_D)
        parlant_server.release("gate")
        terminal.expect("first")
        terminal.expect("Come back with")
        assert terminal.end() == 0


def test_a_line_that_the_terminal_has_cut_is_not_sent(fake: Cli, parlant_server: FakeServer) -> None:
    """Where stdout is no terminal, the terminal collects the lines itself."""
    parlant_server.agent("support")
    piped = ["/bin/bash", "-c", f"{' '.join(COMMAND)} chat | cat"]
    with contextlib.closing(Terminal(piped, fake.environment, 80)) as terminal:
        terminal.expect("> ")
        terminal.type("y" * 5000 + "\n")
        terminal.expect("4095 bytes")
        _leave(terminal)
    assert _said(parlant_server) == []


def test_the_terminal_is_given_back_as_it_was(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    with fake.terminal("chat") as terminal:
        _leave(terminal)
        assert terminal.canonical


def test_a_terminal_without_a_name_gets_no_escapes(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    with fake.terminal("chat", env={"TERM": ""}) as terminal:
        terminal.expect("> ")
        terminal.type("x\n")
        terminal.expect("echo: x")
        _leave(terminal)
        assert "\x1b" not in terminal.screen


def test_what_is_said_about_the_end_begins_a_line(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    with fake.terminal("chat", env={"TERM": "dumb"}) as terminal:
        terminal.expect("> ")
        terminal.process.terminate()
        terminal.expect("\nCome back with")
        assert terminal.end() == 143
