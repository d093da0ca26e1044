"""gevent, monkey-patched: a program with eight conversations at once, its server in another process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from parlant_sync.testing import FakeServer

pytest.importorskip("gevent", reason="gevent is in the extra 'test'")
PROGRAM = Path(__file__).parent / "programs" / "gevent_talk.py"


@pytest.mark.slow
def test_a_conversation_under_gevent() -> None:
    with FakeServer() as server:
        server.agent("slow").echoes().after(0.05)
        server.agent("mute").ignores()
        command = [sys.executable, "-W", "error", str(PROGRAM), server.base_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(r"closed 9 sessions in \d+ ms\n", done.stdout)
        server.wait_no_polls()
