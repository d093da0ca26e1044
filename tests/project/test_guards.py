"""The guards of conftest.py and the watchdog of setup.cfg do catch what they are there for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parents[1]

# What a test does, and what its report must say; nothing: it passes.
CASES = {
    "nothing": ("def test_it(): pass", ""),
    "thread": (
        """
        import threading
        def test_it():
            threading.Thread(target=threading.Event().wait, args=(10,), name="parlant-sync-poll-x", daemon=True).start()
        """,
        "left behind: ['parlant-sync-poll-x']",
    ),
    "socket": (
        """
        import socket
        KEPT = []
        def test_it():
            KEPT.append(socket.socket())
        """,
        "left behind: ['socket:[",
    ),
    "dropped": (
        """
        import socket
        def test_it():
            socket.socket()
        """,
        "ResourceWarning: unclosed <socket.socket",
    ),
    "died": (
        """
        import threading
        def test_it():
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
        """,
        "PytestUnhandledThreadExceptionWarning",
    ),
    "hangs": (
        """
        import threading
        import pytest
        def waits_for_ever():
            threading.Event().wait(10)
        @pytest.mark.timeout(1)
        def test_it():
            threading.Thread(target=waits_for_ever, name="the-other-thread", daemon=True).start()
            threading.Event().wait(10)
        """,
        "Failed: Timeout",
    ),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """All cases under this project's conftest and settings: the report of each, and what was printed."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "conftest.py").write_text((HERE / "conftest.py").read_text("utf-8"), "utf-8")
    for name, (test, _) in CASES.items():
        (folder / f"test_{name}.py").write_text(textwrap.dedent(test), "utf-8")
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-c", str(HERE.parent / "setup.cfg"), "--rootdir", str(folder)]
    command += ["-p", "no:cacheprovider", f"--junit-xml={report}", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}  # for tests/support
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=folder, env=environment)
    found: dict[str, str] = dict.fromkeys(CASES, "")
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = (case.get("classname") or "").removeprefix("test_")
        found[name] += "".join(f"{part.get('message')}\n{part.text}" for part in case)
    return found, done.stdout + done.stderr


@pytest.mark.parametrize("name", CASES)
def test_what_a_test_leaves_behind_fails_it(run: tuple[dict[str, str], str], name: str) -> None:
    reports, output = run
    complaint = CASES[name][1]
    if complaint:
        assert complaint in reports[name], output
    else:
        assert reports[name] == ""


def test_the_watchdog_shows_where_every_thread_is(run: tuple[dict[str, str], str]) -> None:
    _, output = run
    assert "Stack of the-other-thread" in output
    assert "in waits_for_ever" in output
