from __future__ import annotations

import math
import queue
import socket
import sys
import threading
import types
from typing import Any

import pytest
from support.raw_api import in_background
from support.waiting import Clock, must_end, wait_until

from parlant_sync import _deadline
from parlant_sync._deadline import SOCKET_MAX, Deadline, StopSignal, get_in_time, seconds
from parlant_sync.errors import ConfigurationError


@pytest.fixture
def clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(_deadline, "monotonic", clock)
    return clock


def test_runs_out_on_its_clock(clock: Clock) -> None:
    deadline = Deadline(5)
    assert deadline.remaining() == 5
    clock.now += 3
    assert deadline.bound(10) == 2
    assert deadline.bound(1) == 1
    assert not deadline.expired()
    clock.now += 3
    assert deadline.remaining() == 0
    assert deadline.expired()


def test_between(clock: Clock) -> None:
    deadline = Deadline(5)
    assert deadline.between(0.5, 30) == 5
    assert deadline.between(0.5, 3) == 3
    clock.now += 7
    assert deadline.between(0.5, 30) == 0.5
    assert Deadline(None).between(0.5, 30) == 30


def test_none_never_ends() -> None:
    deadline = Deadline(None)
    assert deadline.remaining() == math.inf
    assert deadline.bound(None) is None
    assert deadline.bound(7) == 7
    assert not deadline.expired()


def test_a_huge_timeout_is_still_one_that_waits_take() -> None:
    limit = Deadline(1e300).bound(None)
    assert limit is not None
    assert limit <= threading.TIMEOUT_MAX


@pytest.mark.parametrize("timeout", [1e10, 1e300])
def test_what_sockets_take_is_less(timeout: float) -> None:
    with socket.socket() as sock:
        with pytest.raises(OverflowError):
            sock.settimeout(timeout)
        sock.settimeout(Deadline(timeout).for_socket())
        assert sock.gettimeout() == SOCKET_MAX
    assert 4.9 < (Deadline(5).for_socket() or 0) <= 5
    assert Deadline(None).for_socket() is None


@pytest.mark.parametrize("value", [-1, 10**400, float("nan"), "5", True, None])
def test_no_duration(value: object) -> None:
    with pytest.raises(ConfigurationError, match="wait"):
        seconds("wait", value)


def test_durations() -> None:
    assert seconds("wait", 3) == 3.0
    assert seconds("wait", None, none_is_ok=True) == math.inf


@pytest.mark.parametrize("timeout", [0.0, 1e-9, 1e-6, 1e-5, 1e-4])
def test_a_short_wait_at_a_queue_ends(timeout: float) -> None:
    """CPython's own ``get`` hangs after a few hundred of these."""

    def wait() -> None:
        for _ in range(3000):
            with pytest.raises(queue.Empty):
                get_in_time(queue.SimpleQueue(), timeout)

    must_end(wait, timeout=20)


def test_what_is_in_a_queue_is_given() -> None:
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    items.put(1)
    items.put(2)
    assert (get_in_time(items, 0), get_in_time(items, None)) == (1, 2)
    waiting = in_background(get_in_time, items, 5)
    items.put(3)
    assert waiting.result() == 3


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
