"""What the tests of faults share: servers, the fault proxy before them, a client, and quick retries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from support.fault_backends import Backend, fake_backend
from support.fault_proxy import FaultProxy

from parlant_sync import Client
from parlant_sync._api import posting, retry
from parlant_sync.demo.launcher import DemoServer
from parlant_sync.testing import FakeServer


@pytest.fixture(scope="session")
def real_server() -> Iterator[DemoServer]:
    with DemoServer(python=os.environ.get("PARLANT_SYNC_SERVER_PYTHON", sys.executable), test_agents=True) as server:
        yield server


@pytest.fixture
def real(real_server: DemoServer) -> Backend:
    return Backend(real_server.base_url)


@pytest.fixture
def fake() -> Iterator[Backend]:
    with FakeServer() as server:
        yield fake_backend(server)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each test that asks for it runs against the stand-in and against the real server."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(backend: Backend) -> Iterator[FaultProxy]:
    with FaultProxy(backend.base_url) as made:
        yield made


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[Client]:
    with Client(proxy.base_url) as made:
        yield made


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hundredths of a second: what is tested is what happens after them."""
    monkeypatch.setattr(retry, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.2)


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there in the first looks will not be there: nothing is under way behind these cuts."""
    monkeypatch.setattr(posting, "LOOKS", (0.0, 0.1, 0.2))
