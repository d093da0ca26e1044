"""Answers of proxies and of limits: early 504s, HTML, 429 with odd wishes."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest
from support.fault_backends import Backend, connected, polling, take
from support.raw_server import answer
from support.waiting import Background

from parlant_sync import Client, RateLimitedError, ServerError, SessionClosed
from parlant_sync._api import rate_limit, retry
from parlant_sync._api.rate_limit import RateLimiter
from parlant_sync._deadline import StopSignal
from parlant_sync._http import error_mapping
from parlant_sync._polling.event_hub import EventHub
from parlant_sync._polling.poller import Poller


def _answer(status: int, body: bytes = b"", kind: str = "text/html", **headers: str) -> bytes:
    more = [f"{name.replace('_', '-')}: {value}".encode("latin-1") for name, value in headers.items()]
    return answer(body, b"%d Whatever" % status, b"Content-Type: " + kind.encode(), *more)


HTML = b"<html><head><title>504 Gateway Time-out</title></head><body><h1>504 Gateway Time-out</h1></body></html>"


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [500, 502, 503, 504, 401, 403, 404, 429])
@pytest.mark.parametrize("body", [HTML, b"", b'{"detail":"Request timed out"}'], ids=["html", "empty", "json"])
def test_a_proxy_s_answer_to_a_poll_loses_nothing(
    status: int, body: bytes, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status < 429 and body.startswith(b"{"):
        pytest.skip("Parlant's own, which ends the session")
    monkeypatch.setattr("parlant_sync._api.rate_limit.FIRST_RATE_PAUSE", 0.05)
    with connected(backend) as (proxy, client):
        session = client.create_session("quick")
        reader = session.iter_events(timeout=20)
        polling(proxy, session)
        order = proxy.answer(_answer(status, body), "poll", times=4)
        proxy.cut_all()
        order.wait()
        assert session.send("still there", timeout=30).text == "echo: still there"
        offsets = backend.offsets(session.id)
        assert [event.offset for event in take(session, len(offsets), reader)] == offsets
        if status != 504 or not body.startswith(b"{"):  # Parlant's own 504 is what an idle poll ends with
            assert client.stats().failures >= 4


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("body", "failures"), [(HTML, 2), (b"", 2), (b'{"detail":"x"}', 0)], ids=["html", "empty", "own"]
)
def test_a_late_504_is_an_idle_poll_only_if_parlant_sent_it(body: bytes, failures: int, fake: Backend) -> None:
    """A proxy's 504 is a failed poll: it shows in ``health`` and in the numbers."""
    with connected(fake, poll_wait=1) as (proxy, client):
        session = client.create_session("quick")
        order = proxy.change(lambda _: (_answer(504, body), "keep"), statuses=frozenset({504}), times=2)
        late = order.wait()
        if not failures:
            assert late[1].started - late[0].started < 1.3  # no pause, the next poll at once
        fake.custom(session.id)
        assert [event.offset for event in take(session, 1)] == [0]
        assert client.stats().failures == failures
        assert ("504" in str(session.health.last_error)) is bool(failures)


