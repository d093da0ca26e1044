"""``parlant-sync tail`` and its cursor file: repeats rather than loses, whatever happens to a run."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
from support.cli_runs import Cli
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer


@pytest.mark.real
def test_events_as_they_come(real: Cli, demo: SharedServer, new_session: Callable[..., str]) -> None:
    session = new_session()
    with real.start("tail", "--session-id", session, "--kinds", "message") as running:
        assert real.run("send", "--session-id", session, "hello\nyou").code == 0
        lines = [running.read_line() for _ in range(4)]
        done = running.end(signal.SIGTERM)
    assert done.code == 143
    assert lines[0].split()[0] == "0"
    assert lines[0].split()[3:] == ["customer", "hello"]
    assert lines[1] == "    you\n"
    assert lines[2].split()[3:] == ["ai_agent", "echo:", "hello"]


@pytest.mark.real
def test_what_is_printed(real: Cli, demo: SharedServer) -> None:
    reply = real.run("send", "-o", "json", "--agent-id", demo.agents["hesitant"], "hm").json
    tail = ("tail", "--session-id", reply["session_id"], "--timeout", "0")
    every = real.run(*tail, "-o", "json").json_lines
    assert [event["offset"] for event in every] == list(range(reply["next_offset"]))
    said = real.run(*tail, "--kinds", "message", "--sources", "ai_agent").out.splitlines()
    assert [line.split("ai_agent")[1].strip() for line in said] == ["(Let me see.)", "echo: hm"]
    assert "Let me see" not in real.run(*tail, "--no-preambles").out
    kinds = real.run(*tail, "-o", "json", "--kinds", "message,status", "--since", "3").json_lines
    assert {event["kind"] for event in kinds} == {"message", "status"}
    assert kinds[0]["offset"] == 3
    assert real.run(*tail, "--since", "latest").out == ""
    text = real.run(*tail).out
    assert "[acknowledged]" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.real
def test_a_cursor_file_goes_on_where_the_last_run_stopped(real: Cli, demo: SharedServer) -> None:
    ask = ("send", "--conversation", "c", "--agent-id", demo.agents["quick"])
    tail = ("tail", "--conversation", "c", "--timeout", "0", "--cursor-file", "cur.json", "-o", "json")
    assert real.run(*ask, "one").code == 0
    first = real.run(*tail).json_lines
    assert (first[0]["offset"], real.run(*tail).out) == (0, "")
    assert stat.S_IMODE((real.home / "cur.json").stat().st_mode) == 0o600
    assert real.run(*ask, "two").code == 0
    then = real.run(*tail, "--since", "beginning", "--kinds", "message").json_lines
    assert [event["data"]["message"] for event in then] == ["two", "echo: two"]
    assert real.run(*tail).out == ""


def test_a_run_that_is_killed_repeats_rather_than_loses(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = parlant_server.create_session("support")
    tail = ("tail", "-o", "json", "--session-id", session, "--cursor-file", "c")
    runs: list[list[int]] = []
    for lines in (1, 7, 50):
        for number in range(60):  # however many lines the run before printed until it was killed: these are new
            parlant_server.add_event(session, "custom", {"number": number})
        with fake.start(*tail) as running:
            got = [running.read_line() for _ in range(lines)]
            running.process.kill()
            got += running.end().out.splitlines(keepends=True)
        # A line that was cut short was not printed.
        runs.append([json.loads(line)["offset"] for line in got if line.endswith("\n")])
    runs.append([event["offset"] for event in fake.run(*tail, "--timeout", "0").json_lines])
    seen: list[int] = []
    for offsets in runs:
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets))) if offsets else True
        assert not offsets or offsets[0] <= len(seen)  # repeated perhaps, but no gap
        seen = sorted({*seen, *offsets})
    assert seen == list(range(180))


def test_the_cursor_stays_where_the_output_failed(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    ask = fake.run("send", "-o", "json", "x").json
    tail = ("tail", "--session-id", ask["session_id"], "--timeout", "0", "--cursor-file", "c")
    with open("/dev/full", "w") as full:
        done = fake.run(*tail, stdout=full)
    assert (done.code, done.err.count("\n")) == (1, 1)
    closed = fake.shell(f"$CLI {' '.join(tail)} | true; echo ${{PIPESTATUS[0]}}")
    assert (closed.out, closed.err) == ("0\n", "")
    rows = fake.run(*tail, "-o", "json").json_lines
    assert rows[-1]["offset"] == ask["next_offset"] - 1


def test_a_first_run_without_events_is_remembered(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = fake.run("send", "-o", "json", "x").json["session_id"]
    tail = ("tail", "--session-id", session, "--timeout", "0", "--cursor-file", "c", "--since", "latest")
    assert fake.run(*tail).out == ""
    assert fake.run("send", "--session-id", session, "y").code == 0
    assert " y\n" in fake.run(*tail).out


def test_a_cursor_belongs_to_its_session(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    one, two = (fake.run("send", "-o", "json", "x").json["session_id"] for _ in range(2))
    tail = ("tail", "--timeout", "0", "--cursor-file", "c", "--session-id")
    assert fake.run(*tail, one).code == 0
    fake.run(*tail, two).failed(2, one, two, "another file")


def test_a_renewed_conversation_is_read_from_its_beginning(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    ask = ("send", "--conversation", "c", "--renew", "x")
    tail = ("tail", "--conversation", "c", "--timeout", "0", "--cursor-file", "cur", "-o", "json")
    assert fake.run(*ask).code == 0
    assert fake.run(*tail).json_lines
    session = json.loads(fake.states[0].read_text())["session_id"]
    assert fake.run("sessions", "delete", session).code == 0
    gone = fake.run(*tail)
    assert (gone.code, gone.json["session_id"], gone.json["exit_code"]) == (6, session, 6)
    assert fake.run(*ask).code == 0
    again = fake.run(*tail)
    assert again.json_lines[0]["offset"] == 0
    assert "new session" in again.err


def test_events_that_were_deleted_on_the_server(fake: Cli, parlant_server: FakeServer) -> None:
    """Servers up to 3.2 count from the new end then: going on at the old offset would lose what comes."""
    with FakeServer("3.2") as server:
        server.agent("support")
        cli = Cli(server.base_url, fake.home)
        session = cli.run("send", "-o", "json", "x").json["session_id"]
        tail = ("tail", "--session-id", session, "--timeout", "0", "--cursor-file", "c", "-o", "json")
        assert cli.run(*tail).code == 0
        server.wipe(session)
        assert cli.run("send", "--session-id", session, "y").code == 0
        done = cli.run(*tail)
    assert "deleted on the server" in done.err
    assert [e["data"]["message"] for e in done.json_lines if e["kind"] == "message"] == ["y", "echo: y"]


@pytest.mark.parametrize(
    "content",
    [
        "notes of mine",
        "{",
        '{"kind": "cursor", "format": 1, "server": "x", "session_id": 7}',
        '{"kind": "cursor", "format": 1, "server": "x", "session_id": "s", "next_offset": true}',
        '{"kind": "conversation", "format": 1, "server": "x", "session_id": "s", "next_offset": 1}',
    ],
)
def test_a_foreign_cursor_file_is_refused(fake: Cli, parlant_server: FakeServer, content: str) -> None:
    parlant_server.agent("support")
    session = parlant_server.create_session("support")
    (fake.home / "notes").write_text(content)
    (fake.home / "link").symlink_to("notes")
    for name in ("notes", "link"):
        done = fake.run("tail", "--session-id", session, "--timeout", "0", "--cursor-file", name)
        done.failed(2, "notes", "damaged" if '"cursor"' in content else "another path")
    assert (fake.home / "notes").read_text() == content
    assert sorted(os.listdir(fake.home)) == ["link", "notes"]


def test_a_cursor_file_that_is_no_file(fake: Cli, parlant_server: FakeServer) -> None:
    session = parlant_server.create_session("support")
    os.mkfifo(fake.home / "fifo")
    (fake.home / "folder").mkdir()
    (fake.home / "link").symlink_to("fifo")
    before = sorted(os.listdir(fake.home))
    for name in ("fifo", "folder", "link"):
        done = fake.run("tail", "--session-id", session, "--timeout", "0", "--cursor-file", name)
        done.failed(2, name, "not a regular file")
    fake.run("tail", "--session-id", session, "--cursor-file", "").failed(2, "--cursor-file is empty")
    assert sorted(os.listdir(fake.home)) == before


def test_a_cursor_file_that_is_a_link(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = fake.run("send", "-o", "json", "x").json["session_id"]
    (fake.home / "there").mkdir()
    (fake.home / "link").symlink_to("there/c")
    tail = ("tail", "--session-id", session, "--cursor-file")
    with fake.start(*tail, "link") as running:
        running.read_line()
        fake.run(*tail, "there/c", "--timeout", "0").failed(8, "another run")
        running.end(signal.SIGTERM)
    assert fake.run(*tail, "there/c", "--timeout", "0").code == 0
    assert (fake.home / "link").is_symlink()
    assert sorted(os.listdir(fake.home / "there")) == ["c", "c.lock"]


def test_8_two_runs_never_share_a_cursor(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = fake.run("send", "-o", "json", "x").json["session_id"]
    tail = ("tail", "--session-id", session, "--cursor-file", "c")
    with fake.start(*tail) as running:
        running.read_line()
        fake.run(*tail, "--timeout", "0").failed(8, "another run")
        assert running.end(signal.SIGINT).code == 130
    assert fake.run(*tail, "--timeout", "0").code == 0


@pytest.mark.real
def test_a_session_that_is_deleted_meanwhile(real: Cli, new_session: Callable[..., str]) -> None:
    session = new_session()
    assert real.run("send", "--session-id", session, "x").code == 0
    with real.start("tail", "--session-id", session) as running:
        assert running.read_line()
        assert real.run("sessions", "delete", session).code == 0
        done = running.end()
    assert done.code == 6
    assert f"no session '{session}'" in done.err
    assert "sessions list" in done.err


def test_a_conversation_that_is_gone_before_and_meanwhile(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    assert fake.run("send", "--conversation", "c", "x").code == 0
    words = ("of conversation 'c' is gone", "parlant-sync send --conversation c --renew")
    with fake.start("tail", "--conversation", "c", "--since", "latest") as running:
        parlant_server.wait_polls(timeout=30)
        parlant_server.restart()
        running.end().failed(6, *words)
    fake.run("tail", "--conversation", "c").failed(6, *words)


@pytest.mark.parametrize(
    ("option", "typed", "meant"),
    [
        ("--kinds", "messages", "message"),
        ("--kinds", "status,Tool", "tool"),
        ("--sources", "agent", "ai_agent"),
        ("--sources", "costumer", "customer"),
    ],
)
def test_a_slip_of_the_pen_hides_nothing(nowhere: Cli, option: str, typed: str, meant: str) -> None:
    done = nowhere.run("tail", "--session-id", "x", option, typed)
    done.failed(2, option, f"did you mean {meant}?", "Known are")


def test_kinds_that_a_newer_server_may_have(fake: Cli, parlant_server: FakeServer) -> None:
    session = parlant_server.create_session("support")
    parlant_server.add_event(session, "guideline_match", {"a": 1})
    done = fake.run("tail", "--session-id", session, "--timeout", "0", "--kinds", "guideline_match")
    assert done.code == 0
    assert 'guideline_match {"a": 1}' in done.out
    assert "not known here" in done.err


def test_an_empty_session_id(nowhere: Cli) -> None:
    nowhere.run("tail", "--session-id", "", "--timeout", "0").failed(2, "session id", "''")


def test_tail_begins_where_it_is_asked_to(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = fake.run("send", "-o", "json", "x").json["session_id"]
    tail = ("tail", "--session-id", session, "--timeout", "0", "-o", "json")
    every = [event["offset"] for event in fake.run(*tail).json_lines]
    assert [event["offset"] for event in fake.run(*tail, "-n", "2").json_lines] == every[-2:]
    last = fake.run(*tail, "-n", "1", "--kinds", "message").json_lines
    assert [event["data"]["message"] for event in last] == ["echo: x"]
    assert fake.run("tail", "--session-id", session, "--timeout", "0", "--text-only", "-n", "1").out == "echo: x\n"
    assert fake.run(*tail, "-n", "0").out == ""
    assert len(fake.run(*tail, "--since", "1h").json_lines) == len(every)
    for later in ((datetime.now(timezone.utc) + timedelta(hours=1)).isoformat(), "2100-01-01T00:00Z"):
        assert fake.run(*tail, "--since", later).out == ""
    fake.run("tail", "--session-id", session, "--since", "soon").failed(2, "--since", "1h")
    fake.run("tail", "--session-id", session, "--since", "1", "-n", "1").failed(2, "not both")
    assert str(datetime.now().year) in fake.run("tail", "--session-id", session, "--timeout", "0").out
