"""The end of the interpreter: under a second, and not a word on stderr, however the program ends."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.process_helpers import command, environment, run

from parlant_sync import Client
from parlant_sync.testing import FakeServer

WAYS = {
    "unclosed": 0,
    "closed": 0,
    "daemon readers": 0,
    "readers and close": 0,
    "daemon sends": 0,
    "an exception": 1,
    "sys.exit": 3,
    "a reader that was left": 0,
    "a global in a cycle": 0,
    "exception in a with": 1,
    "an open turn": 0,
    "a thread that makes clients": 0,
    "a server that does not answer": 0,
}
ways = pytest.mark.parametrize("way", WAYS, ids=[way.replace(" ", "-") for way in WAYS])


def end(server: FakeServer, way: str, python: str | Path = sys.executable, **more: str) -> tuple[float, int, str]:
    """How long it took from the word to end until the process was gone, its exit code, and its stderr."""
    session_id = server.create_session("quick")
    if way in ("daemon sends", "an open turn"):
        server.agent("quick").forget().waits("never")
    hold = server.hold_next("GET /agents/quick") if way == "a server that does not answer" else None
    process = subprocess.Popen(
        command("ending.py", server.base_url, session_id, way, python=python),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "READY\n":
            raise AssertionError(process.communicate(timeout=20)[1])
        server.wait_polls(5, timeout=20)
        started = time.monotonic()
        _, err = process.communicate("end\n", timeout=30)
        took = time.monotonic() - started
    finally:
        process.kill()
        process.wait()
        if hold is not None:
            hold.release()
    return took, process.returncode, err


def check(server: FakeServer, way: str, python: str | Path = sys.executable, **more: str) -> None:
    took, code, err = end(server, way, python, **more)
    assert code == WAYS[way]
    if code == 1:  # the program's own traceback, and nothing after it
        assert err.startswith("Traceback")
        assert err.endswith("LookupError: on purpose\n")
        assert err.count("Traceback") == 1
    else:
        assert err == ""
    assert took < 5.0  # well under a second on a machine with nothing else to do


@ways
def test_on_this_python(way: str, server: FakeServer) -> None:
    check(server, way)


def test_with_warnings_and_debugging(server: FakeServer) -> None:
    """``-X dev`` tells of every socket that was not closed."""
    took, code, err = end(server, "closed", PYTHONDEVMODE="1")
    assert (code, err) == (0, "")
    assert took < 5.0  # as above


def _others() -> list[str]:
    """The other Pythons that ``scripts/test.py --pythons all`` has made environments for."""
    root = Path(__file__).parent.parent.parent / ".venvs"
    found = [*sorted(glob.glob(str(root / "py3*" / "bin" / "python")))]
    given = os.environ.get("PARLANT_SYNC_PYTHONS", "")
    return [*found, *filter(None, given.split(os.pathsep))]


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("python", _others() or [pytest.param("", marks=pytest.mark.skip(reason="none at hand"))])
def test_on_every_python_at_hand(python: str, server: FakeServer) -> None:
    for way in WAYS:
        check(server, way, python)
        server.agent("quick").forget().echoes()
        server.wait_no_polls(timeout=20)


@pytest.mark.full
@pytest.mark.parametrize("python", _others() or [pytest.param("", marks=pytest.mark.skip(reason="none at hand"))])
def test_a_subinterpreter_is_a_clear_error(python: str, server: FakeServer) -> None:
    with Client(server.base_url) as client:
        session_id = client.create_session("quick").id
    done = run("interpreters.py", server.base_url.replace("127.0.0.1", "localhost"), session_id, python=python)
    if "InterpreterPoolExecutor" in done.err:
        pytest.skip("it has no InterpreterPoolExecutor")
    assert done.out == "True\n" * 3, done.err


def test_again_and_again(server: FakeServer) -> None:
    """What goes wrong at exit goes wrong now and then."""
    for _ in range(5):
        check(server, "daemon readers")
        server.wait_no_polls(timeout=20)
