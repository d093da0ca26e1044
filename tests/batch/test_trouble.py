"""``run()``: its pace, and what it does while the server is limited, away, or refuses."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.batch_checks import ROWS, ask, posted, results_of, statuses
from support.waiting import wait_until

import parlant_sync as ps
from parlant_sync._api import posting
from parlant_sync.batch import Batch, policy, runner, worker
from parlant_sync.testing import FakeServer


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
