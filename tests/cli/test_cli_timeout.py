"""``--timeout`` is one deadline for the whole run, and a server that fails is not told as a slow agent."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cli_runs import Cli

import parlant_sync.cli.commands.send as send
from parlant_sync.cli.errors import CommandError
from parlant_sync.testing import FakeServer

# More than a run that keeps its time takes on a busy machine, and less than the 30 s that a request has otherwise.
PROMPTLY = 15.0


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[Cli]:
    """Commands against a server that accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Cli(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path)


@pytest.mark.parametrize("arguments", [("--agent-id", "a"), ("--session-id", "s"), ("--conversation", "c"), ()])
def test_3_send_does_not_wait_longer_for_a_server(mute: Cli, arguments: tuple[str, ...]) -> None:
    done = mute.run("send", "--timeout", "1", *arguments, "x")
    done.failed(3, "no answer")
    assert done.seconds < 8


def test_3_tail_does_not_wait_for_ever_for_a_server(mute: Cli) -> None:
    done = mute.run("tail", "--session-id", "s", "--timeout", "0")
    done.failed(3, "no answer")
    assert done.seconds < PROMPTLY


def test_what_opening_the_session_took_is_taken_off() -> None:
    now = time.monotonic()
    assert send._left(None, 0.0, now - 100) is None
    assert send._left(0.0, 0.0, now - 100) == 0.0  # asked for: post, and do not wait
    assert send._left(10.0, 0.0, now - 3) == pytest.approx(7.0, abs=1)
    assert send._left(10.0, 60.0, now - 50) == 10.0  # the time of the lock is another
    assert send._left(10.0, None, now - 500) == 10.0
    with pytest.raises(CommandError, match="nothing was posted") as caught:
        send._left(10.0, 0.0, now - 11)
    assert caught.value.exit_code == 4


def _fail_with_503(server: FakeServer) -> None:
    server.fail_next("GET /events", 503, times=None)
    server.cut_connections()


def _limit(server: FakeServer) -> None:
    server.fail_next("GET /events", 429, '{"detail": "slower"}', times=None)
    server.cut_connections()


@pytest.mark.parametrize(("trouble", "words"), [(_fail_with_503, "503"), (_limit, "429"), (FakeServer.stop, "refused")])
def test_3_a_server_that_fails_in_the_middle_of_a_turn(
    fake: Cli, parlant_server: FakeServer, trouble: Callable[[FakeServer], None], words: str
) -> None:
    parlant_server.agent("support").waits("never")
    session = parlant_server.create_session("support")
    with fake.start("send", "--timeout", "3", "--session-id", session, "x") as running:
        parlant_server.reached("never", timeout=30)
        trouble(parlant_server)
        done = running.end()
    done.failed(3, words, "was posted", f"parlant-sync tail --session-id {session} --since 1")


def test_4_a_session_in_manual_mode_says_so(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = parlant_server.create_session("support")
    parlant_server.set_mode(session, "manual")
    fake.run("send", "--timeout", "0.5", "--session-id", session, "x").failed(4, "manual mode", "no human has answered")


def test_4_a_slow_agent_is_told_as_one(fake: Cli, parlant_server: FakeServer) -> None:
    """Also where the server failed before, and is well again."""
    parlant_server.agent("support").waits("never")
    with fake.start("send", "--timeout", "3", "x") as running:
        parlant_server.reached("never", timeout=30)
        parlant_server.fail_next("GET /events", 503)
        parlant_server.cut_connections()
        parlant_server.wait_polls(timeout=30)
        done = running.end()
    done.failed(4, "the agent was still working", "--timeout")
