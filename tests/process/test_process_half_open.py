"""A server that vanishes from the network in the middle of a turn: real interfaces, and packets that nobody answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from support.process_helpers import command, environment

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
TOOLS = all(shutil.which(name, path=PATH) for name in ("unshare", "ip", "ss"))


def _may_unshare() -> bool:
    return TOOLS and subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux" or not _may_unshare(), reason="needs root, iproute2 and util-linux")
@pytest.mark.parametrize("moment", ["asked", "acknowledged"])
def test_a_poll_that_died_in_a_turn_is_noticed_after_half_a_minute(moment: str) -> None:
    """And not after the 70 s that a poll may take."""
    done = subprocess.run(
        ["unshare", "-n", *command("half_open.py", moment)],
        capture_output=True,
        text=True,
        timeout=110,
        env=environment(PATH=PATH),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 20 < float(done.stdout) < 45
