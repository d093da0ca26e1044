"""What the tests of processes share: a stand-in server that other processes talk to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from parlant_sync.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        fake.agent("quick").echoes()
        fake.agent("mute").ignores()
        yield fake
