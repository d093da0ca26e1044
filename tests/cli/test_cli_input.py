"""Messages that are none: refused before anything is sent, with one line that says what to do."""

from __future__ import annotations

import subprocess

import pytest
from support.cli_runs import Cli
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer


@pytest.mark.parametrize("data", [b"", b"\n", b" \t\r\n\n", b"\xef\xbb\xbf\n"])
def test_an_empty_message(fake: Cli, parlant_server: FakeServer, data: bytes) -> None:
    fake.run("send", input=data).failed(2, "empty", "say something")
    assert parlant_server.requests == []


def test_an_empty_argument(nowhere: Cli) -> None:
    nowhere.run("send", "").failed(2, "empty")
    nowhere.run("send", stdin=subprocess.DEVNULL).failed(2, "empty")


def test_binary_stdin(fake: Cli, parlant_server: FakeServer) -> None:
    fake.run("send", input=bytes(range(256))).failed(2, "binary")
    fake.run("send", input=b"caf\xe9 au lait").failed(2, "UTF-8", "byte 4", "iconv")
    assert parlant_server.requests == []


def test_stdin_without_end(nowhere: Cli) -> None:
    done = nowhere.shell("yes | $CLI send --agent-id a")
    done.failed(2, "1024 KiB")
    assert done.seconds < 20


@pytest.mark.real
def test_a_large_message_is_sent(real: Cli, demo: SharedServer) -> None:
    text = "x" * 200_000
    done = real.run("send", "--agent-id", demo.agents["quick"], input=text)
    assert (done.code, done.out) == (0, f"echo: {text}\n")


def test_an_argument_that_is_no_text(nowhere: Cli) -> None:
    nowhere.shell("$CLI send --agent-id a $'caf\\xe9'", env={"LC_ALL": "C.UTF-8"}).failed(2, "UTF-8")


def test_at_a_terminal_a_message_is_needed(nowhere: Cli) -> None:
    with nowhere.terminal("send", "--agent-id", "a") as terminal:
        terminal.expect("no message: give one")
        assert terminal.end() == 2


def test_stdin_that_is_closed(nowhere: Cli) -> None:
    nowhere.shell("$CLI send --agent-id a <&-").failed(2, "no message")
