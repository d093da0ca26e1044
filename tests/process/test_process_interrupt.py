"""KeyboardInterrupt in ``iter_events()``, at every moment it can come at: no event is lost, and ``cursor`` is right."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dis import opname
from types import FrameType
from typing import Any

import pytest
from support.process_helpers import run

import parlant_sync
from parlant_sync import Client, Event, Session
from parlant_sync._http import adapter, auth, codec, connecting, connection, transport
from parlant_sync.testing import FakeServer

HOME = os.path.dirname(parlant_sync.__file__)
# An interrupt while urllib3 opens a socket, or while requests hands an answer on, drops that socket: closed at once,
# but with a warning.
NOT_HERE = tuple(module.__file__ for module in (adapter, auth, codec, connecting, connection, transport))


# After these CPython looks whether a signal has come; nowhere else does a KeyboardInterrupt begin.
_LOOKS = ("CALL", "RESUME", "JUMP_BACKWARD", "POP_JUMP_BACKWARD", "JUMP_ABSOLUTE")


def _ours(frame: FrameType) -> bool:
    """What runs inside ``next``: this library, and the queue that it waits in."""
    caller: FrameType | None = frame
    while caller is not None and _file(caller) == queue.__file__:
        caller = caller.f_back
    return caller is not None and _file(caller).startswith(HOME) and _file(caller) not in NOT_HERE


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename


class Interrupter:
    """Raises KeyboardInterrupt at the ``at``-th moment at which CPython would: after a call, at a function's start."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.where: str | None = None
        self._last: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not _ours(frame):
            return None
        if event == "call":
            # In this order: Python 3.13 and later trace the opcodes of a frame only if it had a tracer before.
            frame.f_trace, frame.f_trace_lines = self, False
            frame.f_trace_opcodes = True
        elif event == "opcode" and self.where is None:
            before = self._last.get(frame, "RESUME")
            self._last[frame] = opname[frame.f_code.co_code[frame.f_lasti]]
            if before.startswith(_LOOKS):
                self.left -= 1
                if self.left < 0:
                    self.where = f"{os.path.basename(_file(frame))}:{frame.f_lineno}"
                    raise KeyboardInterrupt
        return self

    def __enter__(self) -> Interrupter:
        sys._getframe().f_trace_opcodes = True  # Python 3.12 looks at this in settrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


def interrupted_next(reader: Any, at: int) -> tuple[Event | None, str | None]:
    """The event, or where it was interrupted instead."""
    interrupter = Interrupter(at)
    try:
        with interrupter:
            event = next(reader)
    except KeyboardInterrupt:
        return None, interrupter.where
    return event, None


def _sweep(
    session: Session, add: Callable[[int], None], *, fresh: bool, start: Callable[[], Any]
) -> tuple[list[int], list[str]]:
    """Interrupt at step 0, 1, 2, ... of a ``next`` until one goes through without; what was given in all."""
    given: list[int] = []
    wheres: list[str] = []
    reader = start()
    at = 0
    while True:
        add(at)
        event, where = interrupted_next(reader, at)
        if where is None:
            assert event is not None
            given.append(event.offset)
            return given, wheres
        wheres.append(where)
        assert session.cursor <= len(given), f"interrupted at {where}: the cursor went on to {session.cursor}"
        if fresh:
            reader = start()
        # Goes on after the interruption, uninterrupted: the next event is the one that was not given.
        event = next(reader)
        assert event.offset == len(given), f"interrupted at {where}: {event.offset} came instead of {len(given)}"
        given.append(event.offset)
        at += 1
        assert at < 2000


@pytest.mark.parametrize("fresh", [True, False], ids=["a-new-loop", "the-same-reader"])
@pytest.mark.parametrize("waiting", [False, True], ids=["behind", "by-the-mailbox"])
def test_at_every_moment(fresh: bool, waiting: bool, server: FakeServer) -> None:
    with Client(server.base_url) as client:
        session = client.session(server.create_session("quick"), since="beginning")
        session.iter_events().close()  # it polls from here on
        server.wait_polls(1)

        def add(at: int) -> None:
            server.add_event(session.id, data={"n": at})
            if waiting:  # it is in the mailbox before ``next`` is called
                deadline = threading.Event()
                while session.health.next_offset <= at:
                    assert not deadline.wait(0.001)

        given, wheres = _sweep(session, add, fresh=fresh, start=lambda: session.iter_events(timeout=10))
        assert given == list(range(len(given)))
        assert len(wheres) > 20
        assert any(where.startswith("reader.py") for where in wheres)


def test_a_loop_that_is_resumed_by_its_cursor(server: FakeServer) -> None:
    """As another process would: from ``cursor``, at least once."""
    with Client(server.base_url) as client:
        session = client.session(server.create_session("quick"), since="beginning")
        seen: set[int] = set()
        for at in range(0, 120, 3):
            server.add_event(session.id)
            event, _ = interrupted_next(session.iter_events(timeout=10), at)
            if event is not None:
                seen.add(event.offset)
            cursor = session.cursor
            resumed = session.iter_events(since=cursor, timeout=0)
            seen.update(event.offset for event in resumed)
        assert seen == set(range(40))


def test_real_signals_in_a_program(server: FakeServer) -> None:
    """SIGINT at random moments of a loop, in a process of its own; events flow all the time."""
    session_id = server.create_session("quick")
    stop = threading.Event()

    def feed() -> None:
        while not stop.wait(0.002):
            server.add_event(session_id)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        done = run("interrupted_reader.py", server.base_url, session_id, "300", timeout=90)
    finally:
        stop.set()
        thread.join()
    assert (done.code, done.err) == (0, ""), done.out + done.err
    assert done.out.startswith("READY"), done.out


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX timers")
@pytest.mark.parametrize("mode", ["hot", "blocked"])
@pytest.mark.parametrize("count", [200, pytest.param(3000, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
def test_signal_handlers_that_raise_leave_the_mailbox_usable(mode: str, count: int) -> None:
    """At random moments of ``get``, of a full mailbox and of an empty one. Plain queues hang in every tenth case."""
    done = run("raising_signals.py", "Mailbox", mode, count, timeout=580)
    assert (done.code, done.err) == (0, ""), done.err
    assert json.loads(done.out) == {"interrupted": count}


@pytest.mark.full
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="shown on the versions that were measured")
def test_a_plain_queue_hangs() -> None:
    """What the mailbox's repair is for; where this fails, it is not needed any more."""
    done = run("raising_signals.py", "Plain", "hot", 3000, timeout=580)
    assert "put hangs" in json.loads(done.out)
