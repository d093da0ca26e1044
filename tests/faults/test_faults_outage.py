"""The server is gone for a while, or its name is: every session goes on, and not all at once."""

from __future__ import annotations

import socket
import statistics
import time
from typing import Any

import pytest
from support.fault_backends import Backend, connected, polling, take

from parlant_sync import Client, TransportError
from parlant_sync._api import retry
from parlant_sync.testing import FakeServer


@pytest.mark.usefixtures("quick_retries")
def test_every_session_goes_on_after_an_outage(both: Backend) -> None:
    with connected(both) as (proxy, client):
        sessions = [client.create_session("quick") for _ in range(5)]
        readers = [session.iter_events(timeout=30) for session in sessions]
        for session in sessions:
            polling(proxy, session)
        proxy.down()
        proxy.wait(lambda: all(s.health.consecutive_failures >= 3 for s in sessions), what="three failures each")
        for session in sessions:
            both.custom(session.id, 2)  # while nobody can see it
        with pytest.raises(TransportError, match=r"refused|check that a Parlant server answers"):
            sessions[0].send("into the void", timeout=0.5)
        proxy.up()
        for session, reader in zip(sessions, readers, strict=True):
            assert [event.offset for event in take(session, 2, reader)] == [0, 1]
            assert session.send("back again", timeout=60).text == "echo: back again"
            assert both.messages(session.id, "into the void") == []
            assert session.health.consecutive_failures == 0
            assert session.health.reconnects >= 1


@pytest.mark.timeout(200)
@pytest.mark.full
def test_a_minute_without_a_server(fake: Backend) -> None:
    """As it is: pauses up to 10 s; all are back within 10 s and a little."""
    with connected(fake) as (proxy, client):
        sessions = [client.create_session("quick") for _ in range(20)]
        proxy.down()
        begun = time.monotonic()
        before = client.stats().polls
        proxy.wait(lambda: time.monotonic() - begun > 60, 70)
        asked = (client.stats().polls - before) / len(sessions)
        assert asked < 20  # 60 s of pauses that grow to 10 s with full jitter
        proxy.up()
        up = time.monotonic()
        proxy.wait(lambda: fake.fake is not None and fake.fake.polls == len(sessions), 15)
        assert time.monotonic() - up < 12
        for session in sessions:
            assert session.send("back", timeout=60).text == "echo: back"


def test_the_pause_grows_to_ten_seconds_with_full_jitter() -> None:
    samples = {attempt: [retry.jittered(attempt) for _ in range(2000)] for attempt in (1, 2, 3, 4, 5, 6, 10, 1000)}
    for attempt, pauses in samples.items():
        bound = min(retry.LONGEST_PAUSE, 2 * retry.SHORTEST_PAUSE * 2 ** (attempt - 1))
        assert min(pauses) >= retry.SHORTEST_PAUSE
        assert max(pauses) <= bound
        assert max(pauses) > 0.9 * bound
        # Full jitter: uniform over the whole range, not a little noise on a common value.
        middle = (retry.SHORTEST_PAUSE + bound) / 2
        assert abs(statistics.fmean(pauses) - middle) < 0.1 * bound
    assert max(samples[1000]) <= 10.0


@pytest.mark.timeout(120)
def test_two_hundred_sessions_do_not_come_back_together() -> None:
    """Cut together while the server is gone; their first requests after it is back are spread."""
    with FakeServer() as fake:
        backend = Backend(fake.base_url, fake)
        fake.agent("quick").echoes()
        with connected(backend) as (proxy, client):
            sessions = [client.session(fake.create_session("quick"), since="beginning") for _ in range(200)]
            for session in sessions:
                session.iter_events().close()  # it polls from here on
            proxy.wait(lambda: fake.polls >= 200, 60, "200 polls")
            proxy.down()
            proxy.wait(lambda: all(s.health.consecutive_failures >= 4 for s in sessions), 60, "four failures each")
            proxy.up()
            up = time.monotonic()
            proxy.wait(lambda: fake.polls >= 200, 30)
            # By now the pauses are drawn from 0.25 to 4 s and more.
            first: dict[str, float] = {}
            for exchange in proxy.of("poll"):
                if exchange.started > up:
                    first.setdefault(exchange.path, exchange.started - up)
            assert len(first) == 200
            times = sorted(first.values())
            crowded = max(sum(1 for t in times if at <= t < at + 0.25) for at in times)
            assert crowded < 60, f"{crowded} of 200 came back within the same quarter of a second"
            assert times[-1] - times[0] > 1.0


@pytest.mark.usefixtures("quick_retries")
def test_a_name_that_is_not_resolved_for_a_while(fake: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    known = False
    asked = 0
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal asked
        if host != "parlant.example":
            return resolve(host, *arguments, **options)
        asked += 1
        if not known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert fake.fake is not None
    session_id = fake.fake.create_session("quick")
    with connected(fake) as (proxy, _), Client(f"http://parlant.example:{proxy.base_url.rsplit(':')[-1]}") as client:
        with pytest.raises(TransportError, match="resol"):
            client.agent("quick")
        known = True
        session = client.session(session_id, since="beginning")
        session.iter_events().close()  # it polls from here on
        polling(proxy, session)
        known = False
        proxy.cut_all()
        proxy.wait(lambda: session.health.consecutive_failures >= 3, what="three failures")
        fake.custom(session_id)
        known = True
        assert [event.offset for event in take(session, 1)] == [0]


@pytest.mark.usefixtures("quick_retries")
def test_a_server_that_was_restarted_with_its_sessions() -> None:
    with FakeServer() as fake:
        fake.agent("quick").echoes()
        with Client(fake.base_url) as client:
            session = client.create_session("quick")
            reader = session.iter_events(timeout=30)
            assert session.send("one").text == "echo: one"
            fake.restart(keep=True)
            assert session.send("two", timeout=30).text == "echo: two"
            offsets = [event["offset"] for event in fake.events(session.id)]
            assert [event.offset for event in take(session, len(offsets), reader)] == offsets
