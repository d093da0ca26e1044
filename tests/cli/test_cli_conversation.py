"""``--conversation``: state that survives runs, crashes, damage, full disks and two runs at once."""

from __future__ import annotations

import fcntl
import json
import signal
import stat
from pathlib import Path

import pytest
from support.cli_runs import Cli, posts
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer


@pytest.mark.real
def test_a_conversation_is_kept_between_runs(real: Cli, demo: SharedServer) -> None:
    agent = demo.agents["research"]
    first = real.run("send", "--conversation", "nightly", "--agent-id", agent, "What is the transformer?")
    assert (first.code, first.err) == (0, "")
    # The agent may be left out from now on, though the server has several.
    then = real.run("send", "--conversation", "nightly", "And when was it published?")
    assert (then.code, then.err) == (0, "")
    assert "It was published in June 2017" in then.out
    [state] = real.states
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.parent.stat().st_mode) == 0o700
    kept = json.loads(state.read_text())
    assert (kept["server"], kept["agent_id"], kept["name"]) == (real.server, agent, "nightly")
    shown = real.run("sessions", "show", "-o", "json", kept["session_id"])
    assert [e["data"]["message"] for e in shown.json["events"] if e["source"] == "customer"] == [
        "What is the transformer?",
        "And when was it published?",
    ]


@pytest.mark.real
def test_by_server_agent_and_name(real: Cli, demo: SharedServer) -> None:
    quick, streamer = demo.agents["quick"], demo.agents["streamer"]
    for agent in (quick, streamer):
        assert real.run("send", "--conversation", "n/../ä", "--agent-id", agent, "x").code == 0
    assert len(real.states) == 2
    assert {path.parent for path in real.states} == {real.home / "state/parlant-sync/conversations"}
    real.run("send", "--conversation", "n/../ä", "x").failed(2, quick, streamer, "--agent-id")
    elsewhere = real.run(
        "send", "--conversation", "n", "--agent-id", quick, "--state-dir", str(real.home / "here"), "x"
    )
    assert elsewhere.code == 0
    assert len(real.states) == 2
    assert [path.suffix for path in sorted((real.home / "here/conversations").iterdir())] == [".json", ".lock"]


@pytest.mark.real
def test_a_session_that_is_gone_and_renew(real: Cli, demo: SharedServer) -> None:
    ask = ("send", "--conversation", "c", "--agent-id", demo.agents["quick"])
    assert real.run(*ask, "x").code == 0
    [state] = real.states
    gone = json.loads(state.read_text())["session_id"]
    assert real.run("sessions", "delete", gone).code == 0
    real.run(*ask, "x").failed(6, gone, "'c'", "--renew")
    assert json.loads(state.read_text())["session_id"] == gone
    renewed = real.run(*ask, "--renew", "x")
    assert (renewed.code, renewed.out) == (0, "echo: x\n")
    assert "starting a new one" in renewed.err
    # Where nothing is gone, --renew changes nothing: it may stand in a crontab.
    before = state.read_text()
    again = real.run(*ask, "--renew", "x")
    assert (again.code, again.err, state.read_text()) == (0, "", before)


