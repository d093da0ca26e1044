from __future__ import annotations

import itertools
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from parlant_sync.deadline import Deadline
from parlant_sync.retry import (
    FIRST_POST_GAP,
    LEAST,
    LONGEST_PAUSE,
    LONGEST_RETRY_AFTER,
    LOST_WAKE,
    Bell,
    Nap,
    Pace,
    Waiter,
    jittered,
    retry_after,
    retrying,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestJitter:
    def test_bounds_grow_to_the_longest(self) -> None:
        for attempt in (1, 2, 3, 10, 1000, 10**9):
            pauses = [jittered(attempt) for _ in range(200)]
            assert min(pauses) >= 0.25
            assert max(pauses) <= min(LONGEST_PAUSE, 0.5 * 2 ** min(attempt - 1, 30))

    def test_is_full(self) -> None:
        """Sessions that were cut together do not come back together."""
        pauses = sorted(jittered(10) for _ in range(1000))
        assert pauses[100] < 2.5
        assert pauses[900] > 7.5


class TestBell:
    def test_ends_waits_for_all(self) -> None:
        bell = Bell()
        assert not bell.wait(0.001)
        results: list[bool] = []
        threads = [threading.Thread(target=lambda: results.append(bell.wait(30))) for _ in range(4)]
        for t in threads:
            t.start()
        bell.ring()
        for t in threads:
            t.join(5)
        assert results == [True] * 4
        assert bell.wait(30)

    def test_a_nap_is_cut_alone(self) -> None:
        bell = Bell()
        nap, other = Nap(bell), Nap(bell)
        nap.cut()
        assert not nap.wait(30)
        assert not other.wait(0.001)
        assert not bell.wait(0.001)
        assert bell._naps == []

    def test_a_nap_that_begins_while_it_rings(self) -> None:
        """It is not among those that are cut, so it looks."""
        bell = Bell()
        nap = Nap(bell)

        class Late(list):  # type: ignore[type-arg]
            def append(self, nap: Nap) -> None:
                bell._naps = []
                bell.ring()

        bell._naps = Late()
        assert nap.wait(30)


class _Waiting(Bell):
    """A bell whose waits are seen."""

    def __init__(self, bell: Bell, wait: Callable[[float | None], bool]) -> None:
        super().__init__()
        self.bell, self.seen = bell, wait

    def wait(self, timeout: float | None = None) -> bool:
        self.rung = self.seen(timeout)
        return self.rung


class TestRetrying:
    def run(
        self, outcomes: list[object], *, attempts: float = 5, bell: Bell | None = None, timeout: float = 30
    ) -> object:
        calls = iter(outcomes)
        self.calls = 0

        def call() -> object:
            self.calls += 1
            outcome = next(calls)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return retrying(
            call,
            deadline=Deadline(timeout),
            attempts=attempts,
            may_retry=lambda e: isinstance(e, OSError),
            bell=bell or Bell(),
        )

    @pytest.fixture(autouse=True)
    def _no_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("parlant_sync.retry.jittered", lambda attempt: 0.0)

    def test_success_after_failures(self) -> None:
        assert self.run([OSError("1"), OSError("2"), "done"]) == "done"
        assert self.calls == 3

    def test_the_last_failure_is_raised(self) -> None:
        with pytest.raises(OSError, match="3"):
            self.run([OSError("1"), OSError("2"), OSError("3"), "never"], attempts=3)
        assert self.calls == 3

    def test_what_may_not_be_repeated_is_not(self) -> None:
        with pytest.raises(KeyError):
            self.run([KeyError("no")])
        with pytest.raises(KeyError):
            self.run([OSError("1"), KeyError("no"), "never"])
        assert self.calls == 2

    def test_not_after_the_deadline(self) -> None:
        with pytest.raises(OSError, match="1"):
            self.run([OSError("1"), "never"], timeout=0)

    def test_not_where_too_little_time_is_left(self) -> None:
        with pytest.raises(OSError, match="1"):
            self.run([OSError("1"), "never"], timeout=LEAST)

    def test_a_long_pause_leaves_time_for_the_last_attempt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("parlant_sync.retry.jittered", lambda attempt: 60.0)
        pauses: list[float] = []
        bell = _Waiting(Bell(), lambda pause: pauses.append(pause or 0.0) or False)
        assert self.run([OSError("1"), "done"], timeout=5, bell=bell) == "done"
        assert 4.0 < pauses[0] <= 5 - LEAST

    def test_not_after_the_bell(self) -> None:
        bell = Bell()
        bell.ring()
        with pytest.raises(OSError, match="1"):
            self.run([OSError("1"), "never"], bell=bell)

    def test_the_bell_cuts_a_pause(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bell = Bell()

        ringer = threading.Thread(target=bell.ring)

        def wait(timeout: float | None) -> bool:
            ringer.start()  # in the middle of the pause
            return Bell.wait(bell, timeout)

        monkeypatch.setattr("parlant_sync.retry.jittered", lambda attempt: 30.0)
        started = time.monotonic()
        with pytest.raises(OSError, match="2"):
            self.run([OSError("1"), OSError("2"), "never"], bell=_Waiting(bell, wait))
        assert time.monotonic() - started < 5
        ringer.join()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", None),
        ("nan", None),
        ("1e9", 1e9),
        ("inf", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("rubbish", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    assert retry_after(header) == expected


def queue_up(pace: Pace, count: int) -> list[Waiter]:
    waiters = [Waiter(lambda: None) for _ in range(count)]
    for waiter in waiters:
        assert pace.ask(waiter) is not None
    return waiters


def times(pace: Pace, clock: Clock, waiters: Sequence[Waiter]) -> list[float]:
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
        pace = Pace(clock=Clock())
        assert all(pace.go() for _ in range(100))

    def test_a_429_pauses_all_and_spreads_them(self) -> None:
        clock = Clock()
        pace = Pace(clock=clock)
        pace.limited(None)
        assert not pace.go()
        waits = times(pace, clock, queue_up(pace, 20))
        assert waits[0] >= 1.0
        gaps = {round(b - a, 6) for a, b in itertools.pairwise(waits)}
        assert len(gaps) == 1
        assert gaps.pop() >= 60 / 240

    def test_a_volley_counts_once(self) -> None:
        clock = Clock()
        one, volley = Pace(clock=clock), Pace(clock=clock)
        one.limited(None)
        for _ in range(20):
            volley.limited(None)
        assert volley.pause_left() == one.pause_left() > 0

    def test_a_wish_is_heard(self) -> None:
        pace = Pace(clock=Clock())
        pace.limited(30.0)
        assert pace.ask(Waiter(lambda: None)) == pace.pause_left() == 30.0

    def test_but_not_for_ever(self) -> None:
        pace = Pace(clock=Clock())
        pace.limited(1e9)
        assert pace.pause_left() <= LONGEST_RETRY_AFTER

    def test_calm_speeds_up_until_free(self) -> None:
        clock = Clock()
        pace = Pace(clock=clock)
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
        pace = Pace(clock=clock)
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
        pace = Pace(first_gap=FIRST_POST_GAP, clock=clock)
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
        pace = Pace(clock=clock)
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
        pace = Pace(clock=clock)
        pace.limited(None)
        interrupted, following = queue_up(pace, 2)
        pause = pace.ask(following)
        interrupted.here = False
        assert pause is not None
        clock.now += pause
        assert pace.ask(following) is None
        assert pause <= 2.0 + pace._gap + LOST_WAKE

    def test_an_interrupt_in_the_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pace = Pace()
        pace.limited(30.0)

        def interrupt(self: Nap, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

        monkeypatch.setattr(Nap, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pace.wait(Bell())
        assert not pace._waiters

    def test_a_deadline_before_the_slot(self) -> None:
        pace = Pace()
        pace.limited(30.0)
        started = time.monotonic()
        assert not pace.wait(Bell(), Deadline(0.01))
        assert not pace.wait(Bell(), Deadline(0))
        assert time.monotonic() - started < 5
        assert not pace._waiters
        assert not pace._times

    def test_a_slot_before_the_deadline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("parlant_sync.retry.FIRST_RATE_PAUSE", 0.01)
        pace = Pace(first_gap=0.01)
        pace.limited(None)
        assert pace.wait(Bell(), Deadline(30))
        assert len(pace._times) == 1

    def test_no_brake_no_deadline(self) -> None:
        """How late a request may go is its caller's business where nobody need wait."""
        assert Pace().wait(Bell(), Deadline(0))

    def test_the_bell_ends_a_hundred_waits(self) -> None:
        pace, bell = Pace(), Bell()
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
        monkeypatch.setattr("parlant_sync.retry.FIRST_RATE_PAUSE", 0.05)
        pace = Pace(first_gap=0.005)
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


def test_half_a_tenacity_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no file can be opened its import fails, and other threads may see what it had made by then."""
    monkeypatch.setitem(sys.modules, "tenacity", types.ModuleType("tenacity"))
    assert 0.25 <= jittered(3) <= LONGEST_PAUSE
    with pytest.raises(OSError, match="the first"):
        retrying(
            lambda: (_ for _ in ()).throw(OSError("the first")),
            deadline=Deadline(5),
            attempts=3,
            may_retry=lambda error: True,
            bell=Bell(),
        )
