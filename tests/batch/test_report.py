"""Reports of results, and what has changed between two of them."""

from __future__ import annotations

import csv
import html.parser
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from parlant_sync import ConfigurationError
from parlant_sync.batch import Result, Row, TurnResult, report
from parlant_sync.batch.results import EMPTY

NASTY = '<script>alert(1)</script>|"&\x00=1+1'
TOOL = {"tool_id": "geo:capital", "arguments": {}}
RESULTS = [
    Result(
        "a", "answered", "Paris", (TurnResult("q?", "Paris", "answered", 1.0, (TOOL,)),), "s1", columns={"area": "x"}
    ),
    Result("b", "failed", "", (TurnResult("q", "", "failed", 0.0),), "s2", error="session s2: boom"),
    Result("b", "answered", "late", (TurnResult("q", "late", "answered", 3.0),), "s3"),
    Result(NASTY, "answered", NASTY, (TurnResult(NASTY, NASTY, "answered", 2.0),), "s4", unmet=("expected 'x'",)),
    *(Result(f"f{n}", "failed", session_id=f"t{n}", error=f"session t{n}: {NASTY}") for n in range(3)),
    Result("t", "timed_out", error="late", columns={"area": {"k": 1}, "=2+2": "@x"}),
    Result("e", "empty", "", (TurnResult("q", "", "empty", 0.5),)),
]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def run(results: list[Result], name: str = "r.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(result.to_json()) + "\n" for result in results), "utf-8")
        return path

    return run


def test_the_last_result_of_a_row_counts_and_problems_are_grouped(write: Write) -> None:
    found = report.load(write(RESULTS))
    assert [result.id for result in found.results] == [NASTY, "a", "b", "e", "f0", "f1", "f2", "t"]
    assert [len(ids) for _, ids in found.groups] == [3, 1, 1]
    assert found.durations == [0.5, 1.0, 2.0, 3.0]
    assert found.tools == [("geo:capital", 1)]
    text = report.as_text(found)
    assert text.splitlines()[:3] == [
        "r.jsonl: 8 rows: 3 answered, 1 empty, 3 failed, 1 timed out, 1 not as expected",
        "turns: p50 1.00 s, p95 3.00 s, slowest 3.00 s",
        "tools called: geo:capital (1)",
    ]
    assert "     3  failed: its session: " in text
    assert "rows f0, f1, f2" in text
    facts = report.as_json(found)
    assert (facts["answered"], facts["problems"][0]["rows"]) == (3, ["f0", "f1", "f2"])
    json.dumps(facts)


def test_a_table_for_spreadsheets(write: Write) -> None:
    text = report.as_csv(report.load(write(RESULTS)))
    assert text.startswith("\ufeffid,area,'=2+2,message,status,ok,")
    nasty, first, *_, timed_out = rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert len(rows) == 8
    assert (first["area"], first["message"], first["ok"], first["seconds"], first["tools"]) == (
        "x", "q?", "yes", "1.0", "geo:capital",
    )  # fmt: skip
    assert (nasty["ok"], nasty["text"]) == ("no", NASTY)
    assert (timed_out["area"], timed_out["'=2+2"]) == ('{"k": 1}', "'@x"), "no answer is a formula"


class Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_one_page_that_needs_nothing_and_runs_nothing(write: Write) -> None:
    text = report.as_html(report.load(write(RESULTS)))
    page = Page()
    page.feed(text)
    assert not {"script", "link", "img", "iframe", "a"} & set(page.tags)
    assert not {"src", "href", "onload"} & set(page.attributes)
    assert "alert(1)" in page.text
    assert "default-src 'none'" in text
    assert page.text.count("late") >= 1
    assert text.count(' turns"></div>') == 20
    assert "Seconds of a turn" not in report.as_html(report.load(write([])))


def test_markdown(write: Write) -> None:
    text = report.as_markdown(report.load(write(RESULTS)))
    assert "<script>" not in text
    for line in text.splitlines():
        if line.startswith("|") and "alert" in line:
            assert line.replace("\\|", "").count("|") in (4, 5)


def test_junit(write: Write) -> None:
    rows = [Row(result.id, ("q",)) for result in RESULTS] + [Row("later", ("q",))]
    rows = list({row.id: row for row in rows}.values())
    suite = ElementTree.fromstring(report.as_junit(report.load(write(RESULTS)), rows))
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "9", "failures": "5", "skipped": "1",
    }  # fmt: skip
    cases = {case.get("name"): case for case in suite}
    assert cases["a"].find("failure") is None
    failure = cases["f0"].find("failure")
    assert failure is not None
    assert "alert(1)" in str(failure.get("message"))
    assert cases["later"].find("skipped") is not None
    assert (cases["a"].get("time"), cases["t"].get("time")) == ("1.000", "0.000"), "the time of the turns"
    strict = ElementTree.fromstring(report.as_junit(report.load(write(RESULTS)), rows, empty_fails=True))
    assert strict.get("failures") == "6"


def test_rows_are_in_the_order_of_their_ids(write: Write) -> None:
    found = report.load(write([Result(name, "answered") for name in ("10", "r10", "9", "r9x", "r9")]))
    assert [result.id for result in found.results] == ["9", "10", "r9", "r9x", "r10"]


def test_what_got_worse(write: Write) -> None:
    def answered(name: str, text: str, seconds: float = 1.0, **more: Any) -> Result:
        return Result(name, "answered", text, (TurnResult("q", text, "answered", seconds),), **more)

    emptied, filled = (Result(name, "empty") for name in ("emptied", "filled"))
    old = [
        answered("emptied", "x"),
        filled,
        answered("same", "x"),
        answered("worse", "x"),
        Result("better", "failed"),
        answered("gone", "x"),
    ]
    new = [
        answered("same", "y", 2.0), answered("worse", "x", 2.0, unmet=("expected 'z'",)), answered("better", "x", 2.0),
        answered("new", "x", 2.0), emptied, answered("filled", "x", 2.0),
    ]  # fmt: skip
    found = report.compare(report.load(write(old, "o")), report.load(write(new, "n")))
    assert found.worse == {"emptied": EMPTY, "worse": "not as expected: expected 'z'"}
    assert (found.better, found.changed, found.missing, found.added) == (
        ["better", "filled"], ["better", "emptied", "filled", "same"], ["gone"], ["new"],
    )  # fmt: skip
    assert (found.p50, found.p95) == ((1.0, 2.0), (1.0, 2.0))
    text = report.comparison_text(found)
    assert text.startswith("2 rows got worse, 2 better, 4 have another text\n")
    assert "p95 1.00 s, now 2.00 s (+100%)" in text
    json.dumps(found.to_json())


def test_another_file_is_refused(tmp_path: Path) -> None:
    for content in (None, "dear diary\n"):
        path = tmp_path / "x"
        if content is not None:
            path.write_text(content, "utf-8")
        with pytest.raises(ConfigurationError, match=str(path)):
            report.load(path)
