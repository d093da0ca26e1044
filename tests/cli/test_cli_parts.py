"""The parts that the commands are made of, each by itself."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from parlant_sync.cli import state as statefiles
from parlant_sync.cli.commands import demo
from parlant_sync.cli.errors import CommandError
from parlant_sync.cli.output import one_line, visible
from parlant_sync.cli.terminal import Paragraphs, width

FIELDS: dict[str, type] = {"next_offset": int}


def test_visible_leaves_text_alone() -> None:
    text = "plain\ttext\nзнаки 日本 👩\u200d👩\u200d👧 e\u0301 \u200c"
    assert visible(text) == text


@pytest.mark.parametrize(
    "code", [0, 7, 8, 0x0B, 0x0D, 0x1B, 0x7F, 0x80, 0x9B, 0x9F, 0x61C, 0x200E, 0x2028, 0x202E, 0x2066]
)
def test_visible_shows_what_steers(code: int) -> None:
    shown = visible(f"a{chr(code)}b")
    assert shown.isascii()
    assert shown == f"a{chr(code).encode('unicode_escape').decode()}b".replace("\\r", "\\x0d")


def test_one_line() -> None:
    assert one_line("a\r\n b\t c\x1b") == "a b c\\x1b"
    assert one_line("x" * 50, 10) == "xxxxxxx..."


def wrapped(*pieces: str, columns: int = 20) -> str:
    out: list[str] = []
    paragraphs = Paragraphs(out.append, columns=columns)
    for piece in pieces:
        paragraphs.feed(piece)
    paragraphs.end()
    return "".join(out)


def test_paragraphs_break_between_words() -> None:
    text = "some words that do not fit into one line\n\nand a second paragraph"
    expected = "    some words that\n    do not fit into\n    one line\n\n    and a second\n    paragraph\n"
    assert wrapped(text) == expected
    # However it is cut into pieces.
    assert wrapped(*text) == expected
    assert all(len(line) < 20 for line in wrapped(*text).splitlines())


def test_paragraphs_with_wide_and_endless_words() -> None:
    lines = wrapped("日本の介護保険制度について", "x" * 40).splitlines()
    assert all(width(line) < 20 for line in lines)
    assert "".join(line.strip() for line in lines) == "日本の介護保険制度について" + "x" * 40


def test_paragraphs_show_a_word_as_soon_as_it_is_whole() -> None:
    out: list[str] = []
    paragraphs = Paragraphs(out.append)
    paragraphs.feed("one tw")
    assert "".join(out) == "    one"
    paragraphs.feed("o ")
    assert "".join(out) == "    one two"


def test_paragraphs_do_not_collect_a_word_of_marks_alone() -> None:
    """It takes no column, and would never end; looking at it again for each mark took 14 s for 200,000 of them."""
    out: list[str] = []
    paragraphs = Paragraphs(out.append)
    paragraphs.feed("\u0301" * 200_000)
    assert len("".join(out)) > 199_000


# -- state files


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "state.json"
    statefiles.write(path, "cursor", {"next_offset": 3})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(statefiles.os, step, fail)
        with pytest.raises(OSError, match="No space left") as caught:
            statefiles.write(path, "cursor", {"next_offset": 4})
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["state.json"]


def test_the_file_is_on_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(statefiles.os, name, lambda *a, real=real, name=name: (steps.append(name), real(*a))[1])
    statefiles.write(tmp_path / "state.json", "cursor", {"next_offset": 3})
    assert steps == ["fsync", "replace", "fsync"]  # the content, the name, the folder


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    """As mktemp makes it."""
    (tmp_path / "state.json").write_text("")
    assert statefiles.read(tmp_path / "state.json", "cursor", FIELDS) is None


def test_all_new_folders_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        statefiles.write(tmp_path / "a/b/c/state.json", "cursor", {})
    finally:
        os.umask(before)
    for name in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert statefiles.default_directory() == Path("/somewhere/parlant-sync")
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", unusable)
        assert statefiles.default_directory() == Path.home() / ".local/state/parlant-sync"


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid")
@pytest.mark.timeout(30)
def test_the_watch_over_the_demo_server_ends_where_its_exit_status_was_taken_already() -> None:
    """After Ctrl-C the launcher takes it, perhaps before the thread that watches has begun to wait."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    ended: Any = SimpleNamespace(pid=process.pid, log="")
    with pytest.raises(CommandError, match="ended by itself"):
        demo._wait_for_end(ended)
