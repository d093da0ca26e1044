"""``fork``: at any moment, with any lock held, the child works and the parent loses nothing."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.process_helpers import PROGRAMS, gunicorn, run

from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.skipif("sys.platform == 'win32'", reason="there is no fork")
# Those that are known; the walk finds more.
LOCKS = [f"{owner}._lock" for owner in "transport list_limiter poller slot hub".split()]
LOCKS += ["mailbox.mutex", "].lock"]  # the last is the registry's


@pytest.mark.timeout(180)
def test_fork_while_every_lock_of_ours_is_held(server: FakeServer) -> None:
    done = run("fork_locks.py", server.base_url, "quick", timeout=170)
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, ""), done.out + done.err
    assert lines[0].startswith("READY"), done.out
    for name in LOCKS:
        assert any(name in line for line in lines[1:]), (name, lines)


def test_multiprocessing_with_fork(server: FakeServer) -> None:
    done = run("pool_workers.py", server.base_url)
    assert (done.code, done.err) == (0, ""), done.out + done.err
    assert done.out.startswith("READY")


def test_gunicorn_preload_with_a_client_of_the_module(server: FakeServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    app = ("preloaded_app:application", "--preload")
    with gunicorn(PROGRAMS, log, *app, workers=2, SERVER=server.base_url) as url:

        def ask(say: str, session: str = "") -> Any:
            query = urllib.parse.urlencode({"say": say, "session": session})
            with urllib.request.urlopen(f"{url}/?{query}", timeout=30) as answer:
                return json.load(answer)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, [f"hello {number}" for number in range(24)]))
        assert [a["text"] for a in answers] == [f"echo: hello {number}" for number in range(24)]
        assert {a["first"] for a in answers} == {"echo: from the master"}
        assert all(a["pid"] != a["master"] for a in answers)
        # A conversation goes on, whichever worker gets the next request.
        session = answers[0]["session"]
        for number in range(6):
            assert ask(f"again {number}", session)["text"] == f"echo: again {number}"
    for word in ("Traceback", "TIMEOUT", "killed"):
        assert word not in log.read_text(), log.read_text()
