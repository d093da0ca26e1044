"""What the tests of faults share: servers, the fault proxy before them, a client, and quick retries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fault_backends import Backend, fake_backend
from support.fault_proxy import FaultProxy
from support.shared_servers import SharedServer

from parlant_sync import Client
from parlant_sync._api import posting, retry
from parlant_sync.testing import FakeServer


@pytest.fixture
def real(demo: SharedServer) -> Backend:
    return Backend(demo.base_url)


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
