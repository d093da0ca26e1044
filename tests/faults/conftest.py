"""What the tests of faults share: servers, the fault proxy before them, a client, and quick retries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fault_backends import Backend, fake_backend
from support.shared_servers import SharedServer

from parlant_sync._api import posting, retry
from parlant_sync.testing import FakeServer


@pytest.fixture
def real(demo: SharedServer) -> Backend:
    return Backend(demo.base_url)


@pytest.fixture
def fake() -> Iterator[Backend]:
    with FakeServer() as server:
        yield fake_backend(server)


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.real, pytest.mark.full])])
def backend(request: pytest.FixtureRequest) -> Backend:
    """The stand-in; with ``--full`` the real server as well."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def both(request: pytest.FixtureRequest) -> Backend:
    """The stand-in and the real server, in every run: for one test of each kind of fault."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hundredths of a second: what is tested is what happens after them."""
    monkeypatch.setattr(retry, "SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(retry, "LONGEST_PAUSE", 0.2)


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there in the first looks will not be there: nothing is under way behind these cuts."""
    monkeypatch.setattr(posting, "LOOKS", (0.0, 0.1, 0.2))
