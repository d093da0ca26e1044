from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from support.raw_api import in_background
from support.waiting import wait_until

from parlant_sync import errors
from parlant_sync._api.retry import LEAST, LONGEST_PAUSE, StopSignal, jittered, retrying
from parlant_sync._deadline import Deadline
from parlant_sync._http.error_mapping import retry_after


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


class TestStopSignal:
    def test_ends_all_waits_now_and_later(self) -> None:
        stop = StopSignal()
        assert not stop.wait(0.001)
        assert not stop.wait(-1)
        waits = [in_background(stop.wait, 30, cuttable=n % 2 == 0) for n in range(4)]
        wait_until(lambda: len(stop._waits) == len(stop._cuttable) == 2)
        stop.set()
        assert [wait.result(5) for wait in waits] == [True] * 4
        assert stop.is_set()
        assert stop.wait(30)
        assert (stop._waits, stop._cuttable) == ([], [])

    def test_cut_ends_the_cuttable_waits_alone(self) -> None:
        stop = StopSignal()
        stop.cut()  # nothing waits: nothing is remembered
        assert not stop.wait(0.001, cuttable=True)
        plain, cuttable = in_background(stop.wait, 30), in_background(stop.wait, 30, cuttable=True)
        wait_until(lambda: len(stop._waits) == len(stop._cuttable) == 1)
        stop.cut()
        assert not cuttable.result(5)
        assert plain.running
        stop.set()
        assert plain.result(5)

    def test_a_wait_that_begins_while_it_is_set(self) -> None:
        """It is not among those that are woken, so it checks."""
        stop = StopSignal()

        class Late(list):  # type: ignore[type-arg]
            def append(self, wait: object) -> None:
                stop.set()
                super().append(wait)

        stop._waits = Late()
        assert stop.wait(30)

    def test_a_signal_handler_may_set_it_anywhere(self) -> None:
        """The handler runs at every line of a wait of its own thread."""

        def interrupted_at(line: int) -> StopSignal:
            stop = StopSignal()

            def handler(frame: types.FrameType, event: str, _: object) -> Any:
                if event == "line" and frame.f_lineno == line:
                    stop.set()
                return handler

            sys.settrace(handler)
            try:
                stop.wait(0.01)
            finally:
                sys.settrace(None)
            return stop

        first = StopSignal.wait.__code__.co_firstlineno
        stops = [interrupted_at(line) for line in range(first, first + 25)]
        assert sum(stop.is_set() for stop in stops) >= 6
        assert not any(stop._waits for stop in stops)


class _Waiting(StopSignal):
    """Its waits are seen."""

    __slots__ = ("seen",)

    def __init__(self, seen: Callable[[float | None], bool]) -> None:
        super().__init__()
        self.seen = seen

    def wait(self, timeout: float | None = None, *, cuttable: bool = False) -> bool:
        if self.seen(timeout):
            self.set()
        return self.is_set()


@pytest.mark.usefixtures("no_pauses")
class TestRetrying:
    def run(
        self, outcomes: list[object], *, attempts: float = 5, stop: StopSignal | None = None, timeout: float = 30
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
            may_retry=lambda e: isinstance(e, (OSError, errors.RateLimitedError)),
            stop=stop or StopSignal(),
        )

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

    @pytest.mark.parametrize("left", [0, LEAST])
    def test_not_where_too_little_time_is_left(self, left: float) -> None:
        with pytest.raises(OSError, match="1"):
            self.run([OSError("1"), "never"], timeout=left)

    def test_a_long_pause_leaves_time_for_the_last_attempt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("parlant_sync._api.retry.jittered", lambda attempt: 60.0)
        pauses: list[float] = []
        stop = _Waiting(lambda pause: pauses.append(pause or 0.0) or False)
        assert self.run([OSError("1"), "done"], timeout=5, stop=stop) == "done"
        assert 4.0 < pauses[0] <= 5 - LEAST

    def test_a_longer_retry_after_counts(self) -> None:
        limited = errors.RateLimitedError("429", retry_after=7.0)
        pauses: list[float] = []
        stop = _Waiting(lambda pause: pauses.append(pause or 0.0) or False)
        assert self.run([limited, limited, "done"], timeout=99, stop=stop) == "done"
        assert pauses == [7.0, 7.0]

    def test_not_after_the_stop(self) -> None:
        stop = StopSignal()
        stop.set()
        with pytest.raises(OSError, match="1"):
            self.run([OSError("1"), "never"], stop=stop)

    @pytest.mark.parametrize("pause", [1, 2])
    def test_a_stop_in_a_pause_leaves_one_last_call(self, pause: int) -> None:
        pauses = iter(range(1, 9))
        with pytest.raises(OSError, match=str(pause + 1)):
            self.run([OSError(str(n)) for n in range(1, 9)], stop=_Waiting(lambda _: next(pauses) == pause))
        assert self.calls == pause + 1


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


def test_without_tenacity_the_failure_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import fails if the process can open no more files."""
    monkeypatch.setitem(sys.modules, "tenacity", None)
    with pytest.raises(OSError, match="the first"):
        retrying(
            lambda: (_ for _ in ()).throw(OSError("the first")),
            deadline=Deadline(5),
            attempts=3,
            may_retry=lambda error: True,
            stop=StopSignal(),
        )
