"""``parlant-sync batch``: files, streams, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from support.batch_checks import posted, results_of

from parlant_sync.batch import Batch, Result, Summary
from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.commands import batch as batch_command
from parlant_sync.cli.commands.batch import _follow
from parlant_sync.cli.signals import Signals, Terminated
from parlant_sync.testing import FakeServer

Command = Callable[..., tuple[int, str, str]]
Start = Callable[..., "subprocess.Popen[str]"]
Questions = Callable[[list[dict[str, Any]]], Path]
ROWS = [{"id": f"r{n}", "message": f"question {n}"} for n in range(6)]


def test_a_batch(server: FakeServer, command: Command, questions: Questions, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    code, out, err = command(questions(ROWS), "--results", path, "-s", server.base_url, "--concurrency", 2)
    assert (code, err) == (0, "")
    assert out.startswith("6 rows: 6 answered\nturns: p50 ")
    assert {r["id"]: r["text"] for r in results_of(path)} == {r["id"]: f"echo: {r['message']}" for r in ROWS}
    code, out, err = command(questions(ROWS), "--results", path, "-s", server.base_url, "-o", "json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert (summary["answered"], summary["skipped"], summary["left"]) == (6, 6, 0)
    assert set(posted(server.base_url).values()) == {1}
    assert command(questions(ROWS), "--results", path, "-s", server.base_url, "--quiet")[1:] == ("", "")


def test_a_rate_may_say_what_it_counts_by(
    server: FakeServer, command: Command, questions: Questions, tmp_path: Path
) -> None:
    options = ["--results", tmp_path / "out.jsonl", "-s", server.base_url, "-o", "json"]
    code, out, err = command(questions(ROWS[:3]), *options, "--rate", "300/min")
    assert (code, err) == (0, "")
    assert json.loads(out)["seconds"] >= 0.4


def test_csv_from_stdin(server: FakeServer, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    options = ["--input-format", "csv", "--results", path, "-s", server.base_url, "--agent-id", "a"]
    code, _, err = command("-", *options, input="id,message\nx,hello\n")
    assert (code, err) == (0, "")
    assert results_of(path)[0]["text"] == "echo: hello"


def test_a_dry_run_sends_nothing_and_makes_no_file(
    server: FakeServer, command: Command, questions: Questions, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    given = [*ROWS, {"message": "x", "expected": "y"}]
    code, out, err = command(questions(given), "--results", path, "--dry-run", "-s", server.base_url)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "7 rows, 7 to ask; nothing was sent",
        "7 messages, 4 at a time: about 0:10 (if a turn takes 5 s)",
        "kept with the results, and not used: expected",
    ]
    assert server.requests == []
    assert not path.exists()
    code, out, _ = command(questions(given), "--dry-run", "-o", "json")
    assert (code, json.loads(out)["to_ask"]) == (0, 7)
    out = command(questions(given), "--dry-run", "--limit", 2, "--rate", 4)[1]
    assert out.startswith("2 rows, 2 to ask; nothing was sent\n2 messages, 4 at a time: about 0:30 (")


@pytest.mark.parametrize(
    ("rows", "options", "complaint"),
    [
        ([{"message": "a"}, {"message": ""}], ["--results", "out"], "line 2: message must be"),
        ([{"id": "x", "message": "a"}, {"id": "x", "message": "b"}], ["--results", "out"], "is that of line 1 already"),
        ([{"message": "a"}], [], "--results FILE"),
        ([{"message": "a"}], ["--results", "out", "--concurrency", "0"], "--concurrency"),
        ([{"message": "a"}], ["--results", "out", "--timeout", "inf"], "--timeout"),
        ([{"message": "a"}], ["--results", "out", "--timeout", "0"], "--timeout must be more than 0"),
        ([{"message": "a"}], ["--results", "out", "--rate", "0"], "as in 30 or 30/min"),
        ([{"message": "a"}], ["--results", "out", "--rate", "nan"], "as in 30 or 30/min"),
        ([{"message": "a"}], ["--results", "out", "--rate", "30/s"], "as in 30 or 30/min"),
    ],
)
def test_usage(
    server: FakeServer,
    command: Command,
    questions: Questions,
    tmp_path: Path,
    rows: list[dict[str, Any]],
    options: list[str],
    complaint: str,
) -> None:
    code, out, err = command(questions(rows), *options, "-s", server.base_url)
    assert (code, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1
    assert not [request for request in server.requests if request.method == "POST"]


def test_other_endings(server: FakeServer, command: Command, questions: Questions, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    options = ["--results", path, "-s", server.base_url]
    assert command(tmp_path / "nothing.jsonl", *options)[0] == 2
    code, _, err = command(questions([{"message": "a", "agent_id": "nobody there"}]), *options)
    again = f"parlant-sync -s {server.base_url} agents"
    assert (code, err) == (6, f"parlant-sync: no agent 'nobody there' on {server.base_url}; {again} lists them\n")
    server.fail_next("/agents/a", 404, "<html>nothing here</html>", times=None)
    code, _, err = command(questions([{"message": "a", "agent_id": "a"}]), *options)
    assert (code, "there may be no Parlant server at this address" in err) == (3, True)
    assert command(questions(ROWS), "--results", tmp_path / "no" / "where", "-s", server.base_url)[0] == 2
    assert command(questions(ROWS), "--results", path, "-s", "http://127.0.0.1:9")[0] == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["questions.jsonl"], "refused, and has left files"
    path.write_text("dear diary\n", "utf-8")
    code, _, err = command(questions(ROWS), *options)
    assert code == 2
    assert "not written by a batch" in err
    assert path.read_text("utf-8") == "dear diary\n"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.jsonl", "questions.jsonl"]


def test_failed_rows_are_told_and_make_9(
    server: FakeServer, command: Command, questions: Questions, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    server.agent("a", shared=True).fails("boom").echoes()
    options = [questions(ROWS), "--results", path, "-s", server.base_url, "--concurrency", 1]
    code, out, err = command(*options)
    assert code == 9
    assert err.startswith("row r0: failed: ")
    assert "boom" in err
    assert "5 answered, 1 failed" in out
    assert out.endswith("the same command with --retry-failed gives 1 failed row another try\n")
    assert command(*options)[0] == 9  # for as long as it has failed rows
    code, out, err = command(*options, "--retry-failed")
    assert (code, err) == (0, "")
    assert "6 answered" in out


def test_enough_failures_make_9(server: FakeServer, command: Command, questions: Questions, tmp_path: Path) -> None:
    server.agent("a").fails("boom")
    code, out, _ = command(
        questions(ROWS), "--results", tmp_path / "o", "-s", server.base_url, "--concurrency", 1, "--max-failures", 2
    )
    assert code == 9
    assert "2 failed, 4 not finished" in out


def test_the_second_run_on_one_file_ends_with_8(
    server: FakeServer, start: Start, command: Command, questions: Questions, tmp_path: Path
) -> None:
    server.agent("a").waits("gate")
    options = [questions(ROWS), "--results", tmp_path / "o", "-s", server.base_url]
    first = start(*options)
    server.reached("gate", 4, timeout=30)
    code, out, err = command(*options)
    assert (code, out) == (8, "")
    assert "another run" in err
    server.release("gate")
    first.communicate(timeout=60)
    assert first.returncode == 0


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_rows_resumable(
    server: FakeServer,
    start: Start,
    command: Command,
    questions: Questions,
    tmp_path: Path,
    signum: int,
    expected: int,
) -> None:
    path = tmp_path / "out.jsonl"
    server.agent("a").echoes().waits("gate")
    options = [questions(ROWS), "--results", path, "-s", server.base_url, "--concurrency", 3]
    process = start(*options)
    server.reached("gate", 3, timeout=30)
    process.send_signal(signum)
    _, err = process.communicate(timeout=10)
    assert process.returncode == expected
    assert "Traceback" not in err
    assert "6 of 6 rows are left: run the same command again to go on" in err
    server.release("gate")
    assert command(*options)[0] == 0
    assert {r["id"]: r["text"] for r in results_of(path)} == {r["id"]: f"echo: {r['message']}" for r in ROWS}
    assert posted(server.base_url) == Counter({r["message"]: 1 for r in ROWS})


def test_what_is_left_is_told_before_the_batch_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing may take longer than a process has after a signal."""
    told: list[str] = []
    ended = Result("a", "answered")

    class Running:
        outbox: ClassVar[list[Result]] = [ended, ended]

        def next(self, timeout: float) -> Result | None:
            if timeout > 0:
                raise Terminated(signal.SIGTERM)
            return self.outbox.pop() if self.outbox else None

        @property
        def summary(self) -> Summary:
            return Summary(7, {"answered": 2 - len(self.outbox)})

    monkeypatch.setattr(output, "note", told.append)
    with pytest.raises(Terminated):
        _follow(App(Signals()), cast("Batch", Running()), [], {"quiet": True, "empty_fails": False, "junit": None})
    assert told == ["5 of 7 rows are left: run the same command again to go on"]


