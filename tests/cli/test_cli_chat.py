"""``parlant-sync chat`` at a pseudo-terminal."""

from __future__ import annotations

import os

import pytest
from support.cli_runs import Cli, posts
from support.shared_servers import SharedServer

import parlant_sync.cli.commands.chat as chat
from parlant_sync.testing import FakeServer

CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.mark.real
def test_a_conversation(real: Cli, demo: SharedServer) -> None:
    with real.terminal("chat", "--agent-id", demo.agents["welfare"]) as terminal:
        assert "/help shows" in terminal.expect("> ")
        terminal.type("What is long-term care insurance?\n")
        terminal.expect("Medical Welfare")
        terminal.expect("\x1b[2m    Let me look that")  # the preamble, dimmed
        terminal.expect("Long-term care insurance is the public scheme")
        terminal.expect("> ")
        terminal.type("What does it cost?\n")
        terminal.expect("Users pay 10 per cent")
        terminal.expect("> ")
        terminal.type(CTRL_D)
        terminal.expect("Come back with: parlant-sync chat --session-id ")
        assert terminal.end() == 0
        back = terminal.screen.rsplit(" ", 1)[-1].strip()
    with real.terminal("chat", "--session-id", back) as terminal:
        # What was said last is shown again.
        terminal.expect("What does it cost?")
        terminal.expect("Users pay 10 per cent")
        terminal.expect("> ")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


@pytest.mark.real
def test_ctrl_c_leaves_the_turn_and_its_answer_comes_later(real: Cli, demo: SharedServer) -> None:
    gate = f"chat-{os.getpid()}"
    with real.terminal("chat", "--conversation", "c", "--agent-id", demo.agents["quick"]) as terminal:
        terminal.expect("> ")
        terminal.type(f"[gate={gate}] first\n")
        terminal.expect("Quick is")  # waiting is shown
        terminal.type(CTRL_C)
        terminal.expect("left this turn")
        terminal.expect("> ")
        demo.release(gate)
        # An empty line shows what has come meanwhile, as soon as it has.
        for _ in range(200):
            terminal.type("\n")
            if "echo: first" in terminal.expect("> "):
                break
        else:
            raise AssertionError(terminal.screen)
        terminal.type("second\n")
        terminal.expect("echo: second")
        terminal.expect("> ")
        terminal.type(CTRL_C)
        terminal.expect("Ctrl-D leaves the conversation")
        terminal.expect("> ")
        terminal.type(CTRL_D)
        terminal.expect("parlant-sync chat --conversation c")
        assert terminal.end() == 0


def test_ctrl_c_at_the_prompt_stays_inside_each_time(fake: Cli, parlant_server: FakeServer) -> None:
    """However early it comes: also between the prompt and readline's wait for a key, where Python does not see it."""
    parlant_server.agent("support")
    with fake.terminal("chat") as terminal:
        terminal.expect("> ")
        for line in ["", "half a li"] * 20:
            terminal.type(line)
            terminal.expect(line)
            terminal.type(CTRL_C)
            terminal.expect("(Ctrl-D leaves the conversation)")
            terminal.expect("> ")
        terminal.type("x\n")
        terminal.expect("echo: x")  # and nothing of the lines that were left
        terminal.expect("> ")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert terminal.screen.count("(Ctrl-D leaves") == 40


@pytest.mark.real
def test_a_failing_turn_does_not_end_the_conversation(real: Cli, demo: SharedServer) -> None:
    with real.terminal("chat", "--agent-id", demo.agents["hesitant"], "--timeout", "30") as terminal:
        terminal.expect("> ")
        terminal.type("[fail] x\n")
        terminal.expect("the agent reported an error")
        terminal.expect("> ")
        terminal.type("[silent] x\n")
        terminal.expect("no answer in this turn")
        terminal.expect("> ")
        terminal.type("x\n")
        terminal.expect("echo: x")
        terminal.expect("> ")
        terminal.process.terminate()
        assert terminal.end() == 143
        assert "Traceback" not in terminal.screen


