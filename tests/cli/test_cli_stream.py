"""``send --stream``: what is said about a failure never stands behind half an answer."""

from __future__ import annotations

import signal

from support.cli_runs import Cli

from parlant_sync.testing import FakeServer


def test_a_failure_in_the_middle_begins_a_line(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").streams("one two three", breaks_after=2)
    with fake.terminal("send", "--stream", "x") as terminal:
        terminal.expect("one")
        terminal.expect("\nparlant-sync: ")
        assert terminal.end() == 5
    done = fake.run("send", "--stream", "x")
    assert (done.code, done.out) == (5, "one two \n")


def test_a_signal_in_the_middle_too(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").streams("one two three").waits("gate", at="chunk")
    parlant_server.release("gate", 1)
    with fake.start("send", "--stream", "x") as running:
        assert running.process.stdout is not None
        first = running.process.stdout.read(4).decode()
        done = running.end(signal.SIGINT)
    assert done.code == 130
    assert (first + done.out).endswith("\n")
