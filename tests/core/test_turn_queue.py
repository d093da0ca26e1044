from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from support.raw_api import in_background
from support.waiting import wait_until

from parlant_sync._deadline import Deadline
from parlant_sync._turns.starter import TurnQueue

SOON = 0.01


def test_one_turn_at_a_time() -> None:
    gate = TurnQueue()
    first = gate.enter(Deadline(100))
    assert first is not None
    assert gate.enter(Deadline(SOON)) is None
    first.release()
    first.release()  # twice frees once
    second = gate.enter(Deadline(100))
    assert second is not None
    assert gate.enter(Deadline(SOON)) is None


def test_taken_from_a_turn_that_is_out_of_time() -> None:
    gate = TurnQueue()
    late = gate.enter(Deadline(0.05))
    assert late is not None
    taken = gate.enter(Deadline(100))
    assert taken is not None
    late.release()  # too late: it has nothing to give back any more
    assert gate.enter(Deadline(SOON)) is None
    taken.release()
    assert gate.enter(Deadline(100)) is not None


def test_many_threads_never_overlap() -> None:
    gate = TurnQueue()
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(50):
            entry = gate.enter(Deadline(30))
            assert entry is not None
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            entry.release()

    for working in [in_background(work) for _ in range(8)]:
        working.result(30)
    assert len(most) == 400
    assert max(most) == 1


def test_closing_lets_everybody_go() -> None:
    gate = TurnQueue()
    held = gate.enter(Deadline(100))
    assert held is not None
    waiting = [in_background(gate.enter, Deadline(30)) for _ in range(5)]
    gate.close()
    assert [each.result(5) for each in waiting] == [None] * 5
    assert gate.enter(Deadline(30)) is None


def test_given_up_by_being_collected() -> None:
    gate = TurnQueue()
    first = gate.enter(Deadline(100))
    assert first is not None
    waiting = in_background(gate.enter, Deadline(30))
    wait_until(lambda: len(gate._queue) == 2)
    del first
    assert waiting.result(5) is not None


def test_a_turn_that_came_meanwhile_and_is_out_of_time_is_noticed() -> None:
    """Whoever began to wait behind the first must not sleep by the first one's time when it waits for the second."""
    gate = TurnQueue()
    first = gate.enter(Deadline(100))
    second = in_background(gate.enter, Deadline(0.3))
    wait_until(lambda: len(gate._queue) == 2)
    third = in_background(gate.enter, Deadline(30))
    wait_until(lambda: len(gate._queue) == 3)
    assert first is not None
    first.release()
    assert second.result(5) is not None
    assert third.result(5) is not None


def test_in_the_order_in_which_they_came() -> None:
    """One who sends in a loop does not starve those who wait."""
    gate = TurnQueue()
    entry = gate.enter(Deadline(30))
    order: list[str] = []

    def wait() -> None:
        mine = gate.enter(Deadline(30))
        order.append("waiter")
        assert mine is not None
        mine.release()

    waiting = in_background(wait)
    wait_until(lambda: len(gate._queue) == 2)
    for _ in range(3):
        assert entry is not None
        entry.release()
        entry = gate.enter(Deadline(30))
        order.append("loop")
    waiting.result(5)
    assert order[0] == "waiter"


@pytest.mark.parametrize("name", ["enter", "__init__", "_first", "release", "_nudge"])
@pytest.mark.parametrize("event", ["call", "line", "return"])
def test_an_interrupt_anywhere_leaves_it_usable(name: str, event: str) -> None:
    for stop_at in range(1, 30):
        gate = TurnQueue()
        count = 0

        def trace(frame: FrameType, what: str, arg: Any, stop_at: int = stop_at) -> Any:
            nonlocal count
            if not frame.f_code.co_filename.endswith("_turns/starter.py"):
                return None
            if frame.f_code.co_name == name and what == event:
                count += 1
                if count == stop_at:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            entry = gate.enter(Deadline(100))
            assert entry is not None
            entry.release()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        entry = None
        again = gate.enter(Deadline(2))
        assert again is not None, f"after an interrupt at {event} {stop_at} of {name}"
        again.release()
        if count < stop_at:
            break
