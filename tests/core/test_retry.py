from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Callable

import pytest

from parlant_sync._api.retry import LEAST, LONGEST_PAUSE, Bell, Nap, jittered, retrying
from parlant_sync._deadline import Deadline
from parlant_sync._http.error_mapping import retry_after


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
        monkeypatch.setattr("parlant_sync._api.retry.jittered", lambda attempt: 0.0)

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
        monkeypatch.setattr("parlant_sync._api.retry.jittered", lambda attempt: 60.0)
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

        monkeypatch.setattr("parlant_sync._api.retry.jittered", lambda attempt: 30.0)
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
