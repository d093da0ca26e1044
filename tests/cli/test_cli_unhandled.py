"""Which signals are sent again, and which are not."""

from __future__ import annotations

import math
import signal

from parlant_sync.cli.signals import Unhandled

INT, TERM = signal.SIGINT, signal.SIGTERM


def test_a_handled_one_is_not_sent_again() -> None:
    unhandled = Unhandled()
    assert unhandled.check == math.inf
    assert unhandled.came(INT, handled=1, now=10.0)  # its handler was faster than we
    assert 10.0 < unhandled.check < 10.1
    assert unhandled.settled(1)
    assert unhandled.check == math.inf


def test_an_unhandled_one_is_sent_again_later_and_later() -> None:
    unhandled = Unhandled()
    assert unhandled.came(INT, handled=3, now=10.0)
    assert unhandled.settled(4)
    unhandled.came(INT, handled=4, now=20.0)
    pauses = []
    now = 20.0
    for _ in range(8):
        assert not unhandled.settled(4)
        pauses.append(unhandled.check - now)
        now = unhandled.check
        assert unhandled.again(now) == INT
        assert not unhandled.came(INT, handled=4, now=now)  # it is ours, and counts for nothing
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.5
    assert unhandled.settled(5)


def test_many_that_one_run_has_handled() -> None:
    """Held down while a name was resolved: Python merges them, and none is sent once more."""
    unhandled = Unhandled()
    for press in range(20):
        unhandled.came(INT, handled=0, now=press / 20)
    assert not unhandled.settled(0)
    assert unhandled.settled(1)


def test_two_of_which_one_was_handled_before_the_other_came() -> None:
    unhandled = Unhandled()
    unhandled.came(INT, handled=1, now=1.0)
    unhandled.came(INT, handled=1, now=1.01)
    assert not unhandled.settled(1)
    assert unhandled.settled(2)


def test_another_one_is_not_taken_for_ours() -> None:
    unhandled = Unhandled()
    unhandled.came(INT, handled=0, now=1.0)
    unhandled.again(1.1)
    assert unhandled.came(TERM, handled=0, now=1.1)
    assert not unhandled.came(INT, handled=0, now=1.1)
    assert unhandled.came(INT, handled=0, now=1.2)  # typed
