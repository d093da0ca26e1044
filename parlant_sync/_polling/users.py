"""Who uses a session, so that it is not parked, and for how long nobody has."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Protocol


class Usable(Protocol):
    """A poller."""

    def use(self, user: object) -> None: ...

    def unuse(self, user: object) -> None: ...


class Use:
    """A stretch of use: ``with Use(poller): ...``."""

    __slots__ = ("__weakref__", "_poller")

    def __init__(self, poller: Usable) -> None:
        self._poller = poller

    def __enter__(self) -> None:
        self._poller.use(self)

    def __exit__(self, *_: object) -> None:
        self._poller.unuse(self)


class Users:
    """Counted by being alive: an interrupt may keep a user from saying that he goes, but not from going.

    For one thread at a time, under the poller's lock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._users: list[weakref.ref[object]] = []
        self._last_seen = clock()

    def come(self, user: object) -> None:
        self._users = [*self._living(), weakref.ref(user)]

    def go(self, user: object) -> None:
        users = self._living()
        if (ref := weakref.ref(user)) in users:
            users.remove(ref)
        self._users = users
        self._last_seen = self._clock()

    def idle(self) -> float | None:
        """For how many seconds nobody has been there; None while somebody is."""
        self._users = self._living()
        now = self._clock()
        if self._users:
            self._last_seen = now  # the last that is known of somebody who goes without a word
            return None
        return now - self._last_seen

    def _living(self) -> list[weakref.ref[object]]:
        return [ref for ref in self._users if ref() is not None]
