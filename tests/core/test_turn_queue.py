"""One turn at a time: the queue alone, and the turns of a session in it."""

from __future__ import annotations

import functools
import gc
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from support.raw_api import in_background
from support.waiting import wait_until, within

from parlant_sync import NotFoundError, Session, SessionClosed, TurnTimeout
from parlant_sync._deadline import Deadline
from parlant_sync._turns import starter, tracker
from parlant_sync._turns.driver import TurnDriver
from parlant_sync._turns.starter import TurnQueue
from parlant_sync.testing import FakeServer

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
    """For the call that waits behind the interrupted one."""
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

        def interrupted(call: Callable[[], Any], trace: Any = trace) -> Any:
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                return call()
            except KeyboardInterrupt:
                return None
            finally:
                sys.settrace(before)

        entry = interrupted(functools.partial(gate.enter, Deadline(100)))
        waiting = in_background(gate.enter, Deadline(30))
        if entry is not None:
            wait_until(lambda gate=gate: len(gate._queue) == 2)  # type: ignore[misc]
            interrupted(entry.release)
            entry = None
        next_entry = waiting.result(5)
        assert next_entry is not None, f"after an interrupt at {event} {stop_at} of {name}"
        next_entry.release()
        if count < stop_at:
            break
    assert stop_at > 1  # it was interrupted at all


# -- the turns of a session


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_second_send_waits_its_turn_within_its_own_time(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not replace a turn that a thread waits in, however long that takes."""
    monkeypatch.setattr(starter, "UNATTENDED", 0.1)
    server.agent("a").replies("first").waits("g")
    server.agent("a").replies("second")
    first = in_background(session.send, "one")
    server.reached("g")
    with pytest.raises(TurnTimeout, match="nothing was posted") as caught:
        session.send("two", timeout=0.5)
    assert caught.value.event is None
    second = in_background(session.send, "three")
    posted = session.post("meanwhile")  # neither waits nor queues
    assert posted.message == "meanwhile"
    server.release("g")
    assert {first.result(10).outcome, second.result(10).outcome} == {"answered"}
    customers = [e.message for e in session.history(sources="customer")]
    assert "two" not in customers


def test_an_abandoned_turn_frees_the_queue(server: FakeServer, session: Session) -> None:
    server.agent("a").ignores()
    server.agent("a").replies("fine")
    turn = session.stream("collected")
    del turn
    gc.collect()
    assert session.send("q", timeout=5).text == "fine"
    with session.stream("left") as turn:
        pass
    assert session.send("q", timeout=5).text == "fine"
    with pytest.raises(SessionClosed, match="reply_to"):
        session.stream("x").__class__.reply(turn)
    kept = session.stream("out of time", timeout=0.2)
    assert session.send("q", timeout=5).text == "fine"
    kept.close()


def test_an_interrupted_send_frees_the_queue(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if its frames are held by the exception, as in a notebook."""
    monkeypatch.setattr(starter, "UNATTENDED", 60.0)
    server.agent("a").ignores()
    server.agent("a").replies("fine")
    step = TurnDriver._step
    monkeypatch.setattr(TurnDriver, "_step", lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt) as held:
        session.send("q")
    monkeypatch.setattr(TurnDriver, "_step", step)
    assert session.send("again", timeout=5).text == "fine"
    assert held.traceback


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("send", "run"),
        ("trigger", "run"),
        ("stream", "Turn.__init__"),
        ("stream", "TurnDriver.leave_unattended"),
        ("stream", "TurnTicket.leave_unattended"),
    ],
)
def test_an_interrupt_between_the_post_and_the_turn_frees_the_queue(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch, call: str, name: str
) -> None:
    """At the first line of these, before any ``try`` of theirs, and the exception holds their frames."""
    monkeypatch.setattr(starter, "UNATTENDED", 60.0)
    server.agent("a").ignores()
    server.agent("a").replies("fine")

    def trace(frame: FrameType, what: str, arg: Any) -> None:
        own = frame.f_locals.get("self")
        if name in (frame.f_code.co_name, f"{type(own).__name__}.{frame.f_code.co_name}"):
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt) as held:
            getattr(session, call)("q")
    finally:
        sys.settrace(before)
    assert session.send("again", timeout=5).text == "fine"
    assert held.traceback


def test_an_interrupt_at_the_end_of_a_step_lets_the_turn_be_replaced(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "UNATTENDED", 0.1)
    server.agent("a").ignores()
    server.agent("a").replies("fine")
    turn = session.stream("q")
    with monkeypatch.context() as patch:
        patch.setattr(TurnDriver, "leave_unattended", lambda _: interrupt())
        with pytest.raises(KeyboardInterrupt):
            next(turn.updates(heartbeat=0.01))
    assert session.send("again", timeout=5).text == "fine"
    turn.close()


@pytest.mark.parametrize("first", ["driven", "kept"])
@pytest.mark.parametrize("ended", ["deleted", "closed"])
def test_all_who_queue_are_told_of_the_end(
    server: FakeServer, session: Session, ended: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, also those who queue behind a turn that nobody drives."""
    monkeypatch.setattr(starter, "UNATTENDED", 60.0)
    server.agent("a").replies("x").waits("g")
    kept = session.stream("kept") if first == "kept" else None
    sending = [in_background(session.send, f"m{n}", timeout=None) for n in range(4)]
    server.reached("g")
    if ended == "closed":
        session.close()
    else:
        server.delete_session(session.id)
    for sent in sending:
        with pytest.raises(SessionClosed if ended == "closed" else NotFoundError):
            sent.result(10)
    del kept


def test_an_unread_turn_frees_the_queue_when_it_is_over(server: FakeServer, session: Session) -> None:
    unread = session.stream("one")
    half_read = iter(session.stream("two"))
    next(half_read)
    with within(1.0):
        assert session.send("three", timeout=10).text == "echo: three"
    assert unread.reply().text == "echo: one"
    assert [e.message for e in half_read if e.message] == ["echo: two"]


def test_an_unread_turn_that_runs_is_waited_for(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("first").after(0.5)
    server.agent("a").replies("second")
    unread = session.stream("one")
    assert session.send("two", timeout=10).text == "second"
    assert unread.reply().text == "first"


def test_an_unread_turn_of_a_hook_frees_the_queue_after_its_quiet_period(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker, "HOOK_QUIET", 0.3)
    server.agent("a").hook_answers("hi")
    server.agent("a").replies("second")
    unread = session.stream("one")
    started = time.monotonic()
    assert session.send("two", timeout=10).text == "second"
    assert 0.2 < time.monotonic() - started < 1.5
    assert unread.reply().text == "hi"


def test_a_turn_that_no_thread_waits_in_is_replaced(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A visitor left in the middle of his turn, and now sends again. Both get the reply that answers both."""
    monkeypatch.setattr(starter, "UNATTENDED", 0.3)
    server.agent("a").replies("first").waits("g")
    server.agent("a").replies("to both")
    left = session.stream("one")
    server.reached("g")
    with within(2.0):
        assert session.send("two", timeout=10).text == "to both"
    assert left.reply().text == "to both"


def test_interrupting_does_not_wait_and_both_get_the_reply_to_both(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("first").waits("g")
    server.agent("a").replies("to both")
    first = in_background(session.send, "one", timeout=20)
    server.reached("g")
    second = in_background(session.send, "two", timeout=20, interrupt=True)
    assert [second.result(10).text, first.result(10).text] == ["to both", "to both"]
    assert session.send("next", timeout=5).outcome == "answered"