DAMAGE = [b"{", b"[]", b'{"kind": "cursor", "format": 1}', b'{"kind": "conversation", "format": 1}', b"\xff\x00"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_left_alone(fake: Cli, parlant_server: FakeServer, damage: bytes) -> None:
    parlant_server.agent("support")
    ask = ("send", "--conversation", "c", "--agent-id", "support", "x")
    assert fake.run(*ask).code == 0
    [state] = fake.states
    state.write_bytes(damage)
    posted = len(parlant_server.requests)
    fake.run(*ask).failed(2, str(state), "remove it")
    assert not [r for r in parlant_server.requests[posted:] if r.method == "POST"]
    assert state.read_bytes() == damage
    assert fake.run(*ask, "--fresh").out == "echo: x\n"


def test_a_file_of_a_newer_version_is_left_alone(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "--conversation", "c", "x").code == 0
    [state] = fake.states
    newer = state.read_text().replace('"format": 1', '"format": 2')
    state.write_text(newer)
    fake.run("send", "--conversation", "c", "x").failed(1, "format 2")
    assert state.read_text() == newer


def test_another_customer_is_another_conversation(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    parlant_server.customer("ann", "Ann")
    ask = ("send", "--conversation", "c", "x")
    assert fake.run(*ask, "--customer-id", "ann").code == 0
    fake.run(*ask, "--customer-id", "bob").failed(2, "'ann'", "'bob'")
    assert fake.run(*ask).code == 0


def _lock_of(state: Path) -> Path:
    return state.with_suffix(".lock")


def test_8_two_runs_never_share_it(fake: Cli, parlant_server: FakeServer) -> None:
    agent = parlant_server.agent("support").waits("gate", at="answer").replies("first").replies("second")
    with fake.start("send", "--conversation", "c", "x") as running:
        parlant_server.reached("gate", timeout=30)
        refused = fake.run("send", "--conversation", "c", "y")
        refused.failed(8, "another run", "--wait-lock")
        fake.run("send", "--conversation", "c", "--wait-lock", "0.2", "y").failed(8, "another run")
        with fake.start("send", "--conversation", "c", "--wait-lock", "60", "y") as waiting:
            assert agent
            parlant_server.release("gate")
            assert running.end().out == "first\n"
            assert waiting.end().out == "second\n"
    assert len(fake.states) == 1


def test_waiting_for_the_lock_can_be_interrupted(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "--conversation", "c", "x").code == 0
    with open(_lock_of(fake.states[0])) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with fake.terminal("send", "--conversation", "c", "--wait-lock", "inf", "y") as terminal:
            terminal.expect("waiting for another run")
            terminal.type("\x03")
            assert terminal.end() == 130


def test_a_killed_run_leaves_no_lock(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").waits("gate").replies("first").echoes()
    with fake.start("send", "--conversation", "c", "x") as running:
        parlant_server.reached("gate", timeout=30)
        running.end(signal.SIGKILL)
    # The session was written down before anything was said in it.
    [state] = fake.states
    parlant_server.release("gate")
    parlant_server.wait_idle()
    assert fake.run("send", "--conversation", "c", "y").out == "echo: y\n"
    session = json.loads(state.read_text())["session_id"]
    rows = fake.run("tail", "-o", "json", "--session-id", session, "--kinds", "message", "--timeout", "0").json_lines
    assert [row["data"]["message"] for row in rows] == ["x", "first", "y", "echo: y"]


def test_a_full_disk_keeps_the_old_state_whole(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    # No file may grow: what a full disk does, without one.
    full = fake.shell("ulimit -f 0; $CLI send --conversation c x", env={"PYTHONDONTWRITEBYTECODE": "1"})
    full.failed(1, "space left", ".json")
    assert fake.states == []
    assert posts(parlant_server) == 0
    assert fake.run("send", "--conversation", "c", "x").code == 0
    before = fake.states[0].read_text()
    full = fake.shell("ulimit -f 0; $CLI send --conversation c --renew y", env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert (full.code, full.out) == (0, "echo: y\n")
    assert fake.states[0].read_text() == before
    assert not list(fake.states[0].parent.glob(".*.tmp"))


def test_a_state_folder_that_cannot_be(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("a")
    done = fake.run("send", "--conversation", "c", "--agent-id", "a", "--state-dir", "/proc/nothing", "x")
    done.failed(1, "/proc/nothing", "check the path")


def test_what_killed_runs_left_is_cleared_away(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "--conversation", "c", "x").code == 0
    [state] = fake.states
    left = state.with_name(f".{state.name}.tmp")  # by a run that was killed between writing and renaming
    left.write_text("{")
    fake.run("sessions", "delete", json.loads(state.read_text())["session_id"])
    assert fake.run("send", "--conversation", "c", "--renew", "x").code == 0
    assert sorted(path.suffix for path in state.parent.iterdir()) == [".json", ".lock"]


def test_renew_from_the_environment_is_for_conversations(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "x", env={"PARLANT_RENEW": "1"}).out == "echo: x\n"
    fake.run("send", "--renew", "x").failed(2, "--conversation")


def test_what_is_typed_for_a_new_session_goes_before_a_session_of_the_environment(
    fake: Cli, parlant_server: FakeServer
) -> None:
    for agent in ("sales", "support"):
        parlant_server.agent(agent)
    env = {"PARLANT_SESSION_ID": parlant_server.create_session("support")}
    new = fake.run("send", "-o", "json", "--agent-id", "sales", "x", env=env)
    assert parlant_server.sessions[new.json["session_id"]]["agent_id"] == "sales"
    again = fake.run("send", "-o", "json", "x", env={**env, "PARLANT_AGENT_ID": "sales"})
    assert again.json["session_id"] == env["PARLANT_SESSION_ID"]


def test_a_session_that_goes_away_during_the_turn(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support").waits("never")
    with fake.start("send", "--conversation", "c", "x") as running:
        parlant_server.reached("never", timeout=30)
        parlant_server.restart()
        running.end().failed(6, "of conversation 'c' is gone", "--renew")


@pytest.mark.real
def test_a_long_name_makes_a_title_that_the_server_takes(real: Cli, demo: SharedServer) -> None:
    ask = ("send", "--conversation", "n" * 300, "--agent-id", demo.agents["quick"], "x")
    assert real.run(*ask).out == "echo: x\n"
    assert real.run(*ask).out == "echo: x\n"
    assert len(real.states) == 1
