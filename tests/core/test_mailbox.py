from __future__ import annotations

import queue

import pytest

from parlant_sync._polling.mailbox import Mailbox
from parlant_sync.events import Event


def batch(*offsets: int) -> list[Event]:
    return [Event({"offset": o}) for o in offsets]


def test_behind_until_caught_up() -> None:
    box = Mailbox(10)
    box.offer(batch(1))
    assert box.is_behind()
    assert box.waiting == 0
    box.catch_up()
    box.offer(batch(2, 3))
    assert box.waiting == 2
    assert [e.offset for e in box.take(0)] == [2, 3]
    assert box.waiting == 0
    with pytest.raises(queue.Empty):
        box.take(0)


def test_too_much_is_let_go() -> None:
    box = Mailbox(3)
    box.catch_up()
    box.offer(batch(1, 2))
    box.offer(batch(3))
    assert box.waiting == 3
    box.offer(batch(4))
    assert box.is_behind()
    assert box.waiting == 0
    assert box.take(0) == ()  # what makes the reader look up
    box.offer(batch(5))
    with pytest.raises(queue.Empty):
        box.take(0)


def test_a_large_batch_for_an_idle_reader_is_kept() -> None:
    """It is in memory anyway; to let go of it would mean to fetch it twice."""
    box = Mailbox(3)
    box.catch_up()
    box.offer(batch(1, 2, 3, 4, 5))
    assert not box.is_behind()
    assert len(box.take(0)) == 5


def test_let_go_and_nudge() -> None:
    box = Mailbox(3)
    box.catch_up()
    box.offer(batch(1))
    box.let_go()
    assert box.is_behind()
    assert box.take(0) == ()
    box.nudge()
    assert box.take(0) == ()
    box.catch_up()
    assert not box.is_behind()
