"""After a 429: who may go when, and what giving up costs the others."""

from __future__ import annotations

import itertools
import math
import time

import pytest
from support.raw_api import in_background
from support.waiting import Clock, wait_until, within

from parlant_sync._api.rate_limit import CALM, FIRST_POST_GAP, FIRST_RATE_PAUSE, LONGEST_RATE_PAUSE, RateLimiter
from parlant_sync._api.retry import LONGEST_RETRY_AFTER
from parlant_sync._deadline import Deadline, StopSignal


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    """One that a 429 without Retry-After has just limited."""
    limiter = RateLimiter(clock=clock)
    limiter.limited(None)
    return limiter


def reserve(limiter: RateLimiter, latest: float = math.inf) -> float:
    """Seconds from now on its clock."""
    at = limiter.reserve(latest)
    assert at is not None
    return at - limiter._clock()


class TestTimes:
    def test_all_go_at_once_without_a_limit(self, clock: Clock) -> None:
        limiter = RateLimiter(clock=clock)
        assert [reserve(limiter) for _ in range(100)] == [0.0] * 100
        assert limiter.delay() == 0.0
        assert not limiter.limiting

    def test_a_429_pauses_all_and_spreads_them(self, limiter: RateLimiter) -> None:
        times = [reserve(limiter) for _ in range(20)]
        assert times[0] >= 1.0
        gaps = {round(b - a, 6) for a, b in itertools.pairwise(times)}
        assert len(gaps) == 1
        assert gaps.pop() >= 60 / 240

    def test_a_volley_counts_once(self, limiter: RateLimiter) -> None:
        one = limiter.delay()
        for _ in range(20):
            limiter.limited(None)
        assert limiter.delay() == one > 0

    @pytest.mark.parametrize(("wish", "pause"), [(30.0, 30.0), (1e9, LONGEST_RETRY_AFTER), (0.1, 2.0)])
    def test_retry_after(self, clock: Clock, wish: float, pause: float) -> None:
        limiter = RateLimiter(clock=clock)
        limiter.limited(wish)
        assert reserve(limiter) == limiter._paused_until - clock.now == pause

    def test_each_429_in_a_row_doubles_the_pause_until_all_is_calm(self, clock: Clock) -> None:
        limiter = RateLimiter(clock=clock)
        pauses = []
        for _ in range(9):
            limiter.limited(None)
            pauses.append(limiter.delay())
            clock.now += limiter.delay()
        assert pauses == [min(2.0**n * FIRST_RATE_PAUSE, LONGEST_RATE_PAUSE) for n in range(9)]
        clock.now += CALM + 1
        limiter.limited(None)
        assert limiter.delay() == FIRST_RATE_PAUSE

    def test_the_gap_follows_from_what_went_in_the_minute_before(self, clock: Clock) -> None:
        limiter = RateLimiter(first_gap=100, clock=clock)
        for went in (30, 20):
            clock.now += 61
            for _ in range(went):
                reserve(limiter)
        limiter.limited(None)
        first, second = reserve(limiter), reserve(limiter)
        gap = 60 / (0.9 * 20)
        assert (second - first, limiter.delay()) == (pytest.approx(gap), pytest.approx(second + gap))

    def test_minutes_without_a_429_speed_up_until_free(self, clock: Clock, limiter: RateLimiter) -> None:
        clock.now += 100
        gaps = []
        for _ in range(60):
            gaps.append(-reserve(limiter) + reserve(limiter))
            clock.now += 61
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] > 0.1
        assert gaps[-1] == 0.0
        assert not limiter.limiting


