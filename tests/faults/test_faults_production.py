"""A production server: its limits by the minute, and what it refuses for good."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections import Counter, deque

import pytest
from support.fault_backends import connected, fake_backend
from support.fault_limits import simulate
from support.fault_proxy import FaultProxy
from support.shared_servers import SharedServer, need_a_server

from parlant_sync import Client, RateLimitedError, Session
from parlant_sync._api.rate_limit import RateLimiter
from parlant_sync.demo.launcher import DemoServer
from parlant_sync.testing import FakeServer


@pytest.mark.parametrize("think", [10, 20, 40])
@pytest.mark.parametrize("seed", range(3))
def test_twenty_pollers_keep_to_the_limit_together(think: float, seed: int) -> None:
    """Simulated: 240 lists a minute, 20 busy sessions. They slow down together, and nearly nothing is refused."""
    world = simulate(limit=240, think=think, minutes=8, seed=seed)
    for minute in range(1, 8):
        assert world.refused_in_minute(minute) < 0.05
    # They use what is allowed: of the turns that were to be had, most were.
    wanted = 20 * 480 / (3 + think)
    assert world.turns > 0.6 * min(wanted, 240 * 8 / 8)
    assert sorted(world.lags)[len(world.lags) // 2] < 10


def test_no_volley_at_the_end_of_a_pause() -> None:
    """Those who wait take turns; and begin anew with that where one of them is refused again."""
    now = 0.0
    pace = RateLimiter(clock=lambda: now)
    for _ in range(240):
        assert pace.reserve(0.0) == 0.0
    pace.limited(None)
    waiting = deque(pace.reserve(math.inf) or 0.0 for _ in range(10))
    went: list[float] = []
    while waiting:
        now = waiting.popleft()
        if now < pace._paused_until:
            waiting.append(pace.reserve(math.inf) or 0.0)
            continue
        went.append(now)
        if len(went) == 3:
            pace.limited(None)
    gaps = [after - before for before, after in itertools.pairwise(went)]
    assert min(gaps) > 0.2
    assert went[0] >= 2
    assert gaps[2] >= 4  # the second pause is twice as long


def test_they_speed_up_again() -> None:
    """The load falls: after some minutes nothing is spaced out any more, or not so that anybody notices."""
    world = simulate(limit=240, think=10, minutes=5, seed=1)
    assert world.pace._gap > 0.2
    world.limit = float("inf")
    world.run(60 * 20)
    assert world.pace._gap < 0.06


def test_without_a_limit_nobody_waits() -> None:
    world = simulate(limit=float("inf"), think=20, minutes=3, seed=1)
    assert max(world.lags) < 0.1


def test_a_stray_refusal_does_not_slow_a_busy_client_for_long() -> None:
    world = simulate(limit=float("inf"), think=1, minutes=2, seed=1, pollers=60)
    world.pace.limited(None)
    rate = len(world.answers) / 120
    before = len(world.answers)
    world.run(60 * 4)
    assert (len(world.answers) - before) / 120 > 0.5 * rate


@pytest.mark.usefixtures("quick_retries")
def test_limits_of_the_stand_in() -> None:
    """Quickly, with a window of two seconds: every turn is complete, nobody hangs."""
    limits = {"list_events": 40, "create_customer_event": 10}
    with FakeServer(policy="production", limits=limits, limit_window=2.0) as server:
        with connected(fake_backend(server)) as (_, client):
            sessions = [client.create_session("quick") for _ in range(6)]
            replies: list[str] = []
            threads = [
                threading.Thread(target=lambda s=s: replies.append(s.send("hello", timeout=60).text)) for s in sessions
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(80)
            assert replies == ["echo: hello"] * 6


@pytest.mark.real
def test_a_streamed_reply_where_single_events_may_not_be_read(production: SharedServer) -> None:
    """Reading one event is a 403 there: the growth is listed instead, and the reply is complete."""
    if not production.streaming:
        pytest.skip("this version does not stream")
    text = "word by word " * 12
    with FaultProxy(production.base_url) as proxy, Client(proxy.base_url) as client:
        session = client.create_session("streamer")
        with session.stream(f"[pace=0.05]{text}", timeout=60) as turn:
            pieces = list(turn.text)
            reply = turn.reply()
        assert reply.text == f"streamed echo of: {text.strip()}"
        assert "".join(pieces) == reply.text
        assert len(pieces) >= 2
        assert session.send(f"[pace=0.02]{text}", timeout=60).text == reply.text
        assert sum(exchange.kind == "read" for exchange in proxy.exchanges) == 1  # once refused, not asked again


def test_a_streamed_reply_where_the_stand_in_refuses_single_reads() -> None:
    with FakeServer(policy="production") as server:
        server.agent("streamer").streams("one two three four five six", every=0.05)
        with Client(server.base_url) as client:
            assert client.create_session("streamer").send("go", timeout=30).text == "one two three four five six"


def _twenty_sessions(client: Client) -> list[Session]:
    """Ten a minute may be made."""
    sessions: list[Session] = []
    patience = threading.Event()
    while len(sessions) < 20:
        try:
            sessions.append(client.create_session("quick"))
        except RateLimitedError:
            patience.wait(5)
    return sessions


@pytest.mark.full
@pytest.mark.real
@pytest.mark.timeout(700)
def test_twenty_active_sessions_behind_one_address() -> None:
    """For real, four minutes: all turns complete, and of the last minute's requests fewer than 5 % are refused."""
    pause = threading.Event()
    outcomes: Counter[str] = Counter()
    alone = DemoServer(python=need_a_server(), test_agents=True, policy="production")
    with alone, FaultProxy(alone.base_url) as proxy, Client(proxy.base_url) as client:
        sessions = _twenty_sessions(client)
        end = time.monotonic() + 240

        def converse(number: int) -> None:
            chance = random.Random(number)
            count = 0
            while time.monotonic() < end:
                count += 1
                try:
                    text = sessions[number].send(f"message {count}", timeout=180).text
                    outcomes["complete" if text == f"echo: message {count}" else f"wrong: {text}"] += 1
                except Exception as error:
                    outcomes[repr(error)] += 1
                pause.wait(chance.uniform(10, 40))

        threads = [threading.Thread(target=converse, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        pause.wait(end - time.monotonic())
        last = [e.status for e in proxy.exchanges if e.started > time.monotonic() - 60]
        for thread in threads:
            thread.join()
        assert set(outcomes) == {"complete"}, outcomes
        assert outcomes["complete"] >= 80
        assert last.count(429) < 0.05 * len(last), Counter(last)
