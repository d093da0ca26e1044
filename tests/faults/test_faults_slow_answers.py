"""Answers that never end: every request as a whole has an end, by the monotonic clock."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
from support.fault_backends import Backend, connected, polling, take

from parlant_sync import TransportError
from parlant_sync._http.connection import RunningRequest
from parlant_sync._polling import poller

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
def short_polls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A poll's whole time is wait + slack = 1.5 s here, 70 s by default."""
    monkeypatch.setattr(poller, "POLL_SLACK", 0.5)
    return {"poll_wait": 1}


def _next_poll_after(proxy: Any, number: int) -> Any:
    proxy.wait(lambda: any(e.number > number for e in proxy.of("poll")), what="the next poll")
    return next(e for e in proxy.of("poll") if e.number > number)


def test_a_body_that_drips_ends_with_the_poll_s_time(short_polls: dict[str, Any], both: Backend) -> None:
    """A byte every 0.05 s: no single read is late, the whole would take half a minute."""
    with connected(both, **short_polls) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
        order = proxy.drip(0.05)
        started = time.monotonic()
        both.custom(session.id)
        dripping = order.wait()[0]
        following = _next_poll_after(proxy, dripping.number)

        assert following.min_offset == dripping.min_offset == 0
        assert following.started - dripping.started < 1.5 + 1.0
        assert [event.offset for event in take(session, 1)] == [0]
        assert time.monotonic() - started < 10


@pytest.mark.full
def test_the_slack_as_it_is(fake: Backend) -> None:
    """wait + 10 s, for real."""
    with connected(fake, poll_wait=1) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
        order = proxy.drip(0.2)
        fake.custom(session.id, 1)
        dripping = order.wait()[0]
        proxy.wait(lambda: any(e.number > dripping.number for e in proxy.of("poll")), 20)
        following = next(e for e in proxy.of("poll") if e.number > dripping.number)
        assert 10.5 < following.started - dripping.started < 13
        assert following.min_offset == dripping.min_offset


def test_a_call_whose_body_drips_ends_with_its_time(fake: Backend) -> None:
    with connected(fake, request_timeout=0.5) as (proxy, client):
        session = client.create_session("quick")
        fake.custom(session.id, 3)
        proxy.drip(0.02, "list", times=float("inf"))
        started = time.monotonic()
        with pytest.raises(TransportError, match="in time"):
            session.history()
        assert time.monotonic() - started < 2


def test_a_connection_that_is_dead_without_a_word(short_polls: dict[str, Any], backend: Backend) -> None:
    """Half-open: the answer is lost and no FIN ever comes."""
    with connected(backend, **short_polls) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
        order = proxy.swallow("poll", statuses=frozenset({200}))
        backend.custom(session.id)
        lost = order.wait()[0]
        following = _next_poll_after(proxy, lost.number)
        assert following.min_offset == lost.min_offset == 0
        assert following.started - lost.started < 1.5 + 1.0
        assert [event.offset for event in take(session, 1)] == [0]


def test_headers_that_drip_end_with_the_poll_s_time(short_polls: dict[str, Any], fake: Backend) -> None:
    with connected(fake, **short_polls) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
        order = proxy.drip(0.05, head=True)
        fake.custom(session.id)
        dripping = order.wait()[0]
        following = _next_poll_after(proxy, dripping.number)
        assert following.min_offset == dripping.min_offset == 0
        assert following.started - dripping.started < 1.5 + 1.0


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="not on this system")
def test_every_connection_is_kept_alive_by_tcp(monkeypatch: pytest.MonkeyPatch, fake: Backend) -> None:
    """So that the kernel finds a dead peer within half a minute. What comes of it: test_process_half_open.py."""
    found: list[tuple[int, ...]] = []
    publish = RunningRequest.publish

    def noting(slot: RunningRequest, sock: socket.socket, **options: Any) -> None:
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        found.append(tuple(sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names))
        publish(slot, sock, **options)

    monkeypatch.setattr(RunningRequest, "publish", noting)
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
    assert len(found) >= 2  # a call's and the poll's
    for idle, interval, count in found:
        assert idle + interval * count == 30
