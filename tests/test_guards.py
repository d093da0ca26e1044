"""The guards of conftest.py and the watchdog of setup.cfg do catch what they are there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

CASES = {
    "a thread of ours": (
        """
        import threading
        EVENT = threading.Event()
        def test_it():
            threading.Thread(target=EVENT.wait, args=(30,), name="parlant-sync-poll-x", daemon=True).start()
        """,
        "threads left behind: ['parlant-sync-poll-x']",
    ),
    "a socket": (
        """
        import socket
        KEPT = []
        def test_it():
            KEPT.append(socket.socket())
        """,
        "sockets left behind: ['socket:[",
    ),
    "a socket that was only dropped": (
        """
        import socket
        def test_it():
            socket.socket()
        """,
        "ResourceWarning: unclosed <socket.socket",
    ),
    "a thread that died": (
        """
        import threading
        def test_it():
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
        """,
        "PytestUnhandledThreadExceptionWarning",
    ),
}
HANGS = """
import threading
def waits_for_ever():
    threading.Event().wait(60)
def test_it():
    threading.Thread(target=waits_for_ever, name="the-other-thread", daemon=True).start()
    threading.Event().wait(60)
"""


def run(folder: Path, test: str, *arguments: str) -> tuple[int, str]:
    """Run one test file under this project's conftest and settings."""
    (folder / "conftest.py").write_text((HERE / "conftest.py").read_text("utf-8"), "utf-8")
    lines = test.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    (folder / "test_case.py").write_text("\n".join(line[indent:] for line in lines), "utf-8")
    command = [sys.executable, "-m", "pytest", "-c", str(HERE.parent / "setup.cfg"), "--rootdir", str(folder)]
    command += ["-p", "no:cacheprovider", *arguments, str(folder / "test_case.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", CASES)
def test_what_a_test_leaves_behind_fails_it(name: str, tmp_path: Path) -> None:
    test, complaint = CASES[name]
    code, output = run(tmp_path, test)
    assert code == 1, output
    assert complaint in output


def test_a_test_that_leaves_nothing_passes(tmp_path: Path) -> None:
    code, output = run(tmp_path, "def test_it(): pass")
    assert code == 0, output


def test_the_watchdog_shows_where_every_thread_is(tmp_path: Path) -> None:
    code, output = run(tmp_path, HANGS, "-o", "timeout=1")
    assert code == 1, output
    assert "Stack of the-other-thread" in output
    assert "in waits_for_ever" in output
    assert "Failed: Timeout" in output
