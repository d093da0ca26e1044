"""``run()``: how it ends, and other threads and processes than its own."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from support.batch_checks import ROWS, ask, posted, results_of, statuses
from support.waiting import wait_until

from parlant_sync.batch import runner, worker
from parlant_sync.testing import FakeServer


def test_closing_ends_at_once_and_leaves_nothing(server: FakeServer) -> None:
    server.agent("a").waits("never")
    batch = ask(server, timeout=300)
    server.reached("never", 4)
    batch.close()
    batch.close()
    assert list(batch) == []
    server.wait_no_polls()


def test_a_batch_that_nobody_wants_any_more_stops(server: FakeServer) -> None:
    server.agent("a").waits("never")
    batch = ask(server, timeout=300)
    thread = batch._runner.thread
    server.reached("never", 4)
    del batch
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_batch_that_was_let_go_of_can_be_begun_again_at_once(server: FakeServer, tmp_path: Path) -> None:
    """It has its files, and their lock, until its posts have ended."""
    path = tmp_path / "r.jsonl"
    hold = server.hold_next("POST /events", times=3)
    for result in ask(server, results=path):
        assert result.ok
        hold.wait(count=3)
        break
    again = ask(server, results=path)
    hold.release()
    assert statuses(list(again)).keys() == {"answered"}
    assert sorted(r["id"] for r in results_of(path)) == sorted(row["id"] for row in ROWS)
    assert set(posted(server.base_url).values()) == {1}


def test_an_empty_batch(server: FakeServer) -> None:
    batch = ask(server, [])
    assert list(batch) == []
    assert (batch.summary.rows, batch.summary.p50) == (0, None)


# -- executors


@pytest.mark.parametrize("messages", [1, 3])
def test_threads_of_somebody_else(server: FakeServer, tmp_path: Path, messages: int) -> None:
    rows = [{"id": str(n), "messages": [f"{n}.{m}" for m in range(messages)]} for n in range(6)]
    with ThreadPoolExecutor(3) as executor:
        results = list(ask(server, rows, executor=executor, concurrency=3, results=tmp_path / "r.jsonl"))
    assert {r.id: r.text for r in results} == {str(n): f"echo: {n}.{messages - 1}" for n in range(6)}
    assert set(posted(server.base_url).values()) == {1}
    server.wait_no_polls()


@pytest.mark.timeout(60)
def test_processes(server: FakeServer, tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        results = list(ask(server, executor=executor, results=tmp_path / "r.jsonl"))
        assert {r.id: r.text for r in results} == {row["id"]: f"echo: {row['message']}" for row in ROWS}
        # Each worker keeps one client, whose connection is used again.
        pollers = {r.connection for r in server.requests if r.method == "GET" and r.path.endswith("/events")}
        assert pollers
    assert set(posted(server.base_url).values()) == {1}


def test_a_stopped_batch_takes_its_waiting_tasks_back(server: FakeServer) -> None:
    """More rows than threads: those behind would hold up the executor's next tasks."""
    server.agent("a").waits("never")
    with ThreadPoolExecutor(1) as executor:
        with ask(server, executor=executor, timeout=300) as batch:
            server.reached("never", 4)
            handed = batch._runner._handed
            wait_until(lambda: len(handed) == 4, "all were handed to the executor")
        assert sum(future.cancelled() for future in handed) == 3


