"""The faults of a soak from outside: their process, and the thread that strikes all at once."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing import get_context, parent_process
from multiprocessing.managers import BaseManager
from types import MappingProxyType
from typing import Any

from soaking.faults import CLOSED, DOWN, LIMIT, RESET, Faults


def _end_with_the_soak() -> None:
    """In the process of the proxy, however the soak ends."""

    def wait() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="end-with-the-soak", daemon=True).start()


class _Manager(BaseManager):
    pass


_Manager.register("Faults", Faults)


class Strikes:
    """``Faults`` in a process of their own, so that what is measured in this one is the client's. A context manager.

    ``all_every``: seconds between two faults for all. ``acts``: what this process can do to the server, with weights.
    """

    def __init__(
        self,
        upstream: str,
        seed: int,
        *,
        share: float,
        all_every: float,
        acts: Mapping[str, tuple[int, Callable[[], object]]] = MappingProxyType({}),
    ) -> None:
        self._manager = _Manager(ctx=get_context("spawn"))
        self._manager.start(_end_with_the_soak)
        made: Any = self._manager
        self._faults = made.Faults(upstream, seed, share=share)
        self.base_url: str = self._faults.base_url()
        self._over = threading.Event()
        self._chance, self._every = random.Random(seed), all_every
        self._weights = {RESET: 6, CLOSED: 4, DOWN: 3, LIMIT: 2}
        self._acts = acts
        self._weights |= {name: weight for name, (weight, _) in acts.items()}
        self._thread = threading.Thread(target=self._strike_all, name="faults")

    def start(self) -> None:
        self._faults.begin()
        self._thread.start()

    def end(self) -> None:
        """No fault any more."""
        self._over.set()
        self._thread.join()
        self._faults.end()

    def counts(self) -> Counter[str]:
        found: Counter[str] = self._faults.counts()
        return found

    def told(self, session_id: str, since: float) -> str:
        """What went through for this session since then, and which faults struck it."""
        said: str = self._faults.told(session_id, since)
        return said

    def _strike_all(self) -> None:
        while not self._over.wait(self._chance.uniform(0.5, 1.5) * self._every):
            (name,) = self._chance.choices(list(self._weights), list(self._weights.values()))
            if name in self._acts:
                self._acts[name][1]()
                self._faults.struck(name)
            else:
                self._faults.strike(name)

    def __enter__(self) -> Strikes:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.shutdown()
