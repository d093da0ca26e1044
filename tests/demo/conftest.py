"""What the tests of the demo server share: the interpreter it runs in, and one running server."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator

import pytest
from support.demo_wire import Wire

from parlant_sync.demo.launcher import DemoServer


@pytest.fixture(scope="session")
def server_python() -> str:
    """The interpreter that has the Parlant to test with; another version's by an environment variable."""
    return os.environ.get("PARLANT_SYNC_SERVER_PYTHON", sys.executable)


@pytest.fixture(scope="package")
def server(server_python: str) -> Iterator[DemoServer]:
    """A server with all agents, for tests that do it no harm."""
    with DemoServer(python=server_python, test_agents=True) as running:
        yield running


@pytest.fixture
def wire(server: DemoServer) -> Wire:
    return Wire(server)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No test leaves a thread; pipes and processes left behind are ResourceWarnings, which are failures."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not left, left
