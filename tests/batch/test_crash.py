"""Crashes at each place where the batch touches its files, and once more while it recovers."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support import crashing
from support.batch_checks import posted, results_of

from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.slow


def run_until(server: FakeServer, results: Path, at: int, how: str) -> bool:
    """Whether it came to its end before that step."""
    command = [sys.executable, crashing.__file__, server.base_url, str(results), str(at), how]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode in (0, crashing.CRASHED), ended.stderr
    return ended.returncode == 0


HOWS = ("before", "halfway", "after")
SAMPLE = pytest.param(5, HOWS, id="sample")
ALL = [pytest.param(1, (how,), id=how, marks=pytest.mark.full) for how in HOWS]


@pytest.mark.parametrize(("every", "hows"), [SAMPLE, *ALL])
@pytest.mark.timeout(600)
def test_a_crash_at_any_write_costs_no_row_and_asks_none_twice(
    tmp_path: Path, every: int, hows: tuple[str, ...]
) -> None:
    ended = False
    at = 1
    while not ended:
        how = hows[at // every % len(hows)]
        with FakeServer() as server:
            server.agent("a")
            path = tmp_path / f"{at}.jsonl"
            ended = run_until(server, path, at, how)
            run_until(server, path, 1 + at % 4, how)
            assert run_until(server, path, 0, how)
            results = results_of(path)
            assert {r["id"]: [turn["text"] for turn in r["turns"]] for r in results} == {
                row["id"]: [f"echo: {message}" for message in row["messages"]] for row in crashing.ROWS
            }, at
            assert len(results) == len(crashing.ROWS), at
            assert posted(server.base_url) == Counter(m for row in crashing.ROWS for m in row["messages"]), at
        at += every
    assert at > 10, "nothing was seen to crash"