def test_a_human_takes_over_and_says_something_by_themselves(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = parlant_server.create_session("support")
    with fake.terminal("chat", "--session-id", session) as terminal:
        terminal.expect("> ")
        parlant_server.human(session, "Hello, Dana here", name="Dana")
        terminal.type("\n")
        terminal.expect("Dana (human)")
        terminal.expect("Hello, Dana here")
        terminal.expect("> ")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def test_a_session_that_goes_away_ends_it(fake: Cli, parlant_server: FakeServer) -> None:
    session = parlant_server.create_session("support")
    with fake.terminal("chat", "--session-id", session) as terminal:
        terminal.expect("> ")
        parlant_server.delete_session(session)
        terminal.type("x\n")
        terminal.expect(f"no session '{session}'")
        terminal.expect("sessions list")
        assert terminal.end() == 6
    assert "Traceback" not in terminal.screen
    assert "Come back" not in terminal.screen  # there is nothing to come back to


def test_a_conversation_that_goes_away_ends_it(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    with fake.terminal("chat", "--conversation", "c") as terminal:
        terminal.expect("> ")
        parlant_server.restart()  # it keeps sessions in memory
        terminal.type("\n")
        terminal.expect("of conversation 'c' is gone")
        terminal.expect("--renew")
        assert terminal.end() == 6
    assert "Come back" not in terminal.screen


@pytest.mark.real
def test_by_a_pipe(real: Cli, demo: SharedServer) -> None:
    agent = demo.agents["quick"]
    done = real.run("chat", "--agent-id", agent, input="one\n\ntwo")
    assert (done.code, done.err) == (0, "")
    assert done.out == "You\n    one\nQuick\n    echo: one\nYou\n    two\nQuick\n    echo: two\n"
    rows = real.run("chat", "-o", "json", "--agent-id", agent, input="one\ntwo\n").json_lines
    assert [row["text"] for row in rows] == ["echo: one", "echo: two"]
    failing = real.run("chat", "--agent-id", demo.agents["hesitant"], input="[fail] x\nnever asked\n")
    assert failing.code == 5
    assert "never asked" not in failing.out


def test_a_pipe_is_utf_8_whatever_the_terminal_is(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    done = fake.run("chat", "-o", "json", input="日本\n", env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.json["text"]) == (0, "echo: 日本")


def test_lines_of_a_pipe_that_are_no_messages(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    endless = fake.shell("yes | tr -d '\\n' | $CLI chat")
    endless.failed(2, "1024 KiB")
    fake.run("chat", input=b"a\0b\n").failed(2, "binary")
    fake.run("chat", input=b"caf\xe9\n").failed(2, "UTF-8", "iconv")
    assert posts(parlant_server) == 0


def test_the_way_back_has_what_the_conversation_is_kept_by(fake: Cli, parlant_server: FakeServer) -> None:
    for agent in ("sales", "support"):
        parlant_server.agent(agent)
    kept = ("chat", "--conversation", "c", "--agent-id", "sales", "--state-dir", str(fake.home / "here"))
    with fake.terminal(*kept) as terminal:
        terminal.expect("> ")
        terminal.type(CTRL_D)
        terminal.expect(f"Come back with: parlant-sync {' '.join(kept)}")
        assert terminal.end() == 0


def test_another_ctrl_c_while_a_turn_is_left() -> None:
    """It falls into the words about the first one, and is one more of the same."""
    answers = iter([KeyboardInterrupt, True, False])

    class Hasty(chat._Chat):
        def __init__(self) -> None:
            self._terminal = True

        def _step(self) -> bool:
            answer = next(answers)
            if isinstance(answer, bool):
                return answer
            raise answer

    hasty = Hasty()
    assert [hasty._go_on(), hasty._go_on(), hasty._go_on()] == [True, True, False]
    answers = iter([KeyboardInterrupt])
    hasty._terminal = False
    with pytest.raises(KeyboardInterrupt):
        hasty._go_on()
