"""Notebooks: the package is reloaded between two cells, as ``%autoreload 2`` does."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from support.process_helpers import ROOT, run

from parlant_sync.testing import FakeServer


@pytest.mark.timeout(100)
def test_autoreload(server: FakeServer, tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason="IPython is in the extra 'test'")
    server.agent("quick").echoes()
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "parlant_sync", copy / "parlant_sync", ignore=shutil.ignore_patterns("__pycache__"))
    done = run("notebook.py", str(copy), server.base_url, timeout=90)
    assert (done.code, done.out.splitlines()[-1]) == (0, "READY caught"), done.out + done.err


@pytest.mark.full
@pytest.mark.timeout(100)
def test_a_kernel_of_jupyter(server: FakeServer) -> None:
    """``$PARLANT_SYNC_PATCHED_PYTHON``, which ``--full`` makes, has one."""
    done = run("jupyter.py", server.base_url, python=os.environ.get("PARLANT_SYNC_PATCHED_PYTHON", sys.executable))
    if done.code == 77:
        pytest.skip("Jupyter is not installed")
    assert (done.code, done.out) == (0, "READY\n"), done.out + done.err
    server.wait_no_polls(timeout=20)
