"""What stands for urllib3's queue of idle connections."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from unittest.mock import patch

import pytest
import requests
from support.raw_api import in_background
from support.raw_server import RawServer, answer

from parlant_sync import Client
from parlant_sync._http.adapter import Idle
from parlant_sync.testing import FakeServer


def test_the_last_that_came_is_the_first_to_go() -> None:
    idle = Idle(2)
    with pytest.raises(queue.Empty):
        idle.get(block=False)
    with pytest.raises(queue.Empty):  # it never waits
        idle.get(block=True, timeout=60)
    first, second, third = (HTTPConnection("localhost") for _ in range(3))
    idle.put(None, block=False)
    idle.put(first, block=False)
    idle.put(second, block=False)
    assert idle.qsize() == 2
    with patch.object(first, "close") as close:
        idle.put(third, block=False)
    close.assert_called_once_with()
    assert [idle.get(block=False), idle.get(block=False), idle.qsize()] == [third, second, 0]


def test_more_threads_than_connections_are_kept_log_no_warnings(
    parlant_server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(70)

    def request(client: Client) -> None:
        together.wait(20)
        client.agents()

    with Client(parlant_server.base_url) as client, ThreadPoolExecutor(70) as pool:
        list(pool.map(request, [client] * 70))
    assert caplog.records == []


def test_many_threads_lose_nothing() -> None:
    idle: Any = Idle(64)
    for number in range(32):
        idle.put(number)

    def churn() -> None:
        for _ in range(2000):
            idle.put(idle.get())

    for churning in [in_background(churn) for _ in range(8)]:
        churning.result()
    assert sorted(idle.get() for _ in range(32)) == list(range(32))


def test_a_session_that_asks_another_server_inside_of_its_requests(parlant_server: FakeServer) -> None:
    """As OAuth2Session does, for a new token: never over the connection to this server, nor the other way round."""

    class Refreshing(requests.Session):
        def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
            if url != f"{tokens.base_url}/token":
                assert self.get(f"{tokens.base_url}/token", timeout=5).text == "token"
            return super().request(method, url, *args, **kwargs)

    parlant_server.agent("a")
    with RawServer(lambda *_: answer(b"token")) as tokens:
        with Client(parlant_server.base_url, session_factory=Refreshing) as client:
            session = client.create_session("a")
            for text in ("one", "two", "three"):
                assert session.send(text, timeout=10).text == f"echo: {text}"
            assert session.health.last_error is None
        assert {head.split()[1] for head, _ in tokens.requests} == {b"/token"}
