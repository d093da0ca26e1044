"""What most tests of the core begin with: a stand-in server with agent "a", a client of it, and a new session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.waiting import Clock

from parlant_sync import Client, Session
from parlant_sync.testing import FakeServer


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[FakeServer]:
    """The newest, or those of a test's ``@pytest.mark.parametrize("server", [versions], indirect=True)``."""
    with FakeServer(getattr(request, "param", "3.3")) as server:
        server.agent("a")
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.base_url) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    return client.create_session("a")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed requests are repeated at once."""
    monkeypatch.setattr("parlant_sync._api.retry.jittered", lambda attempt: 0.0)
