"""Rows: what is wrong is said before anything is sent."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from parlant_sync import ConfigurationError
from parlant_sync.batch import Row, TurnResult, read_rows
from parlant_sync.batch.input_file import read_file
from parlant_sync.batch.rows import check_rows


def test_a_text_is_a_row() -> None:
    assert check_rows(["hello"]) == [Row("1", ("hello",))]


@pytest.mark.parametrize("one", ["hello", b"hello", {"message": "hello"}, Row("1", ("hello",))])
def test_one_row_in_place_of_a_list_is_refused(one: Any) -> None:
    """Else the letters of a text, and the field names of a mapping, would each be asked as a question."""
    with pytest.raises(ConfigurationError, match=r"rows must be a list.*brackets"):
        check_rows(one)


def test_all_fields() -> None:
    given = {
        "id": 7,
        "messages": ["a", "b"],
        "agent_id": "x",
        "customer_id": "c",
        "session_id": "s",
        "metadata": {"k": [1]},
        "timeout": 3,
        "expected": "not ours",
    }
    assert check_rows([given]) == [
        Row("7", ("a", "b"), "x", "c", "s", {"k": [1]}, 3.0, columns={"expected": "not ours"})
    ]


def test_rows_made_by_hand_are_held_to_the_same_rules() -> None:
    row = Row("a", ("hi",), timeout=2.0)
    assert check_rows([row]) == [row]
    with pytest.raises(ConfigurationError, match="message 1"):
        check_rows([Row("a", ("",))])


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({}, "needs message"),
        ({"message": "a", "messages": ["b"]}, "one of the two"),
        ({"message": ""}, "not empty"),
        ({"message": " "}, "not empty"),
        ({"message": "a", "agent": "x"}, "did you mean agent_id"),
        ({"message": "a", "Timeouts": 3}, "did you mean timeout"),
        ({"message": "a", "expect_text": "x"}, "did you mean expect_contains"),
        ({"message": "a", "expect_regex": "("}, "expect_regex"),
        ({"message": "a", "expect_outcome": "ok"}, "expect_outcome must be one of"),
        ({"message": "a", "expect_tool": 3}, "expect_tool must be"),
        ({"message": "a", "expect_seconds": "soon"}, "expect_seconds must be"),
        ({"message": 5}, "message must be a text"),
        ({"message": "a\ud800"}, "no UTF-8"),
        ({"messages": []}, "list of texts"),
        ({"messages": "abc"}, "list of texts"),
        ({"messages": ["a", ""]}, "message 2"),
        ({"message": "a", "id": ""}, "id must be"),
        ({"message": "a", "id": True}, "id must be"),
        ({"message": "a", "agent_id": 3}, "agent_id must be"),
        ({"message": "a", "metadata": []}, "metadata must be an object"),
        ({"message": "a", "metadata": {"x": float("nan")}}, "cannot be written as JSON"),
        ({"message": "a", "timeout": 0}, "timeout must be"),
        ({"message": "a", "timeout": "soon"}, "timeout must be"),
        (5, "an object is needed"),
    ],
)
def test_what_cannot_be_asked(row: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        check_rows(["fine", row])
    assert "row 2" in str(caught.value)


def test_duplicate_ids_are_an_error_numbers_included() -> None:
    with pytest.raises(ConfigurationError, match=r"row 2: its id '2' is that of row 1"):
        check_rows([{"id": "2", "message": "a"}, {"message": "b"}])


def test_all_errors_are_reported_at_once_up_to_a_limit() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_rows([{}, {"message": "a", "id": "1"}, {"message": 3}])
    assert [part.split(":")[0] for part in str(caught.value).split("; ")] == ["row 1", "row 3"]
    with pytest.raises(ConfigurationError, match="and 80 more"):
        check_rows([{}] * 100)


@pytest.mark.parametrize(
    ("expected", "unmet"),
    [
        ({"expect_contains": "PARIS"}, 0),
        ({"expect_contains": ["Paris", "Rome"]}, 1),
        ({"expect_regex": r"Par.s\b"}, 0),
        ({"expect_regex": "^paris"}, 1),
        ({"expect_outcome": "answered"}, 0),
        ({"expect_outcome": "empty"}, 1),
        ({"expect_tool": "geo:capital"}, 0),
        ({"expect_tool": "capital"}, 0),
        ({"expect_tool": "geo"}, 1),
        ({"expect_seconds": 2}, 0),
        ({"expect_seconds": 1}, 1),
        ({"expect_seconds": 1, "expect_contains": "x", "expect_outcome": "human"}, 3),
    ],
)
def test_expectations(expected: dict[str, Any], unmet: int) -> None:
    (row,) = check_rows([{"message": "a", **expected}])
    turns = (
        TurnResult("a", "", "empty", 1.5, ({"tool_id": "geo:capital"},)),
        TurnResult("b", "It is Paris.", "answered", 0.5),
    )
    found = row.expect.unmet("answered", "It is Paris.", turns)
    assert len(found) == unmet
    assert all(line.startswith("expected ") for line in found)


def test_the_digest_tells_another_question() -> None:
    one, other, same = check_rows([{"message": "a"}, {"message": "b"}, {"id": "z", "message": "a", "timeout": 3}])
    assert one.digest != other.digest
    assert one.digest == same.digest


# -- files


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes('\ufeff{"message": "a\u2028b"}\r\n\n{"id": "x", "message": "ü"}'.encode())
    assert read_rows(path) == [Row("1", ("a\u2028b",)), Row("x", ("ü",))]


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "message", "messages", "metadata", "timeout", "expected"])
    writer.writerow(["a", 'two\nlines, and "quotes"', "", '{"k": 1}', "2.5", "yes"])
    writer.writerow(["", "", '["one", "two"]', "", "", ""])
    path.write_text(text.getvalue(), "utf-8", newline="")
    assert read_rows(path) == [
        Row("a", ('two\nlines, and "quotes"',), metadata={"k": 1}, timeout=2.5, columns={"expected": "yes"}),
        Row("2", ("one", "two")),
    ]
    assert read_file(path).unused == ["expected"]


def test_a_long_cell(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text(f"message\n{'x' * 300_000}\n", "utf-8")
    before = csv.field_size_limit()
    assert len(read_rows(path)[0].messages[0]) == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("in.jsonl", b'{"message": "a"}\n{"message"', "line 2: not JSON"),
        ("in.jsonl", b'["a"]\n', "line 1: one object a line"),
        ("in.jsonl", b'{"message": "a"}\n\xff\n', "line 2: not UTF-8; say what it is with encoding="),
        ("in.csv", b"question\nwhat\n", "'question': message_column="),
        ("in.csv", b"id,mesage\n1,what\n", "'mesage' is unknown; did you mean message"),
        ("in.csv", b"message\na,b\n", "row 2: more cells"),
        ("in.csv", b"message,timeout\na,soon\n", "row 2: timeout: a number of seconds is needed, not 'soon'"),
        ("in.csv", b"message,metadata\na,{\n", "row 2: metadata"),
        ("in.csv", b'message\n"a\n', "not CSV"),
        (
            "in.csv",
            b"id,message,agent\n1,good,research\n",
            "row 2: the field 'agent' is unknown; did you mean agent_id",
        ),
        ("in.csv", b"caf\xe9,message\n1,2\n", "cp1252 for a Western Excel"),
        ("in.xlsx", b"PK\x03\x04rest", "save it as CSV"),
        ("in.txt", b"what\n", "input_format="),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=complaint):
        read_rows(path)


def test_the_form_may_be_said(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("message\nhi\n", "utf-8")
    assert read_rows(path, input_format="csv") == [Row("1", ("hi",))]


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (b"ID,Message\n1,What is X?\n", ["What is X?"]),
        (b"id,message\n1,good\n,\n,,\n\n3,also good\n", ["good", "also good"]),
        ("id,message\r\n1,환불은 어떻게 하나요?\r\n".encode("cp949"), ["환불은 어떻게 하나요?"]),
        ("\ufeffid;message\r\n1;What is X?\r\n2;What is Y, and Z?\r\n".encode(), ["What is X?", "What is Y, and Z?"]),
        ("id\tmessage\n1\ta, b; c\n".encode("utf-16"), ["a, b; c"]),
        ("id\tmessage\n1\tü\n".encode("utf-16-le"), ["ü"]),
        (b"sep=;\nid;message\n1;x\n", ["x"]),
        (b" Agent ID , MESSAGE ,\nr,x,\n", ["x"]),
    ],
    ids="case empty-rows cp949 semicolon utf-16-tabs utf-16-unmarked sep spaces".split(),
)
def test_what_spreadsheets_export(tmp_path: Path, content: bytes, messages: list[str]) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(content)
    found = read_file(path)
    assert [row.messages[0] for row in found.rows] == messages
    assert bool(found.notes) == (messages[0][0] == "환"), "a guess is reported"
    assert found.unused == []


@pytest.mark.parametrize("content", ["", "\n\n", " \n"])
def test_a_table_without_anything(tmp_path: Path, content: str) -> None:
    path = tmp_path / "in.csv"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="no columns; the first row must name them"):
        read_file(path)


def test_what_is_ambiguous_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes("no|Frage|message\n1|Wo ist das Caf\xe9?|x\n".encode("cp1252"))
    found = read_file(path, encoding="cp1252", delimiter="|", message_column="frage")
    assert found.rows[0].messages == ("Wo ist das Café?",)
    assert found.unused == ["no", "message (not used)"]
    with pytest.raises(ConfigurationError, match="no column 'Question' in its first row; it has 'no', 'Frage'"):
        read_file(path, encoding="cp1252", delimiter="|", message_column="Question")
    for wrong in ({"encoding": "latin-99"}, {"encoding": "ascii"}, {"encoding": "cp1252", "delimiter": "||"}):
        with pytest.raises(ConfigurationError):
            read_file(path, **wrong)
    path = tmp_path / "in.jsonl"
    path.write_text('{"question": "what"}\n', "utf-8")
    assert read_rows(path, message_column="question")[0].messages == ("what",)


def test_all_errors_of_a_file_come_at_once_with_the_spreadsheet_s_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('message,timeout,metadata\n"two\nlines",1,\n,5,\nx,soon,{\n"",,\ny,-1,\n', "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        read_rows(path)
    said = str(caught.value).removeprefix(f"{path}, ")
    places = [part.split(": ")[0] for part in said.split("; ") if part.startswith("row")]
    assert places == ["row 4", "row 4", "row 3", "row 6"]
