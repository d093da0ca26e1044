"""The pytest plugin: ``parlant_server``, a FakeServer, and ``parlant_client``, a Client connected to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .server import FakeServer

if TYPE_CHECKING:
    from parlant_sync import Client


@pytest.fixture
def parlant_server() -> Iterator[FakeServer]:
    """A stand-in of a Parlant server, fresh for each test; write agents on it: ``parlant_server.agent("support")``."""
    with FakeServer() as server:
        yield server


@pytest.fixture
def parlant_client(parlant_server: FakeServer) -> Iterator[Client]:
    """A ``parlant_sync.Client`` for ``parlant_server``, closed after the test."""
    # Only here: a test run that uses no client does not load it.
    from parlant_sync import Client

    client = Client(parlant_server.base_url)
    try:
        yield client
    finally:
        client.close()
