"""A minute's limit and twenty pollers, in simulated time: what ``RateLimiter`` makes of them."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from parlant_sync._api.rate_limit import RateLimiter

LISTS_PER_TURN = 8  # WIRE.md
_LATENCY = 0.02


@dataclass
class World:
    """Time, and a server that allows so many lists in any 60 seconds."""

    limit: float
    seed: int
    now: float = 0.0
    answers: list[tuple[float, int]] = field(default_factory=list)
    turns: int = 0
    lags: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.pace = RateLimiter(clock=lambda: self.now)
        self._window: deque[float] = deque()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._count), act))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] < until:
            self.now, _, act = heapq.heappop(self._queue)
            act()

    def allowed(self) -> bool:
        while self._window and self._window[0] <= self.now - 60:
            self._window.popleft()
        allowed = len(self._window) < self.limit
        if allowed:
            self._window.append(self.now)
        self.answers.append((self.now, 200 if allowed else 429))
        return allowed

    def refused_in_minute(self, minute: int) -> float:
        """The share of 429s in the minute of that number."""
        statuses = [status for at, status in self.answers if minute * 60 <= at < minute * 60 + 60]
        return statuses.count(429) / max(1, len(statuses))


class Poller:
    """Polls, and holds a conversation: a turn of eight events, then ``think`` seconds of silence."""

    def __init__(self, world: World, think: float) -> None:
        self._world = world
        self._think = think
        self._events: list[float] = []
        self._idle = False
        self._failures = 0
        world.after(world.chance.uniform(0, think), self._turn)
        self._poll()

    def _turn(self) -> None:
        self._events = [self._world.now + 3.0 * (n + 1) / LISTS_PER_TURN for n in range(LISTS_PER_TURN)]
        self._over = self._events[-1]
        if self._idle:
            self._idle = False
            self._answer_at(self._events[0])

    def _poll(self) -> None:
        """``RateLimiter.wait()`` without a thread."""
        world = self._world
        at = world.pace.reserve(math.inf)
        assert at is not None
        if at <= world.now:
            self._ask()
        else:
            world.after(at - world.now, lambda: self._poll() if at < world.pace._paused_until else self._ask())

    def _ask(self) -> None:
        world = self._world
        if not world.allowed():
            world.after(_LATENCY, self._refused)
        else:
            self._failures = 0
            self._idle = not self._events
            if self._events:
                self._answer_at(self._events[0])

    def _refused(self) -> None:
        self._world.pace.limited(None)
        self._failures += 1
        self._world.after(self._world.chance.uniform(0.25, min(10.0, 0.25 * 2**self._failures)), self._poll)

    def _answer_at(self, at: float) -> None:
        self._world.after(max(_LATENCY, at - self._world.now), self._answer)

    def _answer(self) -> None:
        world = self._world
        self._events = [at for at in self._events if at > world.now]
        if not self._events:
            world.turns += 1
            world.lags.append(world.now - self._over)
            world.after(world.chance.uniform(0.5, 1.5) * self._think, self._turn)
        world.after(0.001, self._poll)


def simulate(*, limit: float, think: float, minutes: int, seed: int, pollers: int = 20) -> World:
    world = World(limit, seed)
    for _ in range(pollers):
        Poller(world, think)
    world.run(minutes * 60.0)
    return world
