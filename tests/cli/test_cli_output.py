"""What is written, and where: pipes, encodings, control characters, JSON, colours, the line that says "waiting"."""

from __future__ import annotations

import json
import signal

import pytest
from support.cli_runs import Cli
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer, Response

# What the stand-in cannot send as a real server cannot; other servers may, and it is put in on the way.
SURROGATE, NAN, HUGE = "@surrogate@", "@nan@", "@huge@"
NASTY = "red \x1b[31m \u202ereversed \x00\x7f\x9b @surrogate@ 日本 \u200d 🙂\ttab"


def put_in(response: Response) -> None:
    """As a sloppy server writes them."""
    body = response.body.replace(SURROGATE.encode(), b"\\ud800")
    response.body = body.replace(f'"{NAN}"'.encode(), b"NaN").replace(f'"{HUGE}"'.encode(), b"1e999")


def test_json_is_valid_for_any_content(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.alter_next("GET /events", put_in, times=None)
    parlant_server.agent("support").replies(NASTY).with_tool("t:nan", {"a": NAN, "b": [HUGE]})
    done = fake.run("send", "-o", "json", "x")
    assert done.code == 0, done

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    [line] = done.out.splitlines()
    reply = json.loads(line, parse_constant=refuse)
    assert reply["text"] == NASTY.replace(SURROGATE, "\ud800")
    assert line.isascii()
    assert reply["tool_calls"][0]["arguments"] == {"a": "NaN", "b": ["inf"]}
    rows = fake.run("tail", "-o", "json", "--session-id", reply["session_id"], "--timeout", "0").out.splitlines()
    assert len([json.loads(row, parse_constant=refuse) for row in rows]) > 3


@pytest.mark.real
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp932"])
def test_terminals_that_are_not_utf_8(real: Cli, demo: SharedServer, encoding: str) -> None:
    env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = real.run("send", "--agent-id", demo.agents["quick"], "caf\u00e9 \u4e00 \U0001f642", env=env)
    assert (done.code, done.err) == (0, "")


def test_escapes_where_the_encoding_lacks_a_character(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").replies("日本")
    done = fake.run("send", "x", env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.out) == (0, "\\u65e5\\u672c\n")


@pytest.mark.real
def test_a_closed_pipe_ends_quietly(real: Cli, demo: SharedServer) -> None:
    script = "$CLI send --agent-id quick x | true; $CLI tail --session-id {} | head -n 1; echo ${{PIPESTATUS[*]}}"
    first = real.run("send", "-o", "json", "--agent-id", demo.agents["quick"], "x").json["session_id"]
    # tail has no end of its own here: it ends because its reader has gone.
    done = real.shell(script.format(first).replace("--agent-id quick", f"--agent-id {demo.agents['quick']}"))
    assert (done.out.splitlines()[1:], done.err) == (["0 0"], "")


def test_a_full_disk_behind_stdout(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    done = fake.shell("$CLI send x > /dev/full")
    assert done.code == 1
    assert "Traceback" in fake.shell("$CLI -vv send x > /dev/full").err  # only on demand
    assert done.err == (
        "parlant-sync: the output could not be written: No space left on device; make room, or write elsewhere, "
        "and run it again\n"
    )


def test_a_closed_stdout(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    done = fake.shell("$CLI send x >&-")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert fake.shell("$CLI sessions create >&-").code == 1
    assert not [request for request in parlant_server.requests if request.method == "POST"]  # it is noticed in time
    assert fake.shell("$CLI send x 2>&-").out == "echo: x\n"


def test_colours_and_waiting_only_at_a_terminal(fake: Cli, parlant_server: FakeServer) -> None:
    agent = parlant_server.agent("support").replies("the answer").with_preamble("hm").waits("go")
    with fake.terminal("send", "--show-preamble", "x") as terminal:
        assert "\x1b[2mhm" in terminal.expect("hm")
        terminal.expect("waiting for support")
        parlant_server.release("go")
        terminal.expect("the answer")
        assert terminal.end() == 0
    agent.forget().replies("the answer").with_preamble("hm").waits("again")
    with fake.terminal("send", "--show-preamble", "x", env={"NO_COLOR": "1"}) as terminal:
        terminal.expect("waiting for support")
        parlant_server.release("again")
        terminal.expect("the answer")
        assert terminal.end() == 0
        assert "\x1b[2m" not in terminal.screen
    agent.forget().replies("the answer").waits("dumb")
    with fake.terminal("send", "x", env={"TERM": "dumb"}) as terminal:
        terminal.expect("waiting for support")
        parlant_server.release("dumb")
        terminal.expect("the answer")
        assert terminal.end() == 0
        assert "\x1b" not in terminal.screen


def test_a_restart_in_the_middle_of_a_stream(fake: Cli, parlant_server: FakeServer) -> None:
    agent = parlant_server.agent("support").streams(["one ", "two"]).waits("mid", at="chunk")
    agent.when_interrupted("cancel").replies("the new answer")
    session = fake.run("sessions", "create").out.strip()
    with fake.start("send", "--stream", "--session-id", session, "x") as running:
        assert running.process.stdout is not None
        assert running.process.stdout.read(4) == b"one "
        assert fake.run("send", "--session-id", session, "y").out == "the new answer\n"
        done = running.end()
    assert (done.code, done.out) == (0, "\nthe new answer\n")
    assert "a new answer begins" in done.err


def test_a_failure_in_the_middle_of_a_stream_begins_a_line(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").streams("one two three", breaks_after=2)
    with fake.terminal("send", "--stream", "x") as terminal:
        terminal.expect("one")
        terminal.expect("\nparlant-sync: ")
        assert terminal.end() == 5
    done = fake.run("send", "--stream", "x")
    assert (done.code, done.out) == (5, "one two \n")


def test_a_signal_in_the_middle_of_a_stream_too(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").streams("one two three").waits("gate", at="chunk")
    parlant_server.release("gate", 1)
    with fake.start("send", "--stream", "x") as running:
        assert running.process.stdout is not None
        first = running.process.stdout.read(4).decode()
        done = running.end(signal.SIGINT)
    assert done.code == 130
    assert (first + done.out).endswith("\n")
