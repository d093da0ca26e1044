"""The benchmark works: run once, short. How fast anything is, is no matter for a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# `scripts/bench.py` only adds the making of the environment, which this one is already.
pytestmark = [pytest.mark.full, pytest.mark.timeout(400), pytest.mark.skipif(os.name == "nt", reason="reads /proc")]

COLUMNS = {"parlant_sync", "parlant-client", "requests thread", "http.client"}


def bench(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], env=environment, capture_output=True, text=True, timeout=380
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_scenario_runs_and_is_reported(tmp_path: Path) -> None:
    plot = tmp_path / "bars.svg"
    found: dict[str, Any] = json.loads(bench("--quick", "--json", "--plot", str(plot)))
    rows = found["rows"]
    scenarios = {row["scenario"] for row in rows}
    expected = {"backlog", "latency", "turn-end", "closing", "idle", "many", "traffic", "attach", "calls"}
    expected |= {"startup", "batch"}
    assert scenarios == expected
    for row in rows:
        assert row["figures"].keys() <= COLUMNS
        assert "parlant_sync" in row["figures"]
        assert row["result"]
        assert row["bar"]
    assert found["machine"]["quick"] is True
    bars = ElementTree.parse(plot).getroot()
    assert bars.tag.endswith("svg")
    assert len(list(bars)) > len(rows)


def test_how_cost_grows_is_drawn(tmp_path: Path) -> None:
    bench("--quick", "--growth", str(tmp_path))
    for name in ("events", "memory", "sessions"):
        texts = [text.text or "" for text in ElementTree.parse(tmp_path / f"growth-{name}.svg").getroot().iter()]
        assert any(character.isdigit() for text in texts for character in text)


def test_the_table_of_one_scenario() -> None:
    """Requests are counted, so these verdicts hold on every machine."""
    table = bench("--quick", "--only", "traffic")
    verdicts = {what: "**met**" in line for line in table.splitlines() if (what := line[2:40].strip()) and "**" in line}
    verdicts.pop("Python calls of ours in one warm send()"[:38])
    assert list(verdicts.values()) == 4 * [True], table
    assert "mean nothing" in table
