"""A guard for what only one thread may be inside of: a second thread fails at once instead of waiting."""

from __future__ import annotations

import threading


class SingleOwner:
    """Taken by one thread at a time, and by that thread as often as it likes.

    It is not a lock: an interrupt could come between the acquire and the ``try`` that releases it.
    """

    __slots__ = ("by",)

    def __init__(self) -> None:
        # setdefault() is atomic; the rest is written by the claimant alone. A store of {} lets go.
        self.by: dict[str, int] = {}

    def take(self) -> bool:
        """Enter; return False if another thread is inside. Call it inside of the ``try`` whose end lets go."""
        me = threading.get_ident()
        return self.by.setdefault("thread", me) == me

    def taken(self) -> bool:
        """Return whether another thread is inside."""
        me = threading.get_ident()
        return self.by.get("thread", me) != me

    def let_go(self) -> None:
        if self.by.get("thread") == threading.get_ident():
            self.by = {}
