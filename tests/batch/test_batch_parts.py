"""The small parts: what failures mean, the pace, what is shown, what is summed up."""

from __future__ import annotations

import pickle
import threading

import pytest
from parlant_sync.batch.judge import Verdict, judge
from parlant_sync.batch.pool import Pool
from parlant_sync.batch.rate import Rate

import parlant_sync as ps
from parlant_sync.batch import Result, TurnResult
from parlant_sync.batch.progress import Progress, duration, progress_line, summary_lines
from parlant_sync.batch.results import Summary, Tally, percentile
from parlant_sync.batch.worker import Answer, Config, failure

REFUSED = ps.TransportError("refused")
LIMITED = ps.RateLimitedError("429", retry_after=2.0)
BROKEN = ps.ServerError("500", status=500)
GONE = ps.NotFoundError("404", status=404, detail="Session not found (id='s')")
NOWHERE = ps.NotFoundError("404", status=404, detail="404 page not found")
DENIED = ps.AuthenticationError("401", status=401)
UNCERTAIN = ps.DeliveryUncertain("?", key="k", session_id="s")
TIMEOUT = ps.TurnTimeout("late", partial=ps.Reply("so far", "answered"))
AGENT = ps.AgentError("boom", partial=ps.Reply("half", "answered"))


@pytest.mark.parametrize(
    ("stage", "error", "expected"),
    [
        ("open", REFUSED, Verdict.WAIT),
        ("look", REFUSED, Verdict.WAIT),
        ("ask", REFUSED, Verdict.WAIT),
        ("wait", LIMITED, Verdict.WAIT),
        ("open", BROKEN, Verdict.WAIT),
        ("ask", BROKEN, Verdict.LOOK),
        ("post", UNCERTAIN, Verdict.LOOK),
        ("look", UNCERTAIN, Verdict.OVER),
        ("look", GONE, Verdict.ANEW),
        ("open", GONE, Verdict.OVER),
        ("ask", GONE, Verdict.LOOK),
        ("post", GONE, Verdict.LOOK),
        ("look", NOWHERE, Verdict.WAIT),
        ("ask", NOWHERE, Verdict.LOOK),
        ("ask", TIMEOUT, Verdict.OVER),
        ("ask", AGENT, Verdict.OVER),
        ("open", DENIED, Verdict.STOP),
        ("ask", DENIED, Verdict.STOP),
    ],
)
def test_what_failures_mean(stage: str, error: ps.ParlantSyncError, expected: Verdict) -> None:
    assert judge(stage, failure(error, 1.0), own=True, reposts_left=True) is expected


def test_what_is_tried_once_more_is_tried_once() -> None:
    for error in (BROKEN, UNCERTAIN, GONE):
        assert judge("ask", failure(error, 1.0), own=True, reposts_left=False) is Verdict.OVER


def test_a_given_session_that_is_gone_is_not_replaced() -> None:
    assert judge("look", failure(GONE, 0.0), own=False, reposts_left=True) is Verdict.OVER


def test_a_failure_keeps_what_was_said_and_pickles() -> None:
    answer = failure(TIMEOUT, 2.0)
    assert (answer.status, answer.text, answer.duration, answer.error) == ("timed_out", "so far", 2.0, "late")
    plain = "session s: no keys are kept, and there is such a message; it may be this row's"
    assert failure(ps.DeliveryUncertain(plain, key="k", session_id="s"), 0.0).error == plain
    again = pickle.loads(pickle.dumps(failure(LIMITED, 0.0)))
    assert isinstance(again.cause, ps.RateLimitedError)
    assert again.cause.retry_after == 2.0
    assert failure(AGENT, 0.0).status == "failed"


def test_a_config_shows_no_secret() -> None:
    config = Config("http://x", {"token": "sesame"})
    assert "sesame" not in repr(config)
    assert pickle.loads(pickle.dumps(config)) == config


# -- pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_spreads_messages_out() -> None:
    clock = Clock()
    pace = Rate(30, clock=clock)
    waits = []
    for _ in range(3):
        waits.append(pace.wait_for_message())
        clock.now += waits[-1]
        pace.take()
    assert waits == [0.0, 2.0, 2.0]
    clock.now += 60.0  # what was not used is not saved up
    pace.take()
    assert pace.wait_for_message() == 2.0


