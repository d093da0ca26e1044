"""Results, their sum, and what is displayed of them."""

from __future__ import annotations

import pickle

import pytest

from parlant_sync.batch import Result, TurnResult
from parlant_sync.batch.progress import Failures, duration, left_line, progress_line, summary_lines
from parlant_sync.batch.results import Summary, Tally, percentile


def result(name: str, status: str, *durations: float) -> Result:
    return Result(name, status, turns=tuple(TurnResult("m", "t", status, d) for d in durations))


def summed(rows: int, results: list[Result], *, skipped: int, seconds: float) -> Summary:
    """The first ``skipped`` of the results are of earlier runs."""
    tally = Tally(rows, results[:skipped])
    for given in results[skipped:]:
        tally.add(given)
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
        "not_as_expected": 0,
        "left": 9,
        "skipped": 5,
        "p50": 1.0,
        "p95": 1.9,
        "seconds": 4.0,
    }
    assert summary_lines(summary)[:2] == [
        "30 rows: 20 answered, 1 timed out, 9 not finished (5 by earlier runs)",
        "turns: p50 1.00 s, p95 1.90 s; 0:04 in all",
    ]


def test_turns_whose_time_is_not_known_are_not_summed_up() -> None:
    summary = summed(3, [result("a", "answered", 0.0, 2.0), result("b", "answered", 0.0)], skipped=1, seconds=1.0)
    assert (summary.counts, summary.p50, summary.p95) == ({"answered": 2}, 2.0, 2.0)


def test_percentiles_of_little() -> None:
    assert percentile([], 0.5) is None
    assert percentile([3.0], 0.95) == 3.0


def test_a_result_survives_its_file() -> None:
    turn = TurnResult("m", "t", "answered", 0.5, ({"tool_id": "a:b"},), ("g1",), ("j1",), ("s1",), True, ("spam",))
    given = Result("a", "answered", "t", (turn,), "s", None, "now", 1.0, ("expected 'x' in the text",), {"area": 1})
    assert Result.read(given.to_json()) == given
    assert list(given.to_json()) == [
        "id", "status", "text", "turns", "session_id", "error", "started", "duration", "unmet", "columns",
    ]  # fmt: skip
    assert pickle.loads(pickle.dumps(given)) == given
    old = {"id": "a", "status": "answered", "text": "t", "turns": [{"message": "m", "text": "t", "outcome": "human"}]}
    assert Result.read(old).turns == (TurnResult("m", "t", "human", 0.0),)
    with pytest.raises(ValueError, match="not a result"):
        Result.read({"id": "a", "status": "fine"})


def test_what_tools_gave_is_written_without_a_copy() -> None:
    """It may be megabytes, and the thread that writes drives all rows."""
    call, column = {"tool_id": "t", "result": {"data": [1, 2]}}, [1]
    given = Result("x", "answered", turns=(TurnResult("m", "t", "answered", 1.0, (call,)),), columns={"c": column})
    written = given.to_json()
    assert written["turns"][0]["tool_calls"][0] is call
    assert written["columns"]["c"] is column


def test_the_same_problem_reads_the_same() -> None:
    key = "0123456789abcdef" * 2
    one = Result("a", "failed", session_id="s1", error=f"session s1 on http://x: no; find({key!r}) later")
    assert one.problem == "failed: its session on http://x: no; find('KEY') later"
    assert Result("b", "timed_out").problem == "timed out"
    assert Result("c", "answered", unmet=("expected 'x' in the text",)).problem == (
        "not as expected: expected 'x' in the text"
    )
    assert Result("d", "empty").problem == ""


# -- what is displayed


def test_the_progress_line() -> None:
    summary = summed(100, [result(str(n), "answered" if n else "failed") for n in range(50)], skipped=10, seconds=20)
    assert progress_line(summary) == "[##########----------] 50/100  2.0/s  1 failed  0:25 left"
    assert progress_line(summary, "429: next in 20 s") == (
        "[##########----------] 50/100  2.0/s  1 failed  429: next in 20 s"
    )
    assert progress_line(summary, bar=False) == "50/100 rows  2.0/s  1 failed  0:25 left"
    assert progress_line(summed(0, [], skipped=0, seconds=0)) == "[####################] 0/0"


def test_times_to_go() -> None:
    assert [duration(s) for s in (5, 754, 3723)] == ["0:05", "12:34", "1:02:03"]


def test_what_the_summary_advises() -> None:
    results = [result("a", "empty", 1.0), result("b", "failed"), Result("c", "answered", unmet=("x",))]
    lines = summary_lines(summed(3, results, skipped=0, seconds=1.0))
    assert lines[0] == "3 rows: 1 answered, 1 empty, 1 failed, 1 not as expected"
    assert "1 row got no text" in lines[2]
    assert "--retry-empty" in lines[2]
    assert lines[3] == "the same command with --retry-failed gives 2 failed rows another try"
    assert "--empty-fails" in lines[2]
    assert "--empty-fails" not in " ".join(summary_lines(summed(3, results, skipped=0, seconds=1.0), empty_fails=True))
    late = summary_lines(summed(1, [result("d", "timed_out")], skipped=0, seconds=1.0))
    assert "1 row timed out: a retry waits for the same turn again" in late[-1]
    assert left_line(summed(3, results[:1], skipped=0, seconds=1.0)) == (
        "2 of 3 rows are left: run the same command again to go on"
    )
    assert left_line(summed(1, results[:1], skipped=0, seconds=1.0)) == ""


def test_the_same_failures_are_counted_and_not_listed() -> None:
    failures = Failures()
    lines = [failures.add(Result(str(n), "failed", session_id=f"s{n}", error=f"session s{n}: no")) for n in range(300)]
    assert lines == ["row 0: failed: session s0: no"] + [""] * 299
    assert failures.add(Result("x", "answered")) == ""
    assert failures.add(Result("y", "empty")) == ""
    assert failures.rest() == ["row 0 and 299 more (the last is 299): failed: its session: no"]
    assert Failures(empty_fails=True).add(Result("y", "empty")).startswith("row y: empty")