def test_a_full_disk(server: FakeServer, command: Command, questions: Questions, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    options = [questions(ROWS), "--results", path, "-s", server.base_url, "--concurrency", 1]

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    # Its modules are compiled already, or are not kept: cut off, they would break every run after this one.
    code, _, err = command(*options, preexec_fn=small, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert code == 1
    assert "check the path, its permissions and the space left" in err
    done = results_of(path)
    assert 0 < len(done) < 6
    assert path.read_bytes().endswith(b"\n")
    assert command(*options, "--settle", 0.5)[0] == 0
    assert results_of(path)[: len(done)] == done
    assert posted(server.base_url) == Counter({r["message"]: 1 for r in ROWS})


def test_a_terminal_sees_progress(
    server: FakeServer, start: Start, questions: Questions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    server.agent("a", shared=True).fails("boom").echoes().waits("gate")
    options = [questions(ROWS), "--results", tmp_path / "o", "-s", server.base_url, "--concurrency", 1]
    running = start(*options, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        if b"1 failed" in seen:
            server.release("gate")
        try:
            piece = os.read(ours, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 9
    assert b"[###" in seen
    assert b"1 failed" in seen
    assert b"row r0: failed" in seen
    assert seen.endswith(b"\r\x1b[K")
    assert "5 answered, 1 failed" in out


def test_dask_without_a_cluster(server: FakeServer, command: Command, questions: Questions, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    code, _, err = command(
        questions(ROWS), "--results", tmp_path / "o", "-s", server.base_url, "--dask", "tcp://127.0.0.1:9",
        process=True,
    )  # fmt: skip
    assert code == 2
    assert "no cluster there" in err


# -- what goes in, what comes out


@pytest.mark.parametrize(
    ("results", "complaint"),
    [
        ("-", "must go to a file"),
        ("/dev/null", "not a regular file"),
        ("no/r.jsonl", "no folder"),
        ("r.csv", "r.jsonl"),
    ],
)
def test_where_results_cannot_be_kept(
    server: FakeServer, command: Command, questions: Questions, tmp_path: Path, results: str, complaint: str
) -> None:
    code, out, err = command(questions(ROWS), "--results", results, "-s", server.base_url)
    assert (code, out) == (2, "")
    assert complaint in err
    assert [each.name for each in tmp_path.iterdir()] == ["questions.jsonl"]


def test_empty_answers_may_fail_the_batch(
    server: FakeServer, command: Command, questions: Questions, tmp_path: Path
) -> None:
    server.agent("a").stays_silent()
    options = [questions(ROWS), "--results", tmp_path / "r.jsonl", "-s", server.base_url]
    code, out, err = command(*options)
    assert (code, err) == (0, "")
    assert "6 rows got no text" in out
    code, _, err = command(*options, "--empty-fails", "--retry-empty")
    assert code == 9
    assert err.splitlines()[0].endswith(": empty: the turn ended without a message")
    assert "and 5 more" in err.splitlines()[1]
    code, out, _ = command(*options, "--empty-fails")
    assert (code, "--empty-fails" in out) == (9, False), "also those of earlier runs"


def test_a_table_its_report_and_what_got_worse(server: FakeServer, command: Command, tmp_path: Path) -> None:
    table, old, new = tmp_path / "cases.csv", tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    table.write_bytes("\ufeffid;Message;area;expect_contains\r\n1;수도는?;지리;서울\r\n2;b;x;\r\n3;c;y;\r\n".encode())
    server.agent("a").when("수도").replies("서울입니다")
    junit = tmp_path / "r.xml"
    options = [table, "-s", server.base_url, "--junit", junit]
    code, out, err = command(*options, "--results", old)
    assert (code, err) == (0, "kept with the results, and not used: area\n")
    assert 'tests="3" failures="0"' in junit.read_text("utf-8") or 'failures="0"' in junit.read_text("utf-8")
    assert "서울입니다" in old.read_text("utf-8")
    server.agent("a").forget().echoes()
    code, out, err = command(*options, "--results", new)
    assert code == 9
    assert "row 1: not as expected: expected '서울' in the text" in err
    assert 'failures="1"' in junit.read_text("utf-8")
    code, out, err = command("compare", old, new)
    assert (code, err) == (9, "")
    assert out.startswith("1 row got worse, 0 better, 1 have another text\nworse: row 1: not as expected")
    assert command("compare", old, old)[0] == 0
    code, out, err = command("report", new)
    assert (code, err) == (0, "")
    assert "rows 1" in out
    assert command("report", new, "--html")[1].startswith("<!doctype html>")
    assert "지리" in command("report", old, "--csv")[1]
    for form in ("--markdown",), ("-o", "markdown"):
        assert command("report", new, *form)[1].startswith("# new.jsonl")
    for given in (["report", new, "-o", "json"], ["-o", "json", "report", new]):
        assert json.loads(command(*given)[1])["not_as_expected"] == 1
    assert "<testcase" in command("report", new, "--junit")[1]
    code, _, err = command("report", new, "--csv", "--html")
    assert (code, err) == (2, "parlant-sync: --csv and --html are two forms of one report; choose one\n")
    assert command("report", table)[0] == 2
    assert command("report", tmp_path / "none")[0] == 2


def test_a_file_that_is_called_like_a_command(server: FakeServer, command: Command, tmp_path: Path) -> None:
    (tmp_path / "report").write_text('{"message": "a"}\n', "utf-8")
    options = ["--input-format", "jsonl", "--results", "r.jsonl", "-s", server.base_url]
    assert command("./report", *options)[0] == 0
    assert command(*options, "report")[0] == 0, "behind the options it is the file, too"


def test_elsewhere_than_at_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(output, "note", written.append)
    monkeypatch.setattr(output, "answer", lambda _: None)
    monkeypatch.setattr(batch_command, "_LINE_EVERY", 0.0)

    class Running:
        news: ClassVar[list[Result | None]] = [None]
        waiting_for = "429: next in 20 s"
        summary = Summary(2, {"answered": 2}, seconds=1.0)

        def next(self, timeout: float) -> Result | None:
            if not self.news:
                raise StopIteration
            return self.news.pop()

    _follow(App(Signals()), cast("Batch", Running()), [], {"quiet": False, "empty_fails": False, "junit": None})
    assert written == ["2/2 rows  2.0/s  429: next in 20 s"]


def test_an_agent_may_be_given_by_its_name(
    server: FakeServer, command: Command, questions: Questions, tmp_path: Path
) -> None:
    server.agent("k2", name="The Librarian")
    options = ["--results", tmp_path / "out.jsonl", "-s", server.base_url, "--agent-id", "the librarian"]
    assert command(questions(ROWS[:1]), *options)[0] == 0
    code, out, err = command(questions(ROWS[:2]), *options)  # goes on: the earlier run noted the id
    assert (code, err) == (0, "")
    assert "(1 by earlier runs)" in out
    row = {"message": "x", "agent_id": "The Librarian"}
    code, _, err = command(questions([row]), *options[:-2], "--results", tmp_path / "o.jsonl")
    assert (code, "rows need the id: k2" in err) == (2, True)


def test_mistakes_are_found_before_the_first_question(
    server: FakeServer, command: Command, questions: Questions, tmp_path: Path
) -> None:
    options = ["--results", tmp_path / "out.jsonl", "-s", server.base_url]
    code, _, err = command(questions(ROWS), *options, "--junit", tmp_path / "none" / "x.xml")
    assert (code, "no such folder" in err) == (2, True)
    code, _, err = command("reprot", tmp_path / "out.jsonl")
    assert (code, "did you mean 'batch report'?" in err) == (2, True)
    assert posted(server.base_url) == {}


def test_errors_name_options_and_no_arguments_of_python(
    server: FakeServer, command: Command, questions: Questions, tmp_path: Path
) -> None:
    options = ["--results", tmp_path / "out.jsonl", "-s", server.base_url]

    def complaint(name: str, content: bytes, *more: str) -> str:
        (tmp_path / name).write_bytes(content)
        return command(tmp_path / name, *options, *more)[2]

    complaints = {
        "--input-format": complaint("in.txt", b"what\n"),
        "--encoding": complaint("in.csv", b"caf\xe9,message\n1,2\n"),
        "--message-column": complaint("in.csv", b"question\nwhat\n"),
        "--delimiter": complaint("in.csv", b"question\nwhat\n", "--delimiter", "::"),
    }
    server.agent("b")
    complaints["--agent-id"] = command(questions(ROWS), *options)[2]
    for option, said in complaints.items():
        assert option in said
        assert re.search(r"\w=", said) is None, said


@pytest.mark.parametrize(
    ("concurrency", "threads", "said"), [(8, 2, "8 is more than the 2 threads"), (2, 2, ""), (None, 0, "")]
)
def test_more_questions_at_a_time_than_the_cluster_has_threads(
    concurrency: int | None,
    threads: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A stand-in for the cluster's client: what it is asked is its threads and an executor."""
    distributed = pytest.importorskip("distributed")
    from parlant_sync.cli.commands import batch

    class Cluster:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> Cluster:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def nthreads(self) -> dict[str, int]:
            return {"tcp://one": threads} if threads else {}

        def get_executor(self, **_: object) -> str:
            return "executor"

    monkeypatch.setattr(distributed, "Client", Cluster)
    with batch._executor("tcp://cluster:8786", concurrency) as (executor, found):
        assert (executor, found) == ("executor", threads or None)
    note = capsys.readouterr().err
    assert (said in note) if said else ("more than" not in note)
