"""``tail --exec``, ``--forward-to`` and ``--all-sessions``: each event is passed on at least once."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from typing import Any

import pytest
from support.cli_runs import Cli
from support.raw_server import RawServer, answer

from parlant_sync import Event, SessionInfo
from parlant_sync.cli.watch import Watcher
from parlant_sync.events import read_session
from parlant_sync.testing import FakeServer

HOOK = "cat >> taken; test ! -e broken"


def taken(cli: Cli) -> list[int]:
    """The offsets of the events that were passed on whole."""
    path = cli.home / "taken"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["offset"] for line in lines if line.endswith(b"\n")]


def test_exec_moves_the_cursor_only_after_success(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = fake.run("send", "-o", "json", "x").json["session_id"]
    tail = ("tail", "--session-id", session, "--timeout", "0", "--cursor-file", "c", "--retries", "1", "--exec", HOOK)
    (fake.home / "broken").touch()
    fake.run(*tail, "--retries", "0").failed(3, "could not be passed on", "exit code 1", "--dead-letter")
    assert json.loads((fake.home / "c").read_text())["next_offset"] == 0
    (fake.home / "broken").unlink()
    assert fake.run(*tail).code == 0
    count = json.loads((fake.home / "c").read_text())["next_offset"]
    assert taken(fake) == [0, *range(count)]  # the first one twice: at least once
    assert fake.run("send", "--session-id", session, "y").code == 0
    (fake.home / "broken").touch()
    aside = fake.run(*tail, "--retries", "0", "--dead-letter", "dead/letters")
    assert aside.code == 0
    letters = [json.loads(line) for line in (fake.home / "dead/letters").read_text().splitlines()]
    assert [letter["event"]["offset"] for letter in letters] == [
        *range(count, json.loads((fake.home / "c").read_text())["next_offset"])
    ]
    assert stat.S_IMODE((fake.home / "dead/letters").stat().st_mode) == 0o600


def test_a_command_that_hangs_is_ended(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    session = parlant_server.create_session("support")
    parlant_server.add_event(session, "custom", {})
    tail = ("tail", "--session-id", session, "--timeout", "0", "--retries", "0", "--delivery-timeout", "0.2")
    fake.run(*tail, "--exec", "sleep 600 & wait").failed(3, "not over after 0.2 s")


def test_forward_to_a_url(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    parlant_server.token = "right"
    env = {"PARLANT_TOKEN": "right"}
    session = fake.run("send", "-o", "json", "x", env=env).json["session_id"]
    tail = ("tail", "--session-id", session, "--timeout", "0", "--kinds", "message", "--cursor-file", "c")
    statuses = [b"503 Busy", b"302 Found"]
    where = b"Location: /elsewhere"  # which counts with a 302 alone, and is not to be followed
    with RawServer(lambda *_: answer(b"", statuses.pop(0) if statuses else b"200 OK", where)) as receiver:
        hook = f"{receiver.base_url}/hook"
        done = fake.run(*tail, "--forward-to", hook, env=env)
    assert done.code == 0
    assert "answered 503; trying again in 1 s" in done.err
    assert "answered 302; trying again in 2 s" in done.err
    # The first event was tried three times.
    assert [json.loads(body)["session_id"] for _, body in receiver.requests] == [session] * 4
    heads = [head.lower() for head, _ in receiver.requests]
    keys = [line for head in heads for line in head.split(b"\r\n") if line.startswith(b"idempotency-key: ")]
    assert (len(keys), len(set(keys))) == (4, 2)
    assert not any(b"authorization" in head for head in heads)
    assert fake.run(*tail, "--forward-to", hook, env=env).code == 0  # nothing new: it is not called
    fake.run(*tail, "--forward-to", "hook").failed(2, "http://")


def test_all_sessions(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    parlant_server.agent("other")
    ids = [parlant_server.create_session("support") for _ in range(20)]
    for session in (*ids, parlant_server.create_session("other")):
        parlant_server.add_event(session, "custom", {"of": session})
    tail = ("tail", "--all-sessions", "--agent-id", "support", "--timeout", "0", "--cursor-file", "c", "-o", "json")
    assert sorted(event["data"]["of"] for event in fake.run(*tail).json_lines) == sorted(ids)
    assert fake.run(*tail).out == ""
    parlant_server.add_event(ids[3], "custom", {"of": "again"})
    new = parlant_server.create_session("support")
    parlant_server.add_event(new, "custom", {"of": "new"})
    found = fake.run(*tail).json_lines
    assert sorted((event["session_id"], event["data"]["of"]) for event in found) == sorted(
        [(ids[3], "again"), (new, "new")]
    )
    first = fake.run(*tail[:-4], "--since", "latest", "--cursor-file", "d")
    assert first.out == ""
    parlant_server.add_event(ids[0], "custom", {"of": "later"})
    assert [event["data"]["of"] for event in fake.run(*tail[:-4], "--cursor-file", "d", "-o", "json").json_lines] == [
        "later"
    ]


def test_all_sessions_are_looked_into_a_few_at_a_time() -> None:
    """Never more than ``--polls`` at once, and really so many."""
    lock, both = threading.Lock(), threading.Barrier(2, timeout=10)
    running: list[int] = [0]
    most: list[int] = [0]

    class Client:
        def list_sessions(self) -> list[SessionInfo]:
            return [read_session({"id": f"s{number}", "agent_id": "a"}) for number in range(20)]

        def history(self, session_id: str, since: int) -> list[Event]:
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            both.wait()
            with lock:
                running[0] -= 1
            return []

    client: Any = Client()
    Watcher(
        client,
        {},
        polls=2,
        known={},
        start=lambda _: 0,
        passed_on=lambda *_: None,
        saved=lambda *_: None,
        listed=lambda _: None,
    ).run(0)
    assert most == [2]


@pytest.mark.parametrize("all_sessions", [False, True])
def test_killed_at_any_moment_nothing_is_lost(fake: Cli, parlant_server: FakeServer, all_sessions: bool) -> None:
    """Killed after a while that grows from run to run, until it is through: each event was taken at least once."""
    parlant_server.agent("support")
    session = parlant_server.create_session("support")
    for number in range(60):
        parlant_server.add_event(session, "custom", {"number": number})
    which = ("--all-sessions",) if all_sessions else ("--session-id", session)
    tail = ("tail", *which, "--timeout", "0", "--cursor-file", "c", "--exec", "cat >> taken")
    for seen in range(5, 60, 18):
        with fake.start(*tail) as running:
            deadline = time.monotonic() + 30
            while len(taken(fake)) < seen and running.process.poll() is None and time.monotonic() < deadline:
                os.sched_yield()
            running.process.kill()
    assert fake.run(*tail, process=True).code == 0
    numbers = taken(fake)
    assert set(numbers) == set(range(60))
    assert len(numbers) <= 60 + 4, "at most one is repeated after each kill"
