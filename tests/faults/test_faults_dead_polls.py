"""A poll whose connection has died without a word: what was posted meanwhile is not waited for in vain."""

from __future__ import annotations

import time

import pytest
from support.fault_backends import Backend, connected, polling
from support.waiting import Background

from parlant_sync import Client
from parlant_sync._http.connection import RunningRequest
from parlant_sync.testing import FakeServer


def test_send_gets_its_answer(both: Backend) -> None:
    with connected(both) as (proxy, client):
        session = client.create_session("quick")
        dead = proxy.swallow("poll")  # its answer never arrives; the next poll works
        polling(proxy, session)
        started = time.monotonic()
        assert session.send("hello", timeout=30).text
        assert time.monotonic() - started < 10
        assert len(dead.wait()) == 1
        # Asked again from the same offset, so nothing is lost.
        assert [poll.min_offset for poll in proxy.of("poll")][:2] == [0, 0]


def test_a_reader_that_waits_already_gets_what_another_thread_posts(backend: Backend) -> None:
    with connected(backend) as (proxy, client):
        session = client.create_session("quick")
        proxy.swallow("poll")
        polling(proxy, session)
        reader = session.iter_events(timeout=30)
        reading = Background(next, reader)
        session.post("to whom it may concern")
        assert reading.result(10).message == "to whom it may concern"


def test_a_poll_that_works_is_never_cut(
    parlant_server: FakeServer, parlant_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No extra request in the ordinary case."""
    kicks: list[float] = []
    kick = RunningRequest.kick

    def counted(self: RunningRequest) -> None:
        kicks.append(time.monotonic())
        kick(self)

    monkeypatch.setattr(RunningRequest, "kick", counted)
    parlant_server.agent("quick").replies("Yes")
    session = parlant_client.create_session("quick")
    for _ in range(3):
        assert session.send("hello", timeout=30).text == "Yes"
    assert kicks == []
