"""Who is inside of what only one thread may be inside of: only ever tried, never waited for."""

from __future__ import annotations

import threading


class SingleOwner:
    """No lock: an interrupt could come between its acquire and the ``try`` that releases it.

    The claim of a thread is its own again.
    """

    __slots__ = ("by",)

    def __init__(self) -> None:
        # setdefault() is atomic; the rest is written by the claimant alone. A store of {} lets go.
        self.by: dict[str, int] = {}

    def take(self) -> bool:
        """False where another thread is inside."""
        me = threading.get_ident()
        return self.by.setdefault("thread", me) == me

    def taken(self) -> bool:
        """Whether another thread is inside."""
        me = threading.get_ident()
        return self.by.get("thread", me) != me

    def let_go(self) -> None:
        if self.by.get("thread") == threading.get_ident():
            self.by = {}
