"""The pytest plugin: ``parlant_server``, a FakeServer, and ``parlant_client``, a Client connected to it.

pytest imports the plugins of all that is installed, in every project. So this one imports nothing before a fixture is
used: requests and ssl would be half a second for test runs that want nothing of it, and too early for those that patch
(gevent) or measure (coverage) what is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from parlant_sync import Client
    from parlant_sync.testing import FakeServer


@pytest.fixture
def parlant_server() -> Iterator[FakeServer]:
    """A stand-in of a Parlant server, fresh for each test; write agents on it: ``parlant_server.agent("support")``."""
    from parlant_sync.testing import FakeServer

    with FakeServer() as server:
        yield server


@pytest.fixture
def parlant_client(parlant_server: FakeServer) -> Iterator[Client]:
    """A ``parlant_sync.Client`` for ``parlant_server``, closed after the test. It waits 30 s for a turn."""
    from parlant_sync import Client

    # The stand-in answers in milliseconds: who waits longer waits in vain (an unknown customer, a gate left shut).
    client = Client(parlant_server.base_url, turn_timeout=30)
    try:
        yield client
    finally:
        client.close()
