"""The pauses of one poller: after trouble, which good news may cut short, and after a 429, which only its end does."""

from __future__ import annotations

from parlant_sync._api.rate_limit import RateLimiter
from parlant_sync._api.retry import Bell, Nap


class Pauses:
    """For the poller's thread; ``waiting`` and ``cut()`` are for all."""

    def __init__(self) -> None:
        self._nap: Nap | None = None  # the pause after trouble
        self._braked = False

    @property
    def waiting(self) -> bool:
        return self._nap is not None or self._braked

    def back_off(self, seconds: float, bell: Bell) -> None:
        """So long, or until ``cut()``, or until ``bell`` rings."""
        self._nap = nap = Nap(bell)
        nap.wait(seconds)
        self._nap = None

    def take_turn(self, limiter: RateLimiter, bell: Bell) -> bool:
        """After a 429 all pollers of the client wait together, and then take turns; False: ``bell`` rang."""
        if limiter.go():
            return True
        self._braked = True
        may_go = limiter.wait(bell)
        self._braked = False
        return may_go

    def cut(self) -> None:
        """The server was seen to answer: no more backing off. Of what it counts by the minute that tells nothing."""
        nap = self._nap
        if nap is not None:
            nap.cut()
