"""The worked examples in ``scripts/examples``, as a user runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli_runs import Cli, Run
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer

EXAMPLES = Path(__file__).parents[2] / "scripts/examples"


def run(cli: Cli, *command: str, input: str = "") -> Run:
    # The command of this environment, whatever else is installed.
    path = f"{Path(sys.executable).parent}{os.pathsep}{cli.environment['PATH']}"
    done = subprocess.run(
        command,
        input=input.encode(),
        env={**cli.environment, "PATH": path},
        capture_output=True,
        timeout=90,
        cwd=cli.home,
        check=False,
    )
    return Run(done.returncode, done.stdout.decode(), done.stderr.decode(), 0.0)


def nightly(cli: Cli, *arguments: str) -> Run:
    return run(cli, str(EXAMPLES / "nightly.sh"), *arguments)


@pytest.mark.real
def test_nightly(real: Cli, demo: SharedServer) -> None:
    agent = demo.agents["research"]
    first = nightly(real, agent, "What is the transformer?")
    assert (first.code, first.err) == (0, "")
    assert [line.split("ai_agent")[1].strip()[:15] for line in first.out.splitlines()] == ["The transformer"]
    # The same conversation the next night, and nothing of the first one again.
    second = nightly(real, agent, "And when was it published?")
    assert (second.code, second.err) == (0, "")
    assert len(second.out.splitlines()) == 1
    assert "It was published in June 2017" in second.out


def test_nightly_reports_what_others_said(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").replies("an answer")
    parlant_server.fail_next("POST /events", 502)
    uncertain = nightly(fake, "support", "one")
    assert uncertain.code == 7
    assert uncertain.err.count("\n") == 1
    session = json.loads(fake.states[0].read_text())["session_id"]
    parlant_server.human(session, "Dana was here")
    after = nightly(fake, "support", "two")
    assert after.code == 0
    assert [line.split("agent")[1].strip() for line in after.out.splitlines()] == ["Dana was here", "an answer"]


def test_nightly_survives_a_server_that_forgot(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert nightly(fake, "support", "one").code == 0
    parlant_server.restart()
    after = nightly(fake, "support", "two")
    assert (after.code, "echo: two" in after.out) == (0, True)
    assert "gone; starting a new one" in after.err
    parlant_server.stop()
    gone = nightly(fake, "support", "three")
    assert (gone.code, gone.out, gone.err.count("\n")) == (3, "", 1)
    assert nightly(fake, "support").code == 2


@pytest.mark.real
def test_ask_many(real: Cli, demo: SharedServer) -> None:
    questions = [f"question {number}" for number in range(10)]
    script = str(EXAMPLES / "ask_many.py")
    done = run(real, sys.executable, script, demo.agents["quick"], input="\n".join([*questions, "", "[silent] x"]))
    assert (done.code, done.err) == (0, "")
    rows = done.json_lines
    assert [row["text"] for row in rows] == [*(f"echo: {question}" for question in questions), ""]
    assert [row["outcome"] for row in rows] == ["answered"] * 10 + ["empty"]


def test_ask_many_without_a_server(nowhere: Cli) -> None:
    done = run(nowhere, sys.executable, str(EXAMPLES / "ask_many.py"), "support", input="x\n")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)


def test_ask_many_that_is_interrupted(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").waits("never")
    command = [sys.executable, str(EXAMPLES / "ask_many.py"), "support"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=fake.environment, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        process.stdin.write(b"x\n" * 20)
        process.stdin.close()
        process.stdin = None
        try:
            parlant_server.reached("never", 8, timeout=30)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, b"", b"ask_many: interrupted\n")
