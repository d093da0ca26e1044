"""Sends after a pause: servers close idle connections after 4 to 5 s, and no send may be lost on one of those."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.fault_backends import Backend, connected
from support.fault_sends import SEED, manual_session

from parlant_sync._http import adapter


class _Clock:
    """Moves by hand: what the pool believes to have passed."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


def test_500_sends_after_pauses_on_connections_that_are_stale(fake: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of 3 to 6 s by the clock of the pool; the server resets whatever comes on a connection that idled.

    That is the worst moment of the race with a server that closes idle connections: the request is under way.
    """
    clock = _Clock()
    monkeypatch.setattr(adapter, "time", clock)
    chance = random.Random(SEED)
    with connected(fake) as (proxy, client):
        session = manual_session(fake, client)
        proxy.cut_request(0, lambda e: e.kind == "post" and e.reused, times=float("inf"))
        for number in range(500):
            clock.ahead += chance.uniform(3, 6)
            session.post(f"message {number}")
        assert not any(exchange.fault for exchange in proxy.of("post"))
        texts = [e["data"]["message"] for e in fake.events(session.id) if e["kind"] == "message"]
        assert texts == [f"message {number}" for number in range(500)]


def test_quick_sends_share_a_connection(fake: Backend) -> None:
    """The other side of it: within 2 s a connection is used again."""
    with connected(fake) as (proxy, client):
        session = manual_session(fake, client)
        for number in range(5):
            session.post(f"message {number}")
        assert sum(exchange.reused for exchange in proxy.of("post")) >= 4


@pytest.mark.parametrize("count", [pytest.param(40, marks=pytest.mark.slow), pytest.param(500, marks=pytest.mark.full)])
@pytest.mark.real
@pytest.mark.timeout(600)
def test_sends_after_real_pauses(count: int, real: Backend) -> None:
    """Against the real server, which closes idle connections after 4 to 5 s; the pauses are the subject here."""
    never = threading.Event()
    workers = 40
    with connected(real) as (_, client):

        def worker(number: int) -> int:
            chance = random.Random(SEED + number)
            session = manual_session(real, client)
            for at in range(-(-count // workers)):
                session.post(f"message {at}")
                never.wait(chance.uniform(3, 6))
                assert session.post(f"after {at}").message == f"after {at}"
            held = [e for e in real.events(session.id) if e["kind"] == "message"]
            assert len(held) == 2 * -(-count // workers)
            return len(held) // 2

        with ThreadPoolExecutor(workers) as pool:
            assert sum(pool.map(worker, range(workers))) >= count