class TestGivingUp:
    def test_sixty_impatient_posts_and_a_patient_one(self, clock: Clock) -> None:
        limiter = RateLimiter(first_gap=FIRST_POST_GAP, clock=clock)
        reserve(limiter)
        limiter.limited(None)
        clock.now += 10
        for _ in range(60):
            limiter.give_back(clock.now + reserve(limiter))
            clock.now += 0.01
        assert reserve(limiter) <= FIRST_POST_GAP

    def test_a_time_that_was_given_back_goes_to_the_next_who_asks(self, clock: Clock, limiter: RateLimiter) -> None:
        times = [clock.now + reserve(limiter) for _ in range(5)]
        limiter.give_back(times[1])
        limiter.give_back(times[4])
        assert [clock.now + reserve(limiter) for _ in range(2)] == [times[1], pytest.approx(times[4])]

    def test_nobody_gets_a_time_that_has_passed(self, clock: Clock, limiter: RateLimiter) -> None:
        times = [clock.now + reserve(limiter) for _ in range(3)]
        limiter.give_back(times[0])
        clock.now = times[2] + 10
        assert reserve(limiter) == 0.0
        assert reserve(limiter) > 0.0

    def test_a_time_after_the_deadline_is_not_reserved(self, clock: Clock, limiter: RateLimiter) -> None:
        first = reserve(limiter)
        assert limiter.reserve(clock.now + first) is None
        assert reserve(limiter) == pytest.approx(first + limiter._gap)

    def test_the_deadline_is_checked_at_once(self) -> None:
        limiter = RateLimiter()
        limiter.limited(30.0)
        with within(5):
            assert not limiter.wait(StopSignal(), Deadline(20))

    def test_without_a_limit_the_deadline_does_not_count(self) -> None:
        assert RateLimiter().wait(StopSignal(), Deadline(0))

    def test_an_interrupt_gives_the_time_back(self, clock: Clock) -> None:
        class Interrupted(StopSignal):
            __slots__ = ()

            def wait(self, timeout: float | None = None, *, cuttable: bool = False) -> bool:
                raise KeyboardInterrupt

        limiter = RateLimiter(clock=clock)
        limiter.limited(30.0)
        with pytest.raises(KeyboardInterrupt):
            limiter.wait(Interrupted())
        assert reserve(limiter) == 30.0

    def test_the_stop_signal_ends_a_hundred_waits(self) -> None:
        limiter, stop = RateLimiter(), StopSignal()
        limiter.limited(30.0)
        waits = [in_background(limiter.wait, stop) for _ in range(100)]
        wait_until(lambda: len(stop._waits) == 100)
        with within(2):
            stop.set()
            assert not any(wait.result(5) for wait in waits)
        assert not limiter.wait(stop)

    def test_many_threads_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if every second one gives up, and if another 429 comes while they wait."""
        monkeypatch.setattr("parlant_sync._api.rate_limit.FIRST_RATE_PAUSE", 0.05)
        limiter = RateLimiter(first_gap=0.005)
        limiter.limited(None)
        stops = [StopSignal() for _ in range(40)]
        went: list[float] = []

        def go(stop: StopSignal) -> bool:
            may = limiter.wait(stop, Deadline(30))
            went.extend([time.monotonic()] if may else [])
            return may

        waits = [in_background(go, stop) for stop in stops]
        for stop in stops[::2]:
            stop.set()
        again = time.monotonic()
        limiter.limited(0.2)
        assert all(wait.result(20) for wait in waits[1::2])
        assert min(went[-10:]) >= again + 0.2


def test_a_child_of_a_fork_without_hooks_begins_anew(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread of the parent may have held the lock, and is not there any more."""
    limiter = RateLimiter(clock=clock)
    limiter.limited(60)
    parents = limiter._lock
    monkeypatch.setattr("os.getpid", lambda: -1)
    in_background(parents.acquire).result(5)
    assert in_background(limiter.wait, StopSignal(), Deadline(1)).result(5)
    assert in_background(limiter.pause_left).result(5) == 0.0
    assert not limiter.limiting


def test_a_signal_handler_may_ask_whose_thread_is_inside(clock: Clock) -> None:
    limiter = RateLimiter(clock=clock)

    def interrupted() -> float:
        with limiter._lock:
            return limiter.delay()

    assert in_background(interrupted).result(5) == 0.0
