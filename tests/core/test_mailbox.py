from __future__ import annotations

import queue

import pytest
from support.raw_api import in_background
from support.waiting import must_end, wait_until

from parlant_sync._polling.mailbox import Mailbox
from parlant_sync.events import Event


def batch(*offsets: int) -> list[Event]:
    return [Event({"offset": o}) for o in offsets]


def ready(limit: int = 3) -> Mailbox:
    box = Mailbox(limit)
    box.catch_up()
    return box


def test_a_mailbox_is_a_queue_that_counts_events() -> None:
    box = ready(10)
    assert isinstance(box, queue.Queue)
    box.offer(batch(1, 2))
    box.offer(batch(3))
    assert (box.qsize(), box.waiting, box.full()) == (3, 3, False)
    for _ in range(7):
        box.put_nowait(batch(4))
    with pytest.raises(queue.Full):
        box.put_nowait(batch(4))


def test_behind_until_caught_up() -> None:
    box = Mailbox(10)
    box.offer(batch(1))
    assert box.behind
    assert box.waiting == 0
    box.catch_up()
    box.offer(batch(2, 3))
    assert box.waiting == 2
    assert [e.offset for e in box.take(0)] == [2, 3]
    assert box.waiting == 0
    with pytest.raises(queue.Empty):
        box.take(0)


def test_a_full_mailbox_lets_go_and_is_behind() -> None:
    box = ready()
    box.offer(batch(1, 2))
    box.offer(batch(3))
    assert box.waiting == 3
    box.offer(batch(4))
    assert box.behind
    assert box.waiting == 0
    assert box.take(0) == ()  # what makes the reader look up
    box.offer(batch(5))
    assert box.take(0) == ()  # behind, it gets no events, only the note that the server answers
    with pytest.raises(queue.Empty):
        box.take(0)


def test_a_large_batch_for_an_idle_reader_is_kept() -> None:
    """It is in memory anyway; to let go of it would mean to fetch it twice."""
    box = ready()
    box.offer(batch(1, 2, 3, 4, 5))
    assert not box.behind
    assert len(box.take(0)) == 5


def test_let_go_and_nudge() -> None:
    box = ready()
    box.offer(batch(1))
    box.let_go()
    assert box.behind
    assert box.take(0) == ()
    box.nudge()
    box.nudge()
    assert box.take(0) == ()
    with pytest.raises(queue.Empty):
        box.take(0)
    box.catch_up()
    assert not box.behind


def test_a_nudge_comes_after_the_events() -> None:
    box = ready()
    box.nudge()
    box.offer(batch(1))
    assert len(box.take(0)) == 1
    assert box.take(0) == ()


class Strike(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("step", ["popleft", "notify", "wait"])
def test_interrupted_it_is_behind_and_never_holds_fewer_than_nothing(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it strikes: the mutex is free, and the count is that of what is there."""
    box = ready(10)

    def strike(*_: object) -> None:
        raise Strike

    if step == "popleft":
        box.offer(batch(1, 2))
        get = box._get

        def taken() -> None:
            get()
            raise Strike

        monkeypatch.setattr(box, "_get", taken)
    elif step == "notify":
        box.offer(batch(1, 2))
        monkeypatch.setattr(box.not_full, "notify", strike)
    else:
        monkeypatch.setattr(box.not_empty, "wait", strike)
    box.mutex.acquire()  # as if it had struck between the acquisition and the ``try`` behind it
    with pytest.raises(Strike):
        box.take(5)
    monkeypatch.undo()
    must_end(box.offer, batch(3))
    assert (box.behind, box.waiting) == (True, 0)
    box.catch_up()
    box.offer(batch(3))
    assert (box.waiting, len(box.take(5)), box.waiting) == (1, 1, 0)


def test_an_interrupted_nudge_does_not_leave_a_reader_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """``close()`` of another thread, interrupted in the middle."""
    box = ready()

    def strike(n: int = 1) -> None:
        monkeypatch.undo()
        raise Strike

    reading = in_background(box.take, 30)
    wait_until(lambda: box.not_empty._waiters, "the reader waits")  # type: ignore[attr-defined]
    monkeypatch.setattr(box.not_empty, "notify", strike)
    with pytest.raises(Strike):
        box.nudge()
    assert reading.result(5) == ()
