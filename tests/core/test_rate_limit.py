"""After a 429: who may go when, and what giving up costs the others."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from parlant_sync._api.rate_limit import FIRST_POST_GAP, LOST_WAKE, RateLimiter, Waiter
from parlant_sync._api.retry import LONGEST_RETRY_AFTER, Bell, Nap
from parlant_sync._deadline import Deadline


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def queue_up(pace: RateLimiter, count: int) -> list[Waiter]:
    waiters = [Waiter(lambda: None) for _ in range(count)]
    for waiter in waiters:
        assert pace.ask(waiter) is not None
    return waiters


def times(pace: RateLimiter, clock: Clock, waiters: Sequence[Waiter]) -> list[float]:
    """When each of them goes, one after another; in seconds from now."""
    began, went = clock.now, []
    for waiter in waiters:
        while (pause := pace.ask(waiter)) is not None:
            clock.now += pause
        pace.leave(waiter)
        went.append(clock.now - began)
    return went


class TestPace:
    def test_costs_nothing_without_a_limit(self) -> None:
        pace = RateLimiter(clock=Clock())
        assert all(pace.go() for _ in range(100))

    def test_a_429_pauses_all_and_spreads_them(self) -> None:
        clock = Clock()
        pace = RateLimiter(clock=clock)
        pace.limited(None)
        assert not pace.go()
        waits = times(pace, clock, queue_up(pace, 20))
        assert waits[0] >= 1.0
        gaps = {round(b - a, 6) for a, b in itertools.pairwise(waits)}
        assert len(gaps) == 1
        assert gaps.pop() >= 60 / 240

    def test_a_volley_counts_once(self) -> None:
        clock = Clock()
        one, volley = RateLimiter(clock=clock), RateLimiter(clock=clock)
        one.limited(None)
        for _ in range(20):
            volley.limited(None)
        assert volley.pause_left() == one.pause_left() > 0

    def test_a_wish_is_heard(self) -> None:
        pace = RateLimiter(clock=Clock())
        pace.limited(30.0)
        assert pace.ask(Waiter(lambda: None)) == pace.pause_left() == 30.0

    def test_but_not_for_ever(self) -> None:
        pace = RateLimiter(clock=Clock())
        pace.limited(1e9)
        assert pace.pause_left() <= LONGEST_RETRY_AFTER

    def test_calm_speeds_up_until_free(self) -> None:
        clock = Clock()
        pace = RateLimiter(clock=clock)
        pace.limited(None)
        clock.now += 100
        gaps = []
        for _ in range(60):
            first, second = times(pace, clock, [Waiter(lambda: None), Waiter(lambda: None)])
            gaps.append(second - first)
            clock.now += 61
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[0] > 0.1
        assert gaps[-1] == 0.0

    def test_in_the_order_of_asking(self) -> None:
        clock = Clock()
        pace = RateLimiter(clock=clock)
        pace.limited(None)
        first, second = queue_up(pace, 2)
        clock.now += 60
        assert not pace.go()  # they have waited longer
        assert (pace.ask(second) or 0.0) > 0
        assert pace.ask(first) is None
        pace.leave(first)
        clock.now += 60
        assert pace.ask(second) is None
        pace.leave(second)
        clock.now += 60
        assert pace.go()


class TestGivingUp:
    """Who gives up has taken nothing from those who wait on."""

    def test_sixty_impatient_posts_and_a_patient_one(self) -> None:
        clock = Clock()
        pace = RateLimiter(first_gap=FIRST_POST_GAP, clock=clock)
        assert pace.go()
        pace.limited(None)
        clock.now += 10
        for _ in range(60):
            impatient = Waiter(lambda: None)
            pace.ask(impatient)
            clock.now += 0.01
            pace.leave(impatient)
        assert times(pace, clock, [Waiter(lambda: None)])[0] <= FIRST_POST_GAP

    def test_one_of_a_hundred_pollers_is_left(self) -> None:
        clock = Clock()
        pace = RateLimiter(clock=clock)
        pace.limited(None)
        *closed, left = queue_up(pace, 100)
        woken: list[int] = []
        left.wake = lambda: woken.append(1)
        for waiter in closed:
            pace.leave(waiter)
        assert woken  # so that it does not sleep on for the time of its old place
        assert times(pace, clock, [left])[0] == pytest.approx(2.0)

    def test_an_interrupted_leaving_blocks_nobody(self) -> None:
        """Nothing but its mark was done: the next one is not woken, but looks by itself."""
        clock = Clock()
        pace = RateLimiter(clock=clock)
        pace.limited(None)
        interrupted, following = queue_up(pace, 2)
        pause = pace.ask(following)
        interrupted.here = False
        assert pause is not None
        clock.now += pause
        assert pace.ask(following) is None
        assert pause <= 2.0 + pace._gap + LOST_WAKE

    def test_an_interrupt_in_the_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pace = RateLimiter()
        pace.limited(30.0)

        def interrupt(self: Nap, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(Nap, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pace.wait(Bell())
        assert not pace._waiters

    def test_a_deadline_before_the_slot(self) -> None:
        pace = RateLimiter()
        pace.limited(30.0)
        started = time.monotonic()
        assert not pace.wait(Bell(), Deadline(0.01))
        assert not pace.wait(Bell(), Deadline(0))
        assert time.monotonic() - started < 5
        assert not pace._waiters
        assert not pace._times

    def test_a_slot_before_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("parlant_sync._api.rate_limit.FIRST_RATE_PAUSE", 0.01)
        pace = RateLimiter(first_gap=0.01)
        pace.limited(None)
        assert pace.wait(Bell(), Deadline(30))
        assert len(pace._times) == 1

    def test_no_brake_no_deadline(self) -> None:
        """How late a request may go is its caller's business where nobody need wait."""
        assert RateLimiter().wait(Bell(), Deadline(0))

    def test_the_bell_ends_a_hundred_waits(self) -> None:
        pace, bell = RateLimiter(), Bell()
        pace.limited(30.0)
        with ThreadPoolExecutor(100) as pool:
            waits = [pool.submit(pace.wait, bell) for _ in range(100)]
            while len(pace._waiters) < 100:
                threading.Event().wait(0.001)
            started = time.monotonic()
            bell.ring()
            assert not any(wait.result(5) for wait in waits)
            assert time.monotonic() - started < 2
        assert not pace.wait(bell)

    def test_many_threads_take_turns(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where every second one gives up in the middle."""
        monkeypatch.setattr("parlant_sync._api.rate_limit.FIRST_RATE_PAUSE", 0.05)
        pace = RateLimiter(first_gap=0.005)
        pace.limited(None)
        bells = [Bell() for _ in range(40)]
        with ThreadPoolExecutor(40) as pool:
            waits = [pool.submit(pace.wait, bell, Deadline(30)) for bell in bells]
            for bell in bells[::2]:
                bell.ring()
            assert all(wait.result(20) for wait in waits[1::2])
        went = sorted(pace._times)
        assert len(went) >= 20
        assert min(b - a for a, b in itertools.pairwise(went)) >= 0.005
        assert went[-1] - went[0] < LOST_WAKE  # nobody needed to look by himself
