"""``run()`` against the stand-in: order, resuming, sessions, pace, ends."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from support.batch_checks import posted, results_of
from support.waiting import wait_until

import parlant_sync as ps
from parlant_sync._api import posting
from parlant_sync.batch import Batch, BatchLocked, Result, outlook, policy, run, runner, worker
from parlant_sync.batch.journal import Journal
from parlant_sync.testing import FakeServer

ROWS = [{"id": f"r{n}", "message": f"question {n}"} for n in range(12)]


@pytest.fixture
def server(parlant_server: FakeServer) -> FakeServer:
    parlant_server.agent("a")
    return parlant_server


def ask(server: FakeServer, rows: Any = ROWS, **options: Any) -> Batch:
    return run(rows, **{"agent_id": "a", "base_url": server.base_url, "timeout": 20.0, **options})


@pytest.fixture
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundredths of a second instead of seconds, between tries and between looks for a message."""
    monkeypatch.setattr(policy, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(policy, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(posting, "LOOKS", (0.0, 0.1, 0.2))


def statuses(results: list[Result]) -> Counter[str]:
    return Counter(result.status for result in results)


# -- without files


def test_every_row_gets_its_answer_and_no_file_is_kept(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    results = list(ask(server))
    assert {r.id: r.text for r in results} == {row["id"]: f"echo: {row['message']}" for row in ROWS}
    assert all(r.ok and r.session_id and r.started and r.duration > 0 for r in results)
    assert len({r.session_id for r in results}) == len(ROWS)
    assert list(tmp_path.iterdir()) == []


def test_results_come_in_the_order_they_are_finished(server: FakeServer) -> None:
    server.agent("slow").waits("gate")
    rows: list[dict[str, Any]] = [{"id": "slow", "message": "x", "agent_id": "slow"}, {"id": "quick", "message": "y"}]
    with ask(server, rows) as batch:
        assert next(batch).id == "quick"
        assert batch.summary.left == 1
        assert batch.next(0.0) is None
        server.release("gate")
        assert next(batch).id == "slow"
        with pytest.raises(StopIteration):
            next(batch)
        with pytest.raises(StopIteration):
            next(batch)


def test_sessions_of_finished_rows_are_not_polled_any_more(server: FakeServer) -> None:
    server.agent("slow").waits("gate")
    with ask(server, [*ROWS, {"message": "x", "agent_id": "slow"}]) as batch:
        for _ in ROWS:
            server.wait_no_polls(next(batch).session_id)
        assert batch.summary.left == 1


def test_several_messages_are_turns_of_one_session(server: FakeServer) -> None:
    server.agent("a").replies("one").stays_silent().replies("three")
    (result,) = ask(server, [{"messages": ["a", "b", "c"]}], concurrency=1)
    assert [(t.message, t.text, t.outcome) for t in result.turns] == [
        ("a", "one", "answered"),
        ("b", "", "empty"),
        ("c", "three", "answered"),
    ]
    assert (result.status, result.text) == ("answered", "three")
    assert posted(server.base_url) == Counter("abc")


def test_a_turn_that_fails_ends_its_row(server: FakeServer) -> None:
    server.agent("a").replies("one").fails("boom")
    (result,) = ask(server, [{"messages": ["a", "b", "c"]}])
    assert (result.status, len(result.turns)) == ("failed", 2)
    assert "boom" in (result.error or "")
    assert posted(server.base_url) == Counter("ab")


def test_a_failed_conversation_is_not_polled_any_more(server: FakeServer) -> None:
    server.agent("a").fails("boom")
    server.agent("slow").waits("gate")
    rows = [{"messages": ["a", "b"]}] * 3 + [{"message": "x", "agent_id": "slow"}]
    with ask(server, rows, concurrency=2) as batch:
        failed = [next(batch) for _ in range(3)]
        assert statuses(failed) == {"failed": 3}
        server.wait_no_polls(failed[0].session_id)
        server.wait_no_polls(failed[1].session_id)
        assert batch.summary.left == 1


def test_rows_of_one_given_session_are_asked_one_after_another(server: FakeServer) -> None:
    with ps.Client(server.base_url) as client:
        session = client.create_session("a")
        rows = [{"message": f"m{n}", "session_id": session.id} for n in range(5)] + [{"message": "other"}]
        results = list(ask(server, rows, concurrency=6))
        said = [e.message for e in session.history(kinds="message", sources="customer")]
    assert said == [f"m{n}" for n in range(5)]
    assert [r.id for r in results if r.session_id == session.id] == ["1", "2", "3", "4", "5"]


def test_results_are_not_kept_once_they_are_given_out(server: FakeServer) -> None:
    """A batch of a hundred thousand long answers must not collect them."""
    with ask(server, ["one", "two"], concurrency=1) as batch:
        first = weakref.ref(next(batch))
        assert next(batch).id == "2"
        gc.collect()
        assert first() is None
        assert batch.summary.counts == {"answered": 2}


def test_customer_metadata_and_title_reach_the_server(server: FakeServer) -> None:
    server.agent("b")
    rows = [{"id": "x", "message": "m", "agent_id": "b", "metadata": {"case": 7}}]
    (result,) = ask(server, rows)
    assert result.session_id is not None
    with ps.Client(server.base_url) as client:
        session = client.session(result.session_id)
        (message,) = session.history(kinds="message", sources="customer")
        assert (session.agent_id, session.title, session.metadata["case"]) == ("b", "batch: x", 7)
        assert message.metadata["case"] == 7


def test_the_only_agent_need_not_be_named(server: FakeServer) -> None:
    assert statuses(list(ask(server, ["hi"], agent_id=None))) == {"answered": 1}
    server.agent("b")
    with pytest.raises(ps.ConfigurationError, match=r"agent_id=.*a, b"):
        ask(server, ["hi"], agent_id=None)


# -- checked before anything is sent


def test_nothing_is_sent_for_rows_that_are_wrong(server: FakeServer) -> None:
    with pytest.raises(ps.ConfigurationError, match="row 2"):
        ask(server, ["fine", {"message": ""}])
    with pytest.raises(ps.NotFoundError):
        ask(server, ["fine", {"message": "x", "agent_id": "nobody"}])
    assert not [request for request in server.requests if request.method == "POST"]


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("concurrency", 0, "concurrency must be a whole number, at least 1"),
        ("max_failures", 0, "max_failures must be a whole number, at least 1"),
        ("rate", 0, "rate must be a number above 0"),
        ("timeout", 0, "timeout must be a number above 0"),
        ("timeout", float("nan"), "timeout must be a number above 0"),
        ("settle", -1, "settle must be a number not below 0"),
    ],
)
def test_options_that_cannot_be(server: FakeServer, name: str, value: float, complaint: str) -> None:
    with pytest.raises(ps.ConfigurationError, match=f"{complaint}, not {value}"):
        ask(server, **{name: value})


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(ps.TransportError):
        run(["hi"], agent_id="a", base_url="http://127.0.0.1:9", results=tmp_path / "r.jsonl")


# -- files


def test_a_refused_run_takes_only_away_what_it_has_made(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with pytest.raises(ps.NotFoundError):
        ask(server, results=path, agent_id="nobody")
    assert list(tmp_path.iterdir()) == []
    list(ask(server, ROWS[:1], results=path))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(ps.NotFoundError):
        ask(server, [*ROWS[:1], {"message": "x", "agent_id": "nobody"}], results=path)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_finished_rows_are_not_asked_again(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert len(list(ask(server, ROWS[:5], results=path))) == 5
    batch = ask(server, ROWS, results=path)
    assert batch.outlook.finished == tuple(row["id"] for row in ROWS[:5])
    assert {r.id for r in batch} == {row["id"] for row in ROWS[5:]}
    assert (batch.summary.skipped, batch.summary.left, batch.summary.counts) == (5, 0, {"answered": 12})
    assert list(ask(server, ROWS, results=path)) == []
    assert sorted(r["id"] for r in results_of(path)) == sorted(row["id"] for row in ROWS)
    assert set(posted(server.base_url).values()) == {1}
    assert sorted(path.parent.iterdir()) == [path, Journal.beside(path)]


def test_a_batch_that_has_nothing_to_do_needs_no_server(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    list(ask(server, results=path))
    server.stop()
    assert list(ask(server, results=path)) == []


def test_rows_in_flight_are_found_and_waited_for(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a").forget().echoes().waits("gate")
    with ask(server, ROWS, results=path, concurrency=4) as batch:
        server.reached("gate", 4)
    assert batch.summary.left == len(ROWS)
    assert results_of(path) == []
    assert len(outlook(ROWS, results=path).in_flight) == 4
    server.release("gate")
    results = list(ask(server, ROWS, results=path, concurrency=4))
    assert {r.id: r.text for r in results} == {row["id"]: f"echo: {row['message']}" for row in ROWS}
    assert set(posted(server.base_url).values()) == {1}


def test_a_row_of_several_messages_goes_on_with_the_right_one(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"id": "x", "messages": ["a", "b", "c", "d"]}]
    server.agent("a").replies("one").replies("two").replies("three").waits("gate").replies("four")
    with ask(server, rows, results=path):
        server.reached("gate")
    server.release("gate")
    (result,) = ask(server, rows, results=path)
    assert [t.text for t in result.turns] == ["one", "two", "three", "four"]
    assert all(t.duration > 0 for t in result.turns), "also of the turn that began in the first run"
    assert posted(server.base_url) == Counter("abcd")
    assert results_of(path) == [result.to_json()]


def test_a_message_that_never_arrived_is_posted_when_it_is_settled(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"id": "x", "message": "hello"}]
    hold = server.hold_next("POST /events")
    with ask(server, rows, results=path):
        hold.wait()
    hold.release()
    journal = Journal(Journal.beside(path))
    entry = journal.last["x"]
    journal.close()
    # As if the server had never got it: another session, which is empty, under the same key.
    with ps.Client(server.base_url) as client:
        empty = client.create_session("a").id
    text = Journal.beside(path).read_text("utf-8").replace(entry.session, empty)
    Journal.beside(path).write_text(text, "utf-8")
    server.forget_requests()
    batch, shown = ask(server, rows, results=path, settle=2.0), set()
    while (result := batch.next(0.05)) is None:
        shown.add(batch.waiting_for)
    assert {f"1 message may be on the way: looking in {left} s" for left in (2, 1)} & shown, "the progress line"
    assert (result.text, result.session_id) == ("echo: hello", empty)
    assert list(batch) == []
    with ps.Client(server.base_url) as client:
        event = client.session(empty).find(entry.key)
        assert event is not None
        assert event.created is not None
        assert event.created.timestamp() - entry.at >= 2.0


def test_a_post_that_may_have_left_late_is_given_its_time(server: FakeServer, tmp_path: Path) -> None:
    """A 429 is waited out between the entry and the post: the entry's age alone proves nothing."""
    path = tmp_path / "r.jsonl"
    rows = [{"id": "x", "message": "hello"}]
    server.agent("a").waits("gate")
    with ask(server, rows, results=path):
        server.reached("gate")
    beside = Journal.beside(path)
    *first, last = beside.read_text("utf-8").splitlines()
    entry = json.loads(last)
    with ps.Client(server.base_url) as client:
        empty = client.create_session("a").id  # as if the server had not stored it yet
    late = {**entry, "session": empty, "at": entry["at"] - 19}  # 20 s are the row's time
    beside.write_text("\n".join([*first, json.dumps(late)]) + "\n", "utf-8")
    server.release("gate")
    begun = time.time()
    (result,) = ask(server, rows, results=path, settle=1.0)
    with ps.Client(server.base_url) as client:
        event = client.session(empty).find(entry["key"])
    assert result.ok
    assert event is not None
    assert event.created is not None
    assert event.created.timestamp() - begun >= 1.0


def test_a_session_that_is_gone_is_replaced(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a").forget().echoes().waits("gate")
    with ask(server, ROWS[:2], results=path):
        server.reached("gate", 2)
    server.restart()
    server.release("gate")
    results = list(ask(server, ROWS[:2], results=path))
    assert statuses(results) == {"answered": 2}
    assert set(posted(server.base_url).values()) == {1}
    assert list(ask(server, ROWS[:2], results=path)) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("spread", [False, True])
def test_a_server_that_forgets_its_sessions_while_rows_are_in_flight(server: FakeServer, spread: bool) -> None:
    """It was restarted, and keeps them in memory. Rows behind whose session was opened already are concerned, too."""
    server.agent("a").forget().echoes().waits("gate")
    with ThreadPoolExecutor(2) as threads:
        with ask(server, ROWS[:6], concurrency=2, executor=threads if spread else None) as batch:
            server.reached("gate", 2)
            server.restart()
            server.release("gate")
            assert statuses(list(batch)) == {"answered": 6}
    assert posted(server.base_url) == Counter(row["message"] for row in ROWS[:6])


@pytest.mark.timeout(60)
def test_a_proxy_that_says_404_for_a_moment_costs_no_second_post(server: FakeServer) -> None:
    server.agent("a").forget().echoes().waits("gate")
    with ask(server, ["hi"], client_options={"poll_wait": 1}) as batch:
        server.reached("gate")
        server.fail_next("GET /events", 404, "404 page not found", times=None)
        # The poll's, and that of a look for the message.
        server.wait_requests(lambda request: request.status == 404, 2, timeout=20)
        server.clear_faults()
        server.release("gate")
        assert statuses(list(batch)) == {"answered": 1}
    assert posted(server.base_url) == {"hi": 1}


def test_a_server_that_drops_keys(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"id": "x", "messages": ["same", "same"]}]
    with FakeServer("3.0") as server:
        server.agent("a").replies("one").replies("two").waits("gate")
        with ask(server, rows, results=path):
            server.reached("gate")
        server.release("gate")
        (result,) = ask(server, rows, results=path)
        assert [t.text for t in result.turns] == ["one", "two"]
        assert posted(server.base_url) == {"same": 2}


def test_a_given_session_whose_server_drops_keys_is_uncertain(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with FakeServer("3.0") as server:
        server.agent("a").waits("gate")
        with ps.Client(server.base_url) as client:
            rows = [{"id": "x", "message": "m", "session_id": client.create_session("a").id}]
        with ask(server, rows, results=path):
            server.reached("gate")
        server.release("gate")
        (result,) = ask(server, rows, results=path)
        assert result.status == "uncertain"
        assert posted(server.base_url) == {"m": 1}


def test_failed_rows_are_asked_again_only_if_that_is_wanted(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a", shared=True).fails("boom").echoes()
    (first,) = ask(server, ["hi"], results=path)
    assert (first.status, list(ask(server, ["hi"], results=path))) == ("failed", [])
    assert outlook(["hi"], results=path).failed == ("1",)
    assert outlook(["hi"], results=path, retry_failed=True).retried == ("1",)
    (second,) = ask(server, ["hi"], results=path, retry_failed=True)
    assert (second.status, second.text) == ("answered", "echo: hi")
    assert second.session_id != first.session_id
    assert [r["status"] for r in results_of(path)] == ["failed", "answered"]
    assert list(ask(server, ["hi"], results=path, retry_failed=True)) == []


def test_a_retry_looks_for_the_old_message_first(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a").waits("gate")
    (first,) = ask(server, ["hi"], results=path, timeout=0.3)
    assert first.status == "timed_out"
    (second,) = ask(server, ["hi"], results=path, timeout=0.3, retry_failed=True)
    assert second.status == "timed_out", "its turn is not over, and the question not asked a second time"
    server.release("gate")
    (third,) = ask(server, ["hi"], results=path, retry_failed=True)
    assert (third.text, third.session_id) == ("echo: hi", first.session_id)
    assert posted(server.base_url) == {"hi": 1}


def test_empty_rows_are_asked_again_only_if_that_is_wanted(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a", shared=True).stays_silent().echoes()
    (first,) = ask(server, ["hi"], results=path)
    assert (first.status, first.ok) == ("empty", True)
    assert list(ask(server, ["hi"], results=path, retry_failed=True)) == []
    assert outlook(["hi"], results=path, retry_empty=True).retried == ("1",)
    (second,) = ask(server, ["hi"], results=path, retry_empty=True)
    assert second.text == "echo: hi"
    assert posted(server.base_url) == {"hi": 2}


def test_empty_rows_may_count_as_failures(server: FakeServer) -> None:
    server.agent("a").stays_silent()
    batch = ask(server, concurrency=1, max_failures=2, empty_fails=True)
    assert statuses(list(batch)) == {"empty": 2}


def test_expectations_are_judged_and_judged_anew(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a", shared=True).replies("It is Paris.").with_tool("geo:capital").replies("No idea.")
    rows = [{"id": n, "message": f"m{n}", "expect_contains": "paris", "expect_tool": "capital"} for n in (1, 2)]
    batch = ask(server, rows, results=path, concurrency=1, max_failures=5)
    good, bad = batch
    assert (good.ok, good.unmet) == (True, ())
    assert (bad.ok, bad.status, len(bad.unmet)) == (False, "answered", 2)
    assert (batch.summary.failed, batch.summary.unmet) == (1, 1)
    rows[1]["expect_contains"] = "idea"
    del rows[1]["expect_tool"]
    batch = ask(server, rows, results=path)
    assert (list(batch), batch.summary.failed) == ([], 0)
    assert [r["unmet"] for r in results_of(path)] == [[], list(bad.unmet), []]
    rows[1]["expect_contains"] = "London"
    (again,) = ask(server, rows, results=path, retry_failed=True)
    assert again.session_id != bad.session_id, "an answer that is not as expected is asked for anew"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"agent_id": "b"}, "was asked of the agent 'a', not of 'b'"), ({"base_url": "other"}, "asked at http://127")],
)
def test_results_of_another_agent_or_server_are_refused(
    server: FakeServer, tmp_path: Path, change: dict[str, str], complaint: str
) -> None:
    path = tmp_path / "r.jsonl"
    list(ask(server, ["hi"], results=path))
    server.agent("b")
    with FakeServer() as other:
        other.agent("a")
        options = {name: other.base_url if value == "other" else value for name, value in change.items()}
        before = path.read_bytes()
        with pytest.raises(ps.ConfigurationError, match=complaint):
            ask(server, ["hi"], results=path, **options)
        assert path.read_bytes() == before


def test_files_are_private_and_readable(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a").replies("질문\u2028 ü")
    list(ask(server, ["왜?"], results=path))
    for each in (path, Journal.beside(path)):
        assert each.stat().st_mode & 0o777 == 0o600
    text = path.read_text("utf-8")
    assert "질문" in text
    assert "왜?" in text
    assert len(text.splitlines()) == 1
    assert results_of(path)[0]["text"] == "질문\u2028 ü"


def test_what_a_turn_reported_is_in_the_results(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a").echoes().with_tool("geo:capital", {"of": "France"}, "Paris")
    list(ask(server, [{"message": "hi", "area": "x"}], results=path))
    (result,) = results_of(path)
    (call,) = result["turns"][0]["tool_calls"]
    assert (call["tool_id"], call["arguments"]) == ("geo:capital", {"of": "France"})
    assert result["columns"] == {"area": "x"}
    assert {"matched_guidelines", "matched_journeys", "flagged"} <= result["turns"][0].keys()


def test_sessions_have_the_batch_s_label_and_go_if_that_is_wanted(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "night.jsonl"
    server.agent("a", shared=True).fails("boom").echoes()
    with ps.Client(server.base_url) as client:
        given = client.create_session("a").id
        rows = [{"message": "a"}, {"message": "b"}, {"message": "c", "session_id": given}]
        list(ask(server, rows, results=path, concurrency=1))
        labelled = {s.id for s in client.list_sessions(labels=["batch:night"])}
        assert len(labelled) == 2
        list(ask(server, [*rows, {"message": "d"}], results=path, cleanup=True))
        left = {s.id for s in client.list_sessions()}
    failed = next(r["session_id"] for r in results_of(path) if r["status"] == "failed")
    assert left == {given, failed}, "that of a failed row is kept, to look into"


def test_deleting_sessions_is_shown(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, delete = threading.Event(), worker.delete

    def later(client: ps.Client, session_id: str) -> None:
        gate.wait(20)
        delete(client, session_id)

    monkeypatch.setattr(worker, "delete", later)
    with ask(server, ["a", "b"], results=tmp_path / "r.jsonl", cleanup=True) as batch:
        assert {next(batch).status, next(batch).status} == {"answered"}
        wait_until(lambda: batch.next(0.05) is None and batch.waiting_for == "2 sessions to delete")
        gate.set()
        assert list(batch) == []
    assert server.sessions == {}


def test_a_retry_that_was_cut_short_goes_on(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.agent("a", shared=True).fails("boom").echoes().waits("gate")
    list(ask(server, ["hi"], results=path))
    with ask(server, ["hi"], results=path, retry_failed=True):
        server.reached("gate")
    server.release("gate")
    (result,) = ask(server, ["hi"], results=path)
    assert result.text == "echo: hi"
    assert posted(server.base_url) == {"hi": 2}


def test_two_runs_on_one_file(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    link = tmp_path / "link.jsonl"
    link.symlink_to(path)
    server.agent("a").waits("gate")
    with ask(server, results=path):
        with pytest.raises(ps.ConcurrencyError, match="another run") as caught:
            ask(server, results=link)
    assert type(caught.value) is BatchLocked


# -- pace and trouble


def test_no_more_than_so_many_at_a_time(server: FakeServer) -> None:
    server.agent("a").waits("gate")
    with ask(server, concurrency=3) as batch:
        server.reached("gate", 3)
        assert batch.next(0.1) is None
        assert sum(posted(server.base_url).values()) == 3
        server.release("gate")
        assert len(list(batch)) == len(ROWS)


class SteppedRate(policy.Rate):
    """Its clock stands still but for ``step()``, which returns when the batch has looked at it."""

    def __init__(self, per_minute: float | None) -> None:
        self.now = 100.0
        self.looked = threading.Event()
        super().__init__(per_minute, clock=self._clock)

    def _clock(self) -> float:
        self.looked.set()
        return self.now

    def step(self, seconds: float, batch: Batch) -> None:
        self.now += seconds
        for _ in range(2):  # when it looks for the second time, it has done what the first look told it to
            self.looked.clear()
            batch._runner._requests.interrupt()
            assert self.looked.wait(5)


def test_under_a_rate_the_next_row_is_made_ready_while_others_are_answered(server: FakeServer) -> None:
    server.agent("a").waits("gate")
    with ask(server, ROWS[:3], rate=30, concurrency=2):
        server.reached("gate", 1)
        server.wait_requests("POST /sessions", 2)


def test_under_a_low_rate_a_session_is_opened_shortly_before_it_is_used(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message every 10 s, and turns that take longer."""
    monkeypatch.setattr(runner, "Rate", SteppedRate)
    opened: list[float] = []
    server.agent("a").waits("gate")

    def open_session(*arguments: Any) -> str:
        opened.append(clock.now)
        return open_really(*arguments)

    open_really = worker.open_session
    with ask(server, ROWS[:3], rate=6, concurrency=2) as batch:
        clock: Any = batch._runner._rate
        server.reached("gate", 1)
        monkeypatch.setattr(worker, "open_session", open_session)
        clock.step(0.0, batch)
        clock.step(4.9, batch)
        assert opened == []
        clock.step(0.2, batch)
        server.wait_requests("POST /sessions", 2)
        clock.step(4.8, batch)
        assert sum(posted(server.base_url).values()) == 1
        clock.step(0.2, batch)
        server.reached("gate", 2)
        server.release("gate")
        clock.step(10.0, batch)
        assert len(list(batch)) == 3
    assert opened[0] == pytest.approx(105.1)


def test_a_limit_on_sessions_pauses_all_rows(server: FakeServer) -> None:
    server.fail_next("POST /sessions", 429, '{"detail": "slow down"}', {"Retry-After": "0"}, times=6)
    results = list(ask(server, ROWS, concurrency=2))
    assert statuses(results) == {"answered": len(ROWS)}
    assert set(posted(server.base_url).values()) == {1}


def test_a_limit_on_messages_pauses_all_rows(server: FakeServer) -> None:
    server.fail_next("POST /events", 429, '{"detail": "slow down"}', {"Retry-After": "1"})
    assert statuses(list(ask(server, ROWS[:3], concurrency=2))) == {"answered": 3}
    posts = [r for r in server.requests if r.method == "POST" and r.path.endswith("/events")]
    refused = next(r for r in posts if r.status == 429)
    # What was under way already may still come in; nobody begins a new one.
    assert len([r for r in posts if 0.2 < r.time - refused.time < 0.9]) == 0
    assert set(posted(server.base_url).values()) == {1}


def test_a_pause_that_the_client_waits_out_by_itself_is_shown(server: FakeServer) -> None:
    server.fail_next("POST /sessions", 429, '{"detail": "slow down"}', {"Retry-After": "20"}, times=None)
    with ask(server, ROWS, concurrency=2) as batch:
        wait_until(lambda: batch.next(0.05) is None and batch.waiting_for.startswith("429: next in 1"))
    assert batch.waiting_for == ""


@pytest.mark.usefixtures("quick_pauses")
def test_an_outage_is_waited_out(server: FakeServer) -> None:
    server.fail_next("POST /sessions", 503, times=8)
    assert statuses(list(ask(server, ROWS[:4], concurrency=2))) == {"answered": 4}


def test_a_server_that_stays_away_ends_the_batch(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "PATIENCE", 0.0)
    path = tmp_path / "r.jsonl"
    server.fail_next("POST /sessions", 503, times=None)
    with pytest.raises(ps.ServerError):
        list(ask(server, results=path))
    server.clear_faults()
    assert statuses(list(ask(server, results=path))) == {"answered": len(ROWS)}


@pytest.mark.timeout(60)
def test_an_outage_is_timed_for_the_run_and_leaves_rows_resumable(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No turn ends and no request fails by itself: the batch finds out that the server is gone, in seconds."""
    monkeypatch.setattr(policy, "PATIENCE", 2.0)
    monkeypatch.setattr(runner, "_PROBE_AFTER", 0.2)
    path = tmp_path / "r.jsonl"
    server.agent("a", shared=True).replies("first").echoes().waits("gate")
    batch = ask(server, results=path, timeout=300, concurrency=4)
    assert next(batch).text == "first"
    server.reached("gate", 4)
    server.stop()
    while not batch.waiting_for:
        assert batch.next(0.05) is None
    assert batch.waiting_for.startswith("server not reached for ")
    with pytest.raises(ps.TransportError):
        list(batch)
    assert batch.summary.counts == {"answered": 1}, "no row is failed by an outage"
    server.restart(keep=True)
    server.agent("a").forget()
    results = list(ask(server, results=path, settle=0.2, timeout=1.0))  # the turns that the outage cut have no end
    assert statuses(results).total() == len(ROWS) - 1
    assert set(posted(server.base_url).values()) == {1}


PAGES = {200: "<html>sorry</html>", 401: "<html>log in</html>", 404: "404 page not found"}
MORE_PAGES = {302: "", 403: "<html>no</html>", 408: "", 503: "<html>later</html>"}  # test_policy.py has them all


@pytest.mark.parametrize(
    ("status", "page"), [*PAGES.items(), *(pytest.param(*each, marks=pytest.mark.full) for each in MORE_PAGES.items())]
)
def test_a_maintenance_page_fails_no_row(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, page: str
) -> None:
    """First it goes away in time, then it stays."""
    monkeypatch.setattr(runner, "_PROBE_AFTER", 0.2)
    headers = {"Location": "/login", "Content-Type": "text/html"}
    path = tmp_path / "r.jsonl"
    server.agent("a").echoes().waits("gate")
    client_options = {"poll_wait": 1, "request_timeout": 2}
    batch = ask(server, results=path, timeout=20, concurrency=3, settle=0.2, client_options=client_options)
    server.reached("gate", 3)
    server.fail_next(lambda _: True, status, page, headers, times=None)
    while not batch.waiting_for:
        assert batch.next(0.05) is None
    server.clear_faults()
    server.release("gate")
    server.agent("a").forget().echoes()
    results = list(batch)
    assert statuses(results) == {"answered": len(ROWS)}
    assert set(posted(server.base_url).values()) == {1}

    monkeypatch.setattr(policy, "PATIENCE", 0.5)
    more = [*ROWS, *({"id": f"x{n}", "message": f"more {n}"} for n in range(3))]
    batch = ask(server, more, results=path, client_options=client_options)
    server.fail_next(lambda _: True, status, page, headers, times=None)
    with pytest.raises((ps.TransportError, ps.ServerError)):
        list(batch)
    server.clear_faults()
    assert batch.summary.failed == 0
    assert batch.summary.left > 0
    list(ask(server, more, results=path, settle=0.2))
    assert set(posted(server.base_url).values()) == {1}


@pytest.mark.usefixtures("quick_pauses")
def test_a_refusal_of_one_row_alone_ends_that_row(server: FakeServer) -> None:
    """A firewall that does not like a text sends its page for this row; the others go on."""
    blocked = b"DROP TABLE"
    server.fail_next(lambda r: r.method == "POST" and blocked in r.body, 403, "<html>blocked</html>", times=None)
    rows = ["one", "DROP TABLE users", *(f"more {n}" for n in range(8))]
    results = {r.id: r for r in ask(server, rows, settle=0.0, concurrency=2, client_options={"request_timeout": 1})}
    assert [name for name, r in results.items() if not r.ok] == ["2"]
    assert results["2"].status in ("failed", "uncertain")


def test_a_token_that_ran_out_ends_the_batch_resumably(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    server.fail_next("POST /sessions", 401, '{"detail": "no"}')
    with pytest.raises(ps.AuthenticationError):
        list(ask(server, results=path, concurrency=1))
    assert statuses(list(ask(server, results=path))).total() + len(results_of(path)) >= len(ROWS)
    assert set(posted(server.base_url).values()) == {1}


def test_a_lost_answer_to_a_post_is_no_second_post(server: FakeServer) -> None:
    server.cut_next("POST /events", stored=True, times=3)
    assert statuses(list(ask(server))) == {"answered": len(ROWS)}
    assert set(posted(server.base_url).values()) == {1}


@pytest.mark.usefixtures("quick_pauses")
def test_an_uncertain_message_is_looked_for_and_posted_again_under_its_key(server: FakeServer) -> None:
    server.cut_next("POST /events", times=1)
    (result,) = ask(server, ["hi"], settle=1.0)
    assert result.text == "echo: hi"
    assert posted(server.base_url) == {"hi": 1}


@pytest.mark.usefixtures("quick_pauses")
def test_a_lost_post_is_settled_from_its_end_not_from_its_entry(server: FakeServer) -> None:
    """It was looked for already for longer than ``settle``; a server that is as slow as that may store it yet."""
    server.cut_next("POST /events")
    (result,) = ask(server, ["hi"], settle=2.0)
    first, second = (r for r in server.requests if r.method == "POST" and r.path.endswith("/events"))
    assert second.time - first.time >= sum(posting.LOOKS) + 2.0
    assert result.ok


@pytest.mark.usefixtures("quick_pauses")
def test_what_stays_uncertain_is_said(server: FakeServer) -> None:
    server.cut_next("POST /events", times=None)
    (result,) = ask(server, ["hi"], settle=0.0)
    assert result.status == "uncertain"
    assert str(result.error).endswith("a retry looks for the message first, and posts it only if it is not there")
    assert posted(server.base_url) == {}


def test_a_row_has_its_time(server: FakeServer) -> None:
    server.agent("a").replies("one").replies("two").waits("never")
    rows = [{"id": "x", "messages": ["a", "b"], "timeout": 0.5}, {"id": "y", "message": "c", "agent_id": "b"}]
    server.agent("b")
    results = {r.id: r for r in ask(server, rows)}
    assert results["y"].status == "answered"
    assert results["x"].status == "timed_out"
    assert [t.outcome for t in results["x"].turns] == ["answered", "timed_out"]
    assert "; a longer timeout may help; a retry waits for this turn again" in str(results["x"].error)


def test_a_turn_that_never_ends_is_waited_for_again_and_a_new_id_asks_anew(server: FakeServer, tmp_path: Path) -> None:
    """As the texts of the first run say."""
    server.agent("a", shared=True).ignores().echoes()
    rows, path = [{"id": "x", "message": "hi", "timeout": 0.3}], tmp_path / "r.jsonl"
    (first,) = ask(server, rows, results=path)
    assert "a row with a new id" in str(first.error)
    assert statuses(list(ask(server, rows, results=path, retry_failed=True))) == {"timed_out": 1}
    assert posted(server.base_url) == {"hi": 1}
    assert statuses(list(ask(server, [{"id": "x2", "message": "hi"}], results=path))) == {"answered": 1}


@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_what_an_old_server_drops_is_reported_once_for_all_rows(
    version: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeServer(version) as server:
        server.agent("a")
        rows = [{"message": f"q{n}", "metadata": {"n": n}} for n in range(8)]
        list(ask(server, rows, results=tmp_path / "r.jsonl", concurrency=4))
    said = Counter(record.getMessage().partition("this server ")[2] for record in caplog.records)
    assert any("labels of sessions" in text for text in said)
    assert set(said.values()) == {1}, said


def test_one_bad_row_does_not_end_the_others(server: FakeServer) -> None:
    rows = [{"message": "x", "session_id": "gone"}, {"message": "y"}]
    assert {r.id: r.status for r in ask(server, rows)} == {"1": "failed", "2": "answered"}


# -- its end


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
