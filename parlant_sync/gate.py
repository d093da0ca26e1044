"""One turn at a time: who may start the next one in a session, and what becomes of a turn that nobody finishes."""

from __future__ import annotations

import queue

from parlant_sync.deadline import Deadline


class Pass:
    """The right to run a turn. Given back once, by the first of: its holder, a finalizer, one who waits."""

    __slots__ = ("_right", "deadline", "gate")

    def __init__(self, gate: Gate, deadline: Deadline) -> None:
        self.gate = gate
        self.deadline = deadline
        self._right: list[None] = [None]  # list.pop is atomic: exactly one caller gets it

    def revoke(self) -> bool:
        try:
            self._right.pop()
        except IndexError:
            return False
        return True

    def release(self) -> None:
        """Takes no lock (``SimpleQueue.put`` may be called anywhere), so that a finalizer may call it."""
        if self.revoke():
            self.gate.put()


class Gate:
    """Lets one :class:`Pass` be held at a time. Thread-safe."""

    def __init__(self) -> None:
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._free.put(None)
        self._holder: Pass | None = None
        self._closed = False

    def put(self) -> None:
        self._free.put(None)

    def enter(self, waiting: Deadline, turn: Deadline) -> Pass | None:
        """A pass for a turn that lasts until ``turn``; None where none came free before ``waiting`` was over,
        or where the gate was closed.

        The pass of a turn that is out of time is taken from it: nobody drives that turn any more, or its driver is
        about to be told.
        """
        while True:
            holder = self._holder
            limit = waiting.bound(None if holder is None else holder.deadline.bound(None))
            try:
                self._free.get(timeout=limit)
            except queue.Empty:
                if holder is None or not holder.deadline.expired() or not holder.revoke():
                    if waiting.expired():
                        return None
                    continue
            if self._closed:
                self._free.put(None)  # for the next one who waits
                return None
            taken = Pass(self, turn)
            self._holder = taken
            return taken

    def close(self) -> None:
        """Everybody who waits, now or later, gets None."""
        self._closed = True
        self._free.put(None)
