"""What the tests of the demo server share: raw HTTP to the shared server, and a check for leaks."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from support.demo_wire import Wire
from support.shared_servers import SharedServer


@pytest.fixture
def wire(demo: SharedServer) -> Wire:
    return Wire(demo)


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No test leaves a thread; pipes and processes left behind are ResourceWarnings, which are failures."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not left, left