def test_a_refusal_pauses_once_and_grows() -> None:
    clock = Clock()
    pace = Rate(None, clock=clock)
    assert pace.wait_for_message() == 0.0
    pauses = []
    for _ in range(5):
        pace.trouble(limited=True)
        pace.trouble(limited=True)  # of the same volley
        pauses.append(pace.delay())
        clock.now += pauses[-1]
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0]
    pace.success()
    pace.trouble()
    assert pace.delay() == 1.0


def test_the_server_s_wish_is_heard() -> None:
    clock = Clock()
    pace = Rate(None, clock=clock)
    pace.trouble(limited=True)
    pace.trouble(limited=True, wish=30.0)
    assert pace.delay() == 30.0


def test_a_server_that_wishes_for_tomorrow_does_not_hold_the_batch_until_then() -> None:
    pace = Rate(None, clock=Clock())
    pace.trouble(limited=True, wish=86_400.0)
    assert pace.delay() == 300.0


# -- pool


def test_a_pool_starts_no_more_threads_than_are_needed() -> None:
    pool = Pool(3)
    assert pool.submit(pow, 2, 3).result(5) == 8
    pool.done()
    assert pool.submit(int, "x").exception(5).__class__ is ValueError
    pool.done()
    assert len(pool._threads) == 1
    pool.stop(5)
    assert not any(thread.is_alive() for thread in pool._threads)


def test_a_pool_without_a_single_thread_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Pool(3).submit(int)


# -- what is shown


def result(name: str, status: str, *durations: float) -> Result:
    return Result(name, status, turns=tuple(TurnResult("m", "t", status, d) for d in durations))


def summed(rows: int, results: list[Result], *, skipped: int, seconds: float) -> Summary:
    """The first ``skipped`` of the results are of earlier runs."""
    tally = Tally(rows)
    for number, given in enumerate(results):
        tally.add(given, earlier=number < skipped)
    return tally.summary(seconds)


def test_the_sum() -> None:
    results = [result(str(n), "answered", n / 10) for n in range(1, 21)] + [result("x", "timed_out", 99.0)]
    summary = summed(30, results, skipped=5, seconds=4.0)
    assert (summary.left, summary.failed, summary.p50, summary.p95) == (9, 1, 1.0, 1.9)
    assert summary.to_json() == {
        "rows": 30,
        "answered": 20,
        "empty": 0,
        "human": 0,
        "failed": 0,
        "timed_out": 1,
        "uncertain": 0,
        "left": 9,
        "skipped": 5,
        "p50": 1.0,
        "p95": 1.9,
        "seconds": 4.0,
    }
    assert summary_lines(summary) == [
        "30 rows: 20 answered, 1 timed out, 9 not finished (5 by earlier runs)",
        "turns: p50 1.00 s, p95 1.90 s; 0:04 in all",
        "the same command with --retry-failed asks the 1 without an answer again",
    ]


def test_turns_whose_time_nobody_counted_are_not_summed_up() -> None:
    summary = summed(3, [result("a", "answered", 0.0, 2.0), result("b", "answered", 0.0)], skipped=1, seconds=1.0)
    assert (summary.counts, summary.p50, summary.p95) == ({"answered": 2}, 2.0, 2.0)


def test_percentiles_of_little() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.95) == 3.0


def test_the_progress_line() -> None:
    summary = summed(100, [result(str(n), "answered" if n else "failed") for n in range(50)], skipped=10, seconds=20)
    assert progress_line(summary, width=79) == "[##########----------] 50/100  2.0/s  1 failed  0:25 left"
    assert len(progress_line(summary, width=30)) == 30
    assert progress_line(summed(0, [], skipped=0, seconds=0), width=79) == "[####################] 0/0"
    written: list[str] = []
    progress = Progress(written.append)
    progress.show(summary)
    progress.clear()
    assert written[0].startswith("\r\x1b[K[###")
    assert written[1] == "\r\x1b[K"


def test_times_to_go() -> None:
    assert [duration(s) for s in (5, 754, 3723)] == ["0:05", "12:34", "1:02:03"]


def test_a_result_survives_its_file() -> None:
    given = Result("a", "answered", "t", (TurnResult("m", "t", "answered", 0.5),), "s", None, "now", 1.0)
    assert Result.read(given.to_json()) == given
    assert list(given.to_json()) == ["id", "status", "text", "turns", "session_id", "error", "started", "duration"]
    assert pickle.loads(pickle.dumps(given)) == given
    with pytest.raises(ValueError, match="no result"):
        Result.read({"id": "a", "status": "fine"})


def test_an_answer_is_plain() -> None:
    assert pickle.loads(pickle.dumps(Answer("answered", "x"))) == Answer("answered", "x")
