"""Batches killed (SIGKILL) at random moments under faults: a sample of ``scripts/soak.py --batch-kills 500``."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("PARLANT_SYNC_SEED", "5"))


@pytest.fixture
def soaking(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module("soaking.batch")


@pytest.mark.parametrize("kills", [pytest.param(4, id="sample"), pytest.param(500, marks=pytest.mark.full, id="full")])
@pytest.mark.timeout(3600)
def test_killed_batches_under_faults_double_lose_and_fail_nothing(soaking: Any, kills: int) -> None:
    with FakeServer() as server:
        server.agent("quick")
        verdict = soaking.run(server.base_url, kills=kills, seed=SEED, say=print)
    assert verdict.kills >= kills
    assert verdict.faults
    assert verdict.findings == []
