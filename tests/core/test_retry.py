from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from parlant_sync import errors
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import LEAST, LONGEST_PAUSE, jittered
from parlant_sync._deadline import Deadline, StopSignal
from parlant_sync._http.connection import RunningRequests
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


def an_owner(stop: StopSignal | None = None) -> RestApi:
    return RestApi(None).scoped(RunningRequests(), stop or StopSignal())  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_pauses")
class TestAgain:
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

        return an_owner(stop).again(
            call,
            lambda e: isinstance(e, (OSError, errors.RateLimitedError)),
            deadline=Deadline(timeout),
            attempts=attempts,
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

    @pytest.mark.parametrize("failures", [1, 2])
    def test_what_has_ended_the_owner_is_raised_if_there_would_have_been_another_call(self, failures: int) -> None:
        api = an_owner()
        calls = []

        def call() -> None:
            calls.append(1)
            if len(calls) == failures:
                api.stop(errors.SessionClosed("closed"))
            raise OSError("reset")

        with pytest.raises(errors.SessionClosed, match="closed"):
            api.again(call, lambda error: True, deadline=Deadline(30))
        with pytest.raises(OSError, match="reset"):
            api.again(call, lambda error: False, deadline=Deadline(30))

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
        an_owner().again(
            lambda: (_ for _ in ()).throw(OSError("the first")),
            lambda error: True,
            deadline=Deadline(5),
        )
