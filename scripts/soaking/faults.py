"""The faults of a soak: one at a time, at random, by the fault proxy of the tests."""

from __future__ import annotations

import importlib
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
FaultProxy: Any = importlib.import_module("support.fault_proxy").FaultProxy
split_answer: Any = importlib.import_module("support.fault_orders").split_answer

_HTML = b"<html><body><h1>Bad Gateway</h1></body></html>"
_GARBAGE = [b"", b"null", b'{"x": 1}', b"[1]", b"[{}]", _HTML, b"[" * 50_000, b'[{"offset": "7"}]']
_KINDS = ("poll", "post", "list", "read", "any")


def _answer(status: int, body: bytes = _HTML, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d Whatever" % status, b"Content-Length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(lines) + body


class Faults:
    """``strike()`` does one fault; some last until a later one ends them."""

    def __init__(self, proxy: Any, chance: random.Random, restart: Callable[[], None]) -> None:
        self._proxy = proxy
        self._chance = chance
        self._restart = restart
        self._down_for = 0
        self.counts: Counter[str] = Counter()
        self._kinds: list[tuple[int, str, Callable[[], None]]] = [
            (6, "all connections reset", lambda: proxy.cut_all(reset=True)),
            (3, "all connections closed", lambda: proxy.cut_all(reset=False)),
            (10, "answers cut", self._cut_answers),
            (10, "requests cut", self._cut_requests),
            (6, "gateway errors", self._gateway),
            (6, "garbage", self._garbage),
            (2, "a limit", self._limit),
            (3, "answers lost without a word", self._swallow),
            (3, "bodies that drip", lambda: self._note(proxy.drip(0.05, times=2))),
            (2, "the server is gone for seconds", self._down),
            (1, "the server is restarted", restart),
        ]

    def strike(self) -> None:
        if self._down_for > 0:
            self._down_for -= 1
            if self._down_for == 0:
                self._proxy.up()
            return
        if self._chance.random() < 0.2:
            self._proxy.clear()
        weights = [weight for weight, _, _ in self._kinds]
        _, name, act = self._chance.choices(self._kinds, weights)[0]
        self.counts[name] += 1
        act()

    def end(self) -> None:
        """No fault any more."""
        self._proxy.clear()
        if self._down_for:
            self._proxy.up()
            self._down_for = 0

    def _note(self, _: Any) -> None: ...

    def _times(self) -> int:
        return self._chance.randint(1, 5)

    def _cut_answers(self) -> None:
        at, kind = self._chance.randint(0, 900), self._chance.choice(_KINDS)
        self._proxy.cut_answer(at, kind, reset=self._chance.random() < 0.5, times=self._times())

    def _cut_requests(self) -> None:
        at, kind = self._chance.randint(0, 450), self._chance.choice(_KINDS)
        self._proxy.cut_request(at, kind, reset=self._chance.random() < 0.5, times=self._times())

    def _gateway(self) -> None:
        status = self._chance.choice([502, 503, 504])
        if self._chance.random() < 0.5:
            self._proxy.answer(_answer(status), self._chance.choice(_KINDS), times=self._times())
        else:  # the server did its work
            self._proxy.change(lambda _: (_answer(status), "keep"), self._chance.choice(_KINDS), times=self._times())

    def _garbage(self) -> None:
        body = self._chance.choice(_GARBAGE)
        self._proxy.change(lambda _: (_answer(200, body), "keep"), self._chance.choice(_KINDS), times=self._times())

    def _limit(self) -> None:
        wish = self._chance.choice([b"Retry-After: 1", b"Retry-After: nan", b"Retry-After: -1", b"X: y"])
        self._proxy.answer(_answer(429, b"{}", wish), self._chance.choice(_KINDS), times=1)

    def _swallow(self) -> None:
        self._proxy.swallow(self._chance.choice(_KINDS), times=1, statuses=frozenset({200, 201}))

    def _down(self) -> None:
        self._proxy.down()
        self._down_for = self._chance.randint(1, 4)
