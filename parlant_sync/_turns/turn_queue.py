"""One turn at a time: who may run the next one in a session, and what becomes of a turn that nobody finishes."""

from __future__ import annotations

import functools
import queue
import weakref

from parlant_sync._deadline import Deadline


class TurnTicket:
    """A place in the queue of a gate; whoever is first may run a turn. Given up by :meth:`release`, by being collected,
    or by its time running out: whatever interrupts its holder, the queue goes on."""

    __slots__ = ("__weakref__", "_queue", "deadline", "released", "wake")

    def __init__(self, waiting: list[weakref.ref[TurnTicket]], deadline: Deadline) -> None:
        self.deadline = deadline
        self.released = False
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._queue = waiting

    def release(self) -> None:
        """Idempotent. Takes no lock, so that a finalizer may call it."""
        self.released = True
        _nudge(self._queue)


class TurnQueue:
    """Lets one :class:`TurnTicket` be held at a time, in the order in which they came. Thread-safe.

    Without a lock, which an interrupt could leave taken for ever: a list's append() and remove() are atomic.
    """

    def __init__(self) -> None:
        # Weak, for a pass belongs to its turn: nobody else must keep it from being collected.
        self._queue: list[weakref.ref[TurnTicket]] = []
        self._closed = False

    def enter(self, deadline: Deadline) -> TurnTicket | None:
        """A pass for a turn that lasts until ``deadline``; None where it was over before one came free, or where the
        gate was closed.

        The pass of a turn that is out of time is taken from it: nobody drives that turn any more, or its driver is
        about to be told.
        """
        mine = TurnTicket(self._queue, deadline)
        self._queue.append(weakref.ref(mine, functools.partial(_nudge, self._queue)))
        try:
            while not self._closed:
                first = self._first(mine)
                if first is mine:
                    return mine
                if deadline.expired():
                    break
                until = deadline.bound(None if first is None else first.deadline.bound(None))
                del first  # who waits for a pass to be collected must not be the one who keeps it
                try:
                    mine.wake.get(timeout=until)
                except queue.Empty:
                    pass
        except BaseException:
            mine.release()
            raise
        mine.release()
        return None

    def _first(self, mine: TurnTicket) -> TurnTicket | None:
        """Whose turn it is. ``mine`` counts even when its time is over, unless somebody else has noticed that first."""
        for ref in list(self._queue):
            first = ref()
            if first is mine or (first is not None and not first.released and not first.deadline.expired()):
                return first
            try:
                self._queue.remove(ref)
            except ValueError:
                pass  # another thread was faster
        return None

    def close(self) -> None:
        """Everybody who waits, now or later, gets None. Takes no lock."""
        self._closed = True
        _nudge(self._queue)


def _nudge(waiting: list[weakref.ref[TurnTicket]], _: object = None) -> None:
    """Make all who wait look whose turn it is."""
    for ref in list(waiting):
        waiter = ref()
        if waiter is not None:
            waiter.wake.put(None)