def test_a_task_that_begins_after_the_end_asks_nothing_and_makes_no_client(server: FakeServer) -> None:
    """As on a cluster in this process, where a cancellation takes its time."""
    begun, ended, made = threading.Event(), threading.Event(), worker._client_of_process.cache_info().currsize

    def later(call: Callable[..., Any], *arguments: Any) -> Any:
        begun.set()
        assert ended.wait(20)
        return call(*arguments)

    class Late(ThreadPoolExecutor):
        def submit(self, call: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
            self.task = super().submit(later, call, *arguments, **options)
            return self.task

    server.agent("a").waits("never")
    with Late(1) as executor:
        with ask(server, ["hi"], executor=executor, timeout=5):
            assert begun.wait(20)
        server.forget_requests()
        ended.set()
        assert executor.task.result(20).status == "closed"
    assert server.requests == []
    assert worker._client_of_process.cache_info().currsize == made


@pytest.mark.timeout(60)
def test_an_executor_that_never_answers_cannot_hold_a_row(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler without workers: the driver owns the deadline, and reads what the server has by then."""
    monkeypatch.setattr(runner, "_GRACE", 0.5)

    class Asleep(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            return Future()

    server.agent("slow").waits("never")
    rows = [{"message": "a"}, {"message": "b", "agent_id": "slow"}]
    with Asleep(1) as executor:
        results = {r.id: r for r in ask(server, rows, executor=executor, timeout=0.5)}
    assert (results["1"].status, results["1"].text) == ("answered", "echo: a")
    assert results["2"].status == "timed_out"


@pytest.mark.parametrize("spread", [False, True])
def test_a_turn_s_time_is_from_its_post_to_its_last_event(server: FakeServer, spread: bool) -> None:
    """Also if it was posted after a 429 was waited out, or waited for somewhere else."""
    server.agent("a").echoes().after(0.3)
    server.fail_next("POST /events", 429, '{"detail": "slow down"}', {"Retry-After": "1"})
    with ThreadPoolExecutor(2) as threads:
        batch = ask(server, ROWS[:3], executor=threads if spread else None)
        results = list(batch)
    assert all(0.3 <= turn.duration < 0.9 for result in results for turn in result.turns)
    assert batch.summary.p95 is not None
    assert 0.3 <= batch.summary.p95 < 0.9


def test_an_executor_that_breaks_leaves_rows_resumable(server: FakeServer, tmp_path: Path) -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("the cluster is gone")

    path = tmp_path / "r.jsonl"
    with Broken(1) as executor, pytest.raises(RuntimeError, match="the cluster is gone"):
        list(ask(server, ROWS[:3], executor=executor, results=path))
    assert statuses(list(ask(server, ROWS[:3], results=path, settle=0.5))) == {"answered": 3}
    assert set(posted(server.base_url).values()) == {1}


def test_a_batch_does_with_the_threads_that_there_are(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    refused: list[str] = []

    def start_no_second(thread: threading.Thread) -> None:
        if thread.name in [other.name for other in threading.enumerate() if other.name.endswith("-request")]:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_no_second)
    assert {r.id: r.text for r in ask(server)} == {row["id"]: f"echo: {row['message']}" for row in ROWS}
    assert refused


def test_an_answer_counts_though_no_further_thread_starts(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, itertools.count(1)

    def start_two(thread: threading.Thread) -> None:
        if thread.name.endswith("-request") and next(started) > 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    batch = ask(server, concurrency=1)  # the first row is opened and asked, the second not even opened
    assert next(batch).text == "echo: question 0"
    with pytest.raises(RuntimeError, match="can't start new thread"):
        next(batch)


def test_a_batch_that_cannot_begin_leaves_no_file_and_no_lock(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, path = threading.Thread.start, tmp_path / "r.jsonl"

    def start_no_batch(thread: threading.Thread) -> None:
        if thread.name == "parlant-sync-batch":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_no_batch)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            ask(server, results=path)
    assert list(tmp_path.iterdir()) == []
    assert statuses(list(ask(server, results=path))) == {"answered": len(ROWS)}


def test_a_guest_of_a_4_0_server_keeps_its_token_between_runs(tmp_path: Path) -> None:
    """An anonymous client of a production server: without the token, the second run could not reach its sessions."""
    results = tmp_path / "r.jsonl"
    rows = [{"id": f"t{n}", "message": f"question {n}"} for n in range(3)]
    with FakeServer("4.0", policy="production", token="admin") as server:
        server.agent("a").echoes()
        first = list(ask(server, rows[:1], results=results))
        assert statuses(first) == {"answered": 1}
        (journal,) = (
            path for path in tmp_path.iterdir() if path != results and "guest_token" in path.read_text("utf-8")
        )
        assert journal.stat().st_mode & 0o777 == 0o600
        second = list(ask(server, rows, results=results))
        assert statuses(second) == {"answered": 2}  # the first row was done
        guests = {request.headers.get("authorization") for request in server.requests if request.method == "POST"}
    assert len(guests - {None}) == 1
    assert "guest_token" not in results.read_text("utf-8")
