"""The servers that the commands talk to: one real one for all tests, and the stand-in for what that cannot show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli_runs import Cli
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer


@pytest.fixture
def real(demo: SharedServer, tmp_path: Path) -> Cli:
    """Commands against the real server."""
    return Cli(demo.base_url, tmp_path)


@pytest.fixture
def fake(parlant_server: FakeServer, tmp_path: Path) -> Cli:
    """Commands against the stand-in of this test (``parlant_server``)."""
    return Cli(parlant_server.base_url, tmp_path)


@pytest.fixture
def nowhere(tmp_path: Path) -> Cli:
    """Commands without a server: port 1 refuses."""
    return Cli("http://127.0.0.1:1", tmp_path)


@pytest.fixture
def new_session(real: Cli) -> Callable[..., str]:
    """The id of a new session on the real server, with an agent of its."""

    def make(agent: str = "quick") -> str:
        return real.run("sessions", "create", "--agent-id", agent).out.strip()

    return make
