"""The pytest plugin: ``parlant_server``, a FakeServer, and ``parlant_client``, a Client connected to it.

pytest imports the plugins of every installed package, in every project. So this one imports nothing until a fixture is
used: requests and ssl take half a second, which test runs without these fixtures should not pay. It would also be too
early for those that patch (gevent) or measure (coverage) what is imported.
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
    """A stand-in for a Parlant server, fresh for each test. Write agents on it: ``parlant_server.agent("support")``."""
    from parlant_sync.testing import FakeServer

    with FakeServer() as server:
        yield server


@pytest.fixture
def parlant_client(parlant_server: FakeServer) -> Iterator[Client]:
    """A ``parlant_sync.Client`` for ``parlant_server``, closed after the test: ``parlant_server.client()``."""
    client = parlant_server.client()
    try:
        yield client
    finally:
        client.close()
