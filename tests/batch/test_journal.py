"""Files that only grow: torn ends, strangers' files, full disks, locks; and the journal in them."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from parlant_sync import ConfigurationError
from parlant_sync.batch import BatchLocked, Result, Row, TurnResult, outlook
from parlant_sync.batch.journal import Entry, Journal, LineFile


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: a write over that is cut short, and the next one fails."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def line_file(path: Path, look_only: bool = False) -> LineFile:
    return LineFile(path, "id", look_only=look_only)


def read(file: LineFile) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    file.read(found.append)
    return found


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    file = line_file(path)
    file.append([{"id": "a", "text": "\ud800 ü\n"}])
    file.append([{"id": "b"}, {"id": "c"}])
    assert [value["id"] for value in read(file)] == ["a", "b", "c"]
    file.close()
    file.close()


@pytest.mark.parametrize("cut", range(1, 22))
def test_a_torn_last_line_is_taken_off_or_completed(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "f"
    whole, last = b'{"id": "a"}\n', b'{"id": "b", "x": 123}\n'
    path.write_bytes(whole + last[:cut])
    file = line_file(path)
    complete = cut == len(last) - 1
    assert len(read(file)) == 1 + complete
    assert path.read_bytes() == whole + (last if complete else b"")
    file.append([{"id": "c"}])
    assert [value["id"] for value in read(file)][-1] == "c"
    file.close()


def test_zeros_after_a_power_failure_are_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b'{"id": "a"}\n' + b'{"id": "b"' + bytes(100))
    file = line_file(path)
    assert [value["id"] for value in read(file)] == ["a"]
    file.close()


@pytest.mark.parametrize("content", [b"dear diary\n", b'{"name": 1}\n', b"half a", b'{"id": "a"}\n[]\n{"id": "b"}\n'])
def test_a_stranger_s_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    file = line_file(path)
    with pytest.raises(ConfigurationError, match="not written by a batch"):
        read(file)
    file.close()
    assert path.read_bytes() == content


def test_lines_are_accepted_before_the_torn_one_is_mended(tmp_path: Path) -> None:
    """A file of questions given as that of the results, say."""
    path = tmp_path / "f"
    content = b'{"id": "a", "message": "?"}\n{"id": "b", "message": "?"}'
    for kept in (content, content[:-5], content.splitlines()[1]):
        path.write_bytes(kept)
        file = line_file(path)
        with pytest.raises(ConfigurationError, match="not written by a batch"):
            file.read(Result.read)
        file.close()
        assert path.read_bytes() == kept


def test_looking_only_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f"
    file = line_file(path, look_only=True)
    assert read(file) == []
    file.close()
    assert not path.exists()
    path.write_bytes(b'{"id": "a"}\n{"id"')
    file = line_file(path, look_only=True)
    assert [value["id"] for value in read(file)] == ["a"]
    file.close()
    assert path.read_bytes() == b'{"id": "a"}\n{"id"'


def test_a_full_disk_leaves_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    file = line_file(path)
    file.append([{"id": "a"}])
    before = path.read_bytes()
    with full_disk(len(before) + 10), pytest.raises(OSError, match=str(path)):
        file.append([{"id": "b", "text": "long enough"}])
    assert path.read_bytes() == before
    file.append([{"id": "c"}])
    assert [value["id"] for value in read(file)] == ["a", "c"]
    file.close()


def test_a_file_is_discarded_by_who_has_made_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    first, second = line_file(path), line_file(path)
    second.discard()
    assert path.exists()
    first.lock()
    late = line_file(path)
    first.discard()
    assert not path.exists()
    # It has the lock of a file that nobody else will ever open.
    with pytest.raises(BatchLocked):
        late.lock()
    late.close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "r.journal"
    journal = Journal(path)
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # stays alive with whatever it inherited, until told to go
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        journal.close()
        Journal(path).close()
    finally:
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        for end in (*ready, *go):
            os.close(end)


# -- the journal

ROW = Row("a", ("one", "two"))
TURN = TurnResult("one", "1", "answered", 0.5)


def entry(turn: int = 0, started: str = "s1", at: float = 1.0, key: str = "k", digest: str = ROW.digest) -> Entry:
    return Entry("a", started, "session", turn, key, at, digest, "agent", (TURN,) * turn)


def reopened(path: Path, *entries: Entry) -> Journal:
    journal = Journal(path)
    journal.begin("http://server", used=False)
    journal.write(entries)
    journal.close()
    return Journal(path)


def test_the_last_entry_of_a_row_counts_with_its_earlier_turns(tmp_path: Path) -> None:
    journal = reopened(tmp_path / "j", entry(), entry(1, key="k2"), entry(1, at=9.0, key="k2"))
    assert journal.last == {"a": entry(1, at=9.0, key="k2")}
    assert journal.in_flight([ROW], []) == {"a": entry(1, at=9.0, key="k2")}
    journal.close()


def test_a_row_with_a_result_of_its_last_attempt_is_not_in_flight(tmp_path: Path) -> None:
    journal = reopened(tmp_path / "j", entry(started="s1"), entry(started="s2"))
    first = Result("a", "failed", started="s1")
    assert set(journal.in_flight([ROW], [first])) == {"a"}
    assert journal.in_flight([ROW], [first, Result("a", "answered", started="s2")]) == {}
    journal.close()


@pytest.mark.timeout(10)
def test_many_rows_in_flight_are_sorted_out_at_once(tmp_path: Path) -> None:
    """As where the results were lost: every row has an entry. What grows with their square takes a minute here."""
    names = [str(n) for n in range(20_000)]
    digest = Row("1", ("m",)).digest
    journal = Journal(Journal.beside(tmp_path / "r"))
    journal.write(Entry(name, "s1", "session", 0, "k", 1.0, digest) for name in names)
    journal.close()
    found = outlook(({"id": name, "message": "m"} for name in names), results=tmp_path / "r")
    assert found.in_flight == tuple(names)
    assert found.fresh == ()


def test_a_row_that_became_another_is_refused(tmp_path: Path) -> None:
    changed = Row("a", ("other",))
    journal = reopened(tmp_path / "j", entry())
    with pytest.raises(ConfigurationError, match="not what it was"):
        journal.in_flight([changed], [])
    with pytest.raises(ConfigurationError, match="not what it was"):
        journal.in_flight([changed], [Result("a", "answered", started="s1")])
    # One that failed may be put right.
    assert journal.in_flight([changed], [Result("a", "failed", started="s1")]) == {}
    journal.close()


def test_rows_in_flight_belong_to_their_server(tmp_path: Path) -> None:
    journal = reopened(tmp_path / "j", entry())
    journal.begin("http://server", used=True)
    with pytest.raises(ConfigurationError, match="asked at http://server, not at http://other"):
        journal.begin("http://other", used=True)
    journal.begin("http://other", used=False)
    journal.close()
    again = Journal(tmp_path / "j")
    assert again.server == "http://other"
    again.close()


def test_a_journal_from_the_future_and_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_text(json.dumps({"row": None, "version": 2, "server": "x"}) + "\n", "utf-8")
    with pytest.raises(ConfigurationError, match="newer version"):
        Journal(path)
    path.write_text(json.dumps({"row": "a", "turn": 1}) + "\n", "utf-8")
    with pytest.raises(ConfigurationError, match="line 1: this was not written by a batch"):
        Journal(path)
