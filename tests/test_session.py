"""The session itself: how it ends, and what those hear who are inside of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from parlant_sync import Client, Session, SessionClosed
from parlant_sync.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.agent("a")
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.base_url) as client:
        yield client


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda client, session: session.delete(), "was deleted; make a new one"),
        (lambda client, session: client.delete_session(session.id), "was deleted; make a new one"),
        (lambda client, session: session.close(), "was closed; client.session"),
    ],
    ids=["delete", "delete_session", "close"],
)
def test_a_call_under_way_hears_why_it_was_cut(
    server: FakeServer, client: Client, end: Callable[[Client, Session], None], told: str
) -> None:
    polls = server.hold_next(lambda request: request.waits, times=None)  # or a poll may be the first to tell of a 404
    session = client.create_session("a")
    hold = server.hold_next(lambda request: request.method == "GET" and request.path == f"/sessions/{session.id}")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(session.refresh)
        hold.wait()
        end(client, session)
        with pytest.raises(SessionClosed, match=told):
            reading.result(5)
    hold.release()
    polls.release()