@pytest.mark.parametrize("body", [HTML, b""], ids=["html", "empty"])
def test_a_call_tells_the_status_and_no_markup(body: bytes, fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        proxy.answer(_answer(503, body), "list", times=float("inf"))
        with pytest.raises(ServerError, match="503") as caught:
            session.history()
        assert caught.value.status == 503
        assert "<" not in str(caught.value)


class _Line:
    """No connection at all."""

    wakeable = True

    class slot:  # noqa: N801
        @staticmethod
        def rearm() -> None: ...

        @staticmethod
        def stop() -> None: ...

    @staticmethod
    def close() -> None: ...


def _requests_in_ten_seconds(seed: int, outcome: Any) -> int:
    """The loop of the poller itself, with its time made of its own pauses."""
    random.seed(seed)
    world = type("World", (), {"now": 0.0})()
    asked: list[float] = []
    api: Any = type("FakeApi", (), {})()
    api.list_limiter = RateLimiter(clock=lambda: world.now)
    made = Poller("s", api, EventHub(0), poll_wait=60, idle_timeout=float("inf"), clock=lambda: world.now)

    class Passing(StopSignal):
        __slots__ = ()

        def wait(self, timeout: float | None = None, *, cuttable: bool = False) -> bool:
            world.now += timeout or 0.0
            return False

    made.stop_signal = Passing()

    def poll(*_: object, **__: object) -> Any:
        if world.now >= 10 or len(asked) > 50:
            made.stop_signal.set()
        else:
            asked.append(world.now)
        return outcome()

    api.poll = poll
    line: Any = _Line()
    made._line = line
    made._run(line)
    return len(asked)


def _empty() -> Any:
    return [], 0


def _refused() -> Any:
    raise ServerError("502", status=502)


@pytest.mark.parametrize("outcome", [_empty, _refused], ids=["early-504", "502"])
def test_at_most_ten_requests_in_ten_seconds_of_early_answers(outcome: Any) -> None:
    state = random.getstate()
    try:
        counts = [_requests_in_ten_seconds(seed, outcome) for seed in range(300)]
    finally:
        random.setstate(state)
    assert max(counts) <= 10
    assert min(counts) >= 2  # and it does go on


@pytest.mark.full
def test_ten_seconds_of_early_504s_for_real(fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
        proxy.answer(_answer(504, HTML), "poll", times=float("inf"))
        proxy.cut_all()
        before = len(proxy.of("poll"))
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            proxy.wait(lambda: len(proxy.of("poll")) - before > 10, 10.0)
        assert time.monotonic() - begun >= 10
        proxy.clear()
        assert session.send("again", timeout=40).text == "echo: again"


WISHES = ["", "-1", "nan", "inf", "1e9", "Wed, 21 Oct 2099 07:28:00 GMT", "soon", "1" * 5000, "0", "\xff"]


def _closing_in_a_pause(wish: str, fake: Backend) -> float:
    """Seconds that ``close()`` took while all pollers were in the pause of a 429."""
    with connected(fake) as (proxy, client):
        sessions = [client.create_session("quick") for _ in range(3)]
        for session in sessions:
            polling(proxy, session)
        headers = {"Retry_After": wish} if wish else {}
        # One poller is refused; the others are idle and come back by themselves.
        refused = proxy.answer(_answer(429, b"{}", "application/json", **headers), "poll", times=1)
        proxy.cut_all()
        refused.wait()
        pace = client._api.list_limiter
        proxy.wait(lambda: pace.delay() > 0, what="a pause")
        proxy.wait(lambda: all(s.health.state == "waiting" for s in sessions), what="all of them waiting")
        # The pollers that queued up in the pause go one by one after it.
        assert 0 < pace.delay() <= retry.LONGEST_RETRY_AFTER + len(sessions) * rate_limit.LONGEST_GAP
        asked = len(proxy.of("poll"))
        started = time.monotonic()
        client.close()
        took = time.monotonic() - started
        assert len(proxy.of("poll")) == asked
        return took


@pytest.mark.parametrize("wish", WISHES, ids=[w[:10] or "none" for w in WISHES])
def test_a_429_pauses_all_pollers_and_close_cuts_the_pause(wish: str, fake: Backend) -> None:
    # Again where this machine was busy with something else at that moment.
    assert any(_closing_in_a_pause(wish, fake) < 0.1 for _ in range(3))


@pytest.mark.parametrize("wish", ["", "1e9", "nan"])
def test_a_send_in_the_pause_of_a_429_is_cut_by_close(wish: str, fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        headers = {"Retry_After": wish} if wish else {}
        order = proxy.answer(_answer(429, b"{}", "application/json", **headers), "post", times=float("inf"))
        sending = Background(session.send, "x", timeout=120)
        order.wait()
        # Until the refusal has come home: a post that is cut before that is uncertain.
        proxy.wait(lambda: client._api.post_limiter.delay() > 0)
        client.close()
        # At once: the pauses were to last 2 s and more.
        assert isinstance(sending.error(0.5), (SessionClosed, RateLimitedError))


@pytest.mark.usefixtures("quick_retries")
def test_after_a_429_everything_goes_on(fake: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parlant_sync._api.rate_limit.FIRST_RATE_PAUSE", 0.05)
    with connected(fake) as (proxy, client):
        sessions = [client.create_session("quick") for _ in range(3)]
        proxy.answer(_answer(429), "poll", times=3)
        proxy.answer(_answer(429), "post", times=2)
        proxy.cut_all()
        for session in sessions:
            assert session.send("hello", timeout=30).text == "echo: hello"
            assert fake.fake is not None
            assert len(fake.messages(session.id, "hello")) == 1


def test_the_pause_is_bounded_and_shared() -> None:
    now = 0.0
    pace = RateLimiter(clock=lambda: now)
    for wish in (None, 1e9, -5.0):
        pace.limited(error_mapping.retry_after(str(wish)) if wish is not None else None)
        assert 0 < pace.delay() <= retry.LONGEST_RETRY_AFTER
    first, second = (pace.reserve(math.inf) or 0.0 for _ in range(2))
    assert second > first > 0  # they do not come back together


def test_clients_do_not_share_it() -> None:
    with Client("http://127.0.0.1:9") as one, Client("http://127.0.0.1:9") as two:
        one._api.list_limiter.limited(5.0)
        assert two._api.list_limiter.delay() == 0
