"""``run()`` against the stand-in: order, files, resuming, sessions."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.batch_checks import ROWS, ask, posted, results_of, statuses
from support.waiting import wait_until

import parlant_sync as ps
from parlant_sync.batch import BatchLocked, outlook, run, worker
from parlant_sync.batch.journal import Journal
from parlant_sync.testing import FakeServer

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
