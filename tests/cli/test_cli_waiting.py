"""Whatever takes longer than a second says at a terminal what it waits for; and says so no longer than it waits."""

from __future__ import annotations

import fcntl
import threading
from typing import Any

import pytest
from support.cli_runs import Cli

from parlant_sync.cli import terminal as waiting
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
    with fake.terminal(*command) as terminal:
        terminal.expect("waiting for")
        hold.release()
        assert terminal.end() == 0


def test_an_agent_that_is_ready_is_waited_for(fake: Cli, parlant_server: FakeServer) -> None:
    """It says so between two steps of its turn, too."""
    parlant_server.agent("support").waits("gate")
    session = parlant_server.create_session("support")
    with fake.terminal("chat", "--session-id", session) as terminal:
        terminal.expect("> ")
        terminal.type("x\n")
        parlant_server.reached("gate", timeout=30)
        terminal.expect("Support is writing ...")
        parlant_server.add_event(session, "status", {"status": "ready", "data": {}})
        terminal.expect("waiting for Support ...")
        parlant_server.release("gate")
        terminal.expect("echo: x")


def test_another_run(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "--conversation", "c", "x").code == 0
    with open(fake.states[0].with_suffix(".lock")) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with fake.terminal("send", "--conversation", "c", "--wait-lock", "60", "y") as terminal:
            terminal.expect("waiting for another run")
            fcntl.flock(held, fcntl.LOCK_UN)
            terminal.expect("echo: y")
            assert terminal.end() == 0


def test_a_second_ctrl_c_while_a_turn_is_left_ends_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reader:
        def __iter__(self) -> Any:
            return iter(())

        def close(self) -> None:
            raise KeyboardInterrupt

    class Session:
        def iter_events(self, **_: Any) -> Reader:
            return Reader()

    monkeypatch.setattr(waiting.output, "is_terminal", lambda _: True)
    session: Any = Session()
    with pytest.raises(KeyboardInterrupt), Live(session, "agent"):
        pass
    assert "parlant-sync-waiting" not in [thread.name for thread in threading.enumerate()]
