"""The faults of a soak, at random, by the fault proxy of the tests: of single exchanges, and of all at once."""

from __future__ import annotations

import gzip
import importlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soaking import evidence

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
FaultProxy: Any = importlib.import_module("support.fault_proxy").FaultProxy
Order: Any = importlib.import_module("support.fault_orders").Order
content_length: Any = importlib.import_module("support.fault_orders").content_length
split_answer: Any = importlib.import_module("support.fault_orders").split_answer

_HTML = b"<html><body><h1>A page of a proxy</h1></body></html>"
_JSON = b'{"detail": "Internal Server Error"}'
# A proxy's page may have any status. 429 is one of the faults for all: it pauses the whole client.
_OTHER_PAGES = "300 301 302 303 304 305 307 308 421 422 423 424 425 426 428 431 444 451 460 494 499 510 511 530 599"
_PAGES = [*range(200, 207), *range(400, 418), *range(500, 509), *range(520, 528), *map(int, _OTHER_PAGES.split())]
_GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "a number": b"17",
    "an object": b'{"x": 1}',
    "a list of numbers": b"[1]",
    "a list of empty objects": b"[{}]",
    "a page": _HTML,
    "deep JSON": b"[" * 50_000,
    "an odd offset": b'[{"offset": "7"}]',
    "bytes that are no text": bytes(range(128, 256)) * 4,
    "half a surrogate": b'["\\ud800"]',
}
_FRAMES = (
    "a length too long, a length too short, two lengths, a length that is no number, no length and a cut, chunks, "
    "chunks cut, chunks of no size, chunks and a length"
).split(", ")
_HEADS = (
    "102 and 103 first, 101, a status line that is none, random bytes, a head of 100 kB, 200 headers, a folded header, "
    "HTTP/1.0, HTTP/9.9"
).split(", ")
_LOCATIONS = [b"/", b"/login?next=/sessions", b"http://127.0.0.1:9/", b"//", b""]


