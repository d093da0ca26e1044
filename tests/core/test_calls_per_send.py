"""What a send() costs in this process: Python calls, and files crossed. Counts do not depend on the machine's speed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

import parlant_sync
from parlant_sync import Client, Session

PACKAGE = str(Path(parlant_sync.__file__).parent)
# Measured on Python 3.11 (docs/performance.md), and a tenth more for what depends on the order of events.
MOST_CALLS, MOST_FILES = 245, 15
# For failures, limits, arguments that were not given, and OpenTelemetry.
NOT_ENTERED = {"/_api/retry.py", "/_api/rate_limit.py", "/_validation.py", "/_tracing.py"}

# In a process of its own, so that none of its calls are counted.
SERVER = """
import sys
from parlant_sync.testing import FakeServer
with FakeServer() as server:
    server.agent("echo")
    print(server.base_url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def session() -> Iterator[Session]:
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        with Client(process.stdout.readline().strip()) as client:
            yield client.create_session("echo")
        assert process.stdin is not None
        process.stdin.close()


def calls_of_a_send(session: Session) -> Counter[str]:
    """How many calls the calling thread makes in each of our files."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        # Comprehensions and generators are frames of their own on some Pythons.
        if event == "call" and name.startswith(PACKAGE) and not frame.f_code.co_name.startswith("<"):
            calls[name.removeprefix(PACKAGE)] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        reply = session.send("x")
    finally:
        sys.setprofile(before)
    assert reply.outcome == "answered"
    return calls


def test_a_send_stays_short(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    session.send("warm")
    best = min((calls_of_a_send(session) for _ in range(5)), key=Counter.total)
    assert best.total() <= MOST_CALLS, best.most_common()
    assert len(best) <= MOST_FILES, sorted(best)
    assert not NOT_ENTERED & set(best)
    assert best.total() > 50  # it was counted at all