def _answer(status: int, body: bytes = _HTML, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d Whatever" % status, b"Content-Length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(lines) + body


def _body(answer: bytes) -> bytes:
    body: bytes = split_answer(answer)[1]
    return body


RESET, CLOSED = "all connections reset", "all connections closed"
DOWN, LIMIT = "nobody listens for seconds", "a limit (429)"


class Faults:
    """A fault proxy that strikes a ``share`` of the exchanges, and all at once by ``strike()``.

    ``Strikes`` makes it in a process of its own.
    ``counts()`` has the exchanges that a fault changed, and the faults for all; each of these counts once.
    """

    def __init__(self, upstream: str, seed: int, *, share: float) -> None:
        self._proxy = FaultProxy(upstream, record=1000).__enter__()
        self._chance = random.Random(seed)
        self._share = share
        self._of_all: Counter[str] = Counter()
        self._kinds: list[tuple[int, Callable[[Any], Any]]] = [
            (10, self._cut_request),
            (14, self._cut_answer),
            (12, self._page),
            (6, self._server_error),
            (4, self._redirect),
            (8, self._garbage),
            (8, self._packed),
            (8, self._framing),
            (6, self._head),
            (6, self._twice),
            (6, self._shuffled),
            (5, self._old_answer),
            (3, self._blackhole),
            (3, self._drip),
        ]

    def base_url(self) -> str:
        url: str = self._proxy.base_url
        return url

    def begin(self) -> None:
        self._proxy.choose = self._choose

    def end(self) -> None:
        """No fault any more."""
        self._proxy.choose = None
        self._proxy.clear()

    def counts(self) -> Counter[str]:
        found: Counter[str] = self._proxy.faults + self._of_all
        return found

    def told(self, session_id: str, since: float) -> str:
        return evidence.of_exchanges(self._proxy, session_id, since)

    # -- all at once

    def struck(self, name: str) -> None:
        """Something outside of the proxy was done to all, as a restart of the server."""
        self._of_all[name] += 1

    def strike(self, name: str) -> None:
        if name == LIMIT:  # counts when it has met a request
            wish = random.choice([b"Retry-After: 1", b"Retry-After: nan", b"Retry-After: -1", b"X: y"])
            kind = random.choice(["poll", "post", "list"])
            self._proxy.order(Order(name, kind, 1, instead=(_answer(429, b"{}", wish), "keep")))
            return
        self.struck(name)
        if name == DOWN:
            self._proxy.down()
            time.sleep(random.uniform(0.2, 4))
            self._proxy.up()
        else:
            self._proxy.cut_all(reset=name == RESET)

    # -- one exchange; these run in the proxy's thread

    def _choose(self, exchange: Any) -> Any:
        if self._chance.random() >= self._share:
            return None
        weights = [weight for weight, _ in self._kinds]
        return self._chance.choices([act for _, act in self._kinds], weights)[0](exchange)

    def _instead(self, exchange: Any, name: str, answer: bytes, then: str = "keep") -> Any:
        """Before: the server never sees the request. After: it does its work, and this is what comes of its answer.

        Polls mostly before: a poll changes nothing, and costs a real server much.
        """
        if self._chance.random() < (0.8 if exchange.kind == "poll" else 0.5):
            return Order(f"{name}, before the server", "any", 1, instead=(answer, then))
        return self._change(f"{name}, after the server", lambda _: (answer, then))

    def _change(self, name: str, change: Callable[[bytes], tuple[bytes, str]]) -> Any:
        return Order(name, "any", 1, change=change)

    def _end(self) -> str:
        return self._chance.choice(["reset", "close"])

    def _cut_request(self, exchange: Any) -> Any:
        reset = self._chance.random() < 0.5
        name = f"a request cut by {'RST' if reset else 'FIN'}"
        size = len(exchange.head) + (content_length(exchange.head) or 0)
        return Order(name, "any", 1, cut_at=self._chance.randint(0, size), reset=reset)

    def _cut_answer(self, _: Any) -> Any:
        """At a byte anywhere: in the head, in the body, before the first and after the last one."""
        share, end = self._chance.random(), self._end()
        part = self._chance.choice(["head", "body", "none", "all"])

        def cut(answer: bytes) -> tuple[bytes, str]:
            head, body = split_answer(answer)
            at = {
                "none": 0,
                "head": int(share * len(head)),
                "body": len(head) + int(share * len(body)),
                "all": len(answer),
            }[part]
            return answer[:at], end

        return self._change(f"an answer cut by {'RST' if end == 'reset' else 'FIN'} ({part})", cut)

    def _page(self, exchange: Any) -> Any:
        status = self._chance.choice(_PAGES)
        body = self._chance.choice([_HTML, b"", b"upstream connect error", b'{"message": "no route"}'])
        return self._instead(
            exchange, f"a page with status {status}", _answer(status, body), self._chance.choice(["keep", "close"])
        )

    def _server_error(self, exchange: Any) -> Any:
        status = self._chance.choice([500, 502, 503, 504])
        return self._instead(exchange, f"Parlant's {status}", _answer(status, _JSON, b"Content-Type: application/json"))

    def _redirect(self, exchange: Any) -> Any:
        status, place = self._chance.choice([301, 302, 303, 307, 308]), self._chance.choice(_LOCATIONS)
        return self._instead(exchange, f"a redirect {status}", _answer(status, b"", b"Location: " + place))

    def _garbage(self, exchange: Any) -> Any:
        name, status = self._chance.choice(list(_GARBAGE)), self._chance.choice([200, 201])
        return self._instead(
            exchange, f"{name} for a body", _answer(status, _GARBAGE[name], b"Content-Type: application/json")
        )

    def _packed(self, _: Any) -> Any:
        kind = self._chance.choice(
            ["gzip", "gzip cut", "gzip corrupt", "no gzip at all", "gzip twice", "an unknown coding"]
        )

        def pack(answer: bytes) -> tuple[bytes, str]:
            body = _body(answer)
            packed = gzip.compress(body)
            damaged = bytearray(packed)
            damaged[len(damaged) // 2] ^= 0xFF
            coded = {
                "gzip": packed,
                "gzip cut": packed[: len(packed) // 2],
                "gzip corrupt": bytes(damaged),
                "no gzip at all": body,
                "gzip twice": gzip.compress(packed),
                "an unknown coding": packed,
            }[kind]
            coding = b"Content-Encoding: " + {"gzip twice": b"gzip, gzip", "an unknown coding": b"br9"}.get(
                kind, b"gzip"
            )
            status = int(answer[9:12]) if len(answer) > 12 else 200
            return _answer(status, coded, b"Content-Type: application/json", coding), "keep"

        return self._change(kind, pack)

    def _framing(self, _: Any) -> Any:
        """Bodies whose length is not what the head says."""
        kind = self._chance.choice(_FRAMES)

        def frame(answer: bytes) -> tuple[bytes, str]:
            body = _body(answer)
            top = b"%s 200 OK\r\nContent-Type: application/json\r\n" % answer[:8]
            size = len(body)
            chunks = b"%x\r\n%s\r\n" % (size, body) if size else b""
            end = b"0\r\n\r\n"
            chunked = b"Transfer-Encoding: chunked\r\n"
            made = {
                "a length too long": (b"Content-Length: %d\r\n\r\n" % (size + 9) + body, "close"),
                "a length too short": (b"Content-Length: %d\r\n\r\n" % max(0, size - 5) + body, "keep"),
                "two lengths": (b"Content-Length: %d\r\nContent-Length: 3\r\n\r\n" % size + body, "close"),
                "a length that is no number": (b"Content-Length: many\r\n\r\n" + body, "close"),
                "no length and a cut": (b"Connection: close\r\n\r\n" + body[: size // 2], "close"),
                "chunks": (chunked + b"\r\n" + chunks + end, "keep"),
                "chunks cut": (chunked + b"\r\n" + chunks[: len(chunks) // 2], "close"),
                "chunks of no size": (chunked + b"\r\nxyz\r\n" + body, "close"),
                "chunks and a length": (chunked + b"Content-Length: 5\r\n\r\n" + chunks + end, "close"),
            }[kind]
            return top + made[0], made[1]

        return self._change(kind, frame)

    def _head(self, _: Any) -> Any:
        kind = self._chance.choice(_HEADS)
        noise = self._chance.randbytes(200)

        def head(answer: bytes) -> tuple[bytes, str]:
            line, _, rest = answer.partition(b"\r\n")
            return {
                "102 and 103 first": (b"HTTP/1.1 102 P\r\n\r\nHTTP/1.1 103 E\r\nLink: <x>\r\n\r\n" + answer, "keep"),
                "101": (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n", "close"),
                "a status line that is none": (b"ICY two hundred\r\n" + rest, "close"),
                "random bytes": (noise, "close"),
                "a head of 100 kB": (line + b"\r\nX: " + b"y" * 100_000 + b"\r\n" + rest, "close"),
                "200 headers": (line + b"\r\n" + b"X: y\r\n" * 200 + rest, "close"),
                "a folded header": (line + b"\r\nX: y\r\n z\r\n" + rest, "keep"),
                "HTTP/1.0": (b"HTTP/1.0" + answer[8:], "close"),
                "HTTP/9.9": (b"HTTP/9.9" + answer[8:], "close"),
            }[kind]

        return self._change(kind, head)

    def _twice(self, _: Any) -> Any:
        return self._change("an answer delivered twice", lambda answer: (answer + answer, "keep"))

    def _shuffled(self, _: Any) -> Any:
        seed, twice = self._chance.random(), self._chance.random() < 0.5

        def shuffle(answer: bytes) -> tuple[bytes, str]:
            try:
                events = json.loads(_body(answer))
            except ValueError:
                return answer, "keep"
            if not isinstance(events, list):
                return answer, "keep"
            events = events * 2 if twice or len(events) < 2 else events
            random.Random(seed).shuffle(events)
            return _answer(200, json.dumps(events).encode(), b"Content-Type: application/json"), "keep"

        name = "events shuffled and repeated" if twice else "events shuffled"
        return Order(name, lambda e: e.kind in ("poll", "list"), 1, statuses=frozenset({200}), change=shuffle)

    def _old_answer(self, exchange: Any) -> Any:
        """What a cache or a confused proxy does: an earlier answer to the same address, or to another post there."""
        old = [
            other.answer
            for other in self._proxy.exchanges
            if (other.kind, other.path) == (exchange.kind, exchange.path)
            and other.status in (200, 201)
            and (exchange.kind != "list" or other.query == exchange.query)  # a list is cached by its whole address
        ]
        if exchange.kind not in ("poll", "list", "post") or not old:
            return None
        answer = self._chance.choice(old)
        return self._change("an old answer again", lambda _: (answer, "keep"))

    def _blackhole(self, exchange: Any) -> Any:
        return self._instead(exchange, "no answer, and no end of the connection", b"", "hang")

    def _drip(self, _: Any) -> Any:
        head = self._chance.random() < 0.5
        name = "an answer that drips" if head else "a body that drips"
        return Order(name, "any", 1, drip=self._chance.choice([0.0005, 0.002, 0.05]), drip_head=head)
