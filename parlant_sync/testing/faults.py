"""The requests that a test sees, and faults on demand: answers that are wrong, late, cut, or that never come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .agents import check_seconds
from .httpd import Request, Response, Serve, phrase
from .loop import LoopThread

Pattern = str | Callable[[Request], bool]
"""Which requests: ``"POST"``, ``"/sessions/*/events"``, ``"GET /sessions"``, or a function that says so. A path without
``*`` is the end of the path."""

Apply = Callable[[Request, Serve], Awaitable[Response]]


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def check_pattern(pattern: Pattern) -> None:
    """Raises ValueError for a text that can match no request."""
    if not isinstance(pattern, str):
        return
    method, path = _parts(pattern)
    if (method and method not in _METHODS) or " " in path:
        raise ValueError(
            f"no request is like {pattern!r}; a pattern is a method, the end of a path, a path with *, or both, as in "
            "'POST /events'"
        )


def _parts(pattern: str) -> tuple[str, str]:
    method, _, path = pattern.rpartition(" ") if " " in pattern else ("", "", pattern)
    return (path, "") if not method and path.isalpha() and path.isupper() else (method, path)


def matches(pattern: Pattern, request: Request) -> bool:
    """Whether the pattern is meant for that request."""
    if not isinstance(pattern, str):
        return pattern(request)
    method, path = _parts(pattern)
    if method and method != request.method:
        return False
    return path in ("", "/") or (fnmatchcase(request.path, path) if "*" in path else request.path.endswith(path))


@dataclass
class Fault:
    """What is to happen to the next requests that match."""

    pattern: Pattern
    apply: Apply
    times: int | None


@dataclass
class Faults:
    """The faults that wait for their requests, in the order they were asked for."""

    waiting: list[Fault] = field(default_factory=list)

    def take(self, request: Request) -> Fault | None:
        """The fault for this request, used up by one."""
        for fault in self.waiting:
            if matches(fault.pattern, request):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.waiting.remove(fault)
                return fault
        return None


def failing(status: int, body: bytes, headers: dict[str, str], stored: bool) -> Apply:
    """An answer that is not the server's own; with `stored` the server did its work before."""

    async def apply(request: Request, serve: Serve) -> Response:
        if stored:
            await serve(request)
        return Response(status, body, headers)

    return apply


def cutting(after: int | None, of_body: bool, reset: bool, stored: bool) -> Apply:
    """The connection is closed after so many bytes of the answer (or of its body); None: in the middle of the body."""

    async def apply(request: Request, serve: Serve) -> Response:
        response = await serve(request) if stored else Response(200)
        if after is None:
            response.cut_after, of = len(response.body) // 2, True
        else:
            response.cut_after, of = after, of_body
        if of:
            response.cut_body = True
        response.reset = reset
        return response

    return apply


def altering(function: Callable[[Response], Response | None]) -> Apply:
    """The real answer as `function` changes it, or another that it gives."""

    async def apply(request: Request, serve: Serve) -> Response:
        response = await serve(request)
        changed = function(response)
        if not isinstance(changed, (Response, type(None))):
            raise TypeError(f"it gave {changed!r:.60}; a Response is needed, or None")
        changed = changed or response
        if type(changed.status) is not int or not isinstance(changed.body, bytes):
            raise TypeError(f"status {changed.status!r:.20} is no int, or body {changed.body!r:.60} no bytes")
        return changed

    return apply


def dripping(size: int, every: float) -> Apply:
    """The answer in small pieces."""

    async def apply(request: Request, serve: Serve) -> Response:
        response = await serve(request)
        response.drip = (size, every)
        return response

    return apply


class Hold:
    """A request, or several, carried out but not answered until ``release``. Methods are for any thread."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self._open = False
        self._count = 0
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def count(self) -> int:
        """How many requests have come to wait here."""
        return self._count

    def wait(self, timeout: float = 5.0, count: int = 1) -> None:
        """Until so many requests have come to wait here; ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._count >= count, timeout, f"{count} requests held")

    def release(self) -> None:
        """Lets them be answered, and those still to come."""
        self._loop.call(self._release)

    def _release(self) -> None:
        self._open = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def apply(self, request: Request, serve: Serve) -> Response:
        """Answers when released."""
        response = await serve(request)
        self._count += 1
        self._loop.changed()
        if not self._open:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return response


class RequestControls:
    """What a test does with the requests to a ``FakeServer``: it sees them, waits for them, and orders faults.

    All methods may be called from any thread.
    """

    _loop: LoopThread
    _faults: Faults
    _requests: deque[Request]

    # --- what it got

    @property
    def requests(self) -> list[Request]:
        """The requests it got so far, oldest first (a copy; the last 10,000, see `record`)."""
        return self._loop.call(lambda: list(self._requests))

    def forget_requests(self) -> None:
        """Empties ``requests``."""
        self._loop.call(self._requests.clear)

    def wait_requests(self, pattern: Pattern = "/", count: int = 1, timeout: float = 5.0) -> list[Request]:
        """Waits until `count` matching requests have come, and returns them; ``TimeoutError`` after `timeout` seconds.

        A pattern is a method, the end of a path, a path with ``*``, both (``"POST /events"``), or a function.
        """

        check_pattern(pattern)

        def found() -> list[Request]:
            return [r for r in self._requests if matches(pattern, r)]

        self._loop.wait_until(lambda: len(found()) >= count, timeout, f"{count} requests {pattern!r}")
        return self._loop.call(found)

    # --- faults

    def fail_next(
        self,
        pattern: Pattern = "/",
        status: int = 502,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        times: int | None = 1,
        stored: bool = False,
    ) -> None:
        """The next matching requests get this answer instead; `stored`: the server does its work all the same.

        `body`: None is a page of HTML, as a proxy gives it. `times`: how many requests; None: until
        ``clear_faults``. For patterns see ``wait_requests``.
        """
        if body is None:
            body = f"<html><body>{phrase(status)}</body></html>"
        content = body.encode() if isinstance(body, str) else body
        kind = "text/html" if content.startswith(b"<") else "application/json"
        given = {name.lower(): value for name, value in (headers or {}).items()}
        self._fault(pattern, failing(status, content, {"content-type": kind, **given}, stored), times)

    def cut_next(
        self,
        pattern: Pattern = "/",
        after: int | None = 0,
        *,
        of_body: bool = False,
        reset: bool = False,
        stored: bool = False,
        times: int | None = 1,
    ) -> None:
        """The connection of the next matching requests is closed after so many bytes of the answer.

        `after=0`: without any answer, and without the request being carried out, unless `stored`. `of_body`: bytes of
        the body. `after=None`: in the middle of the body. `reset`: by a reset, not by an orderly end.
        """
        carried_out = stored or after is None or after > 0 or of_body
        self._fault(pattern, cutting(after, of_body, reset, carried_out), times)

    def hold_next(self, pattern: Pattern = "/", *, times: int | None = 1) -> Hold:
        """The next matching requests are carried out and stored, but not answered until ``.release()``."""
        hold = Hold(self._loop)
        self._fault(pattern, hold.apply, times)
        return hold

    def drip_next(self, pattern: Pattern = "/", size: int = 1, every: float = 0.1, *, times: int | None = 1) -> None:
        """The answers of the next matching requests come in pieces of `size` bytes, one `every` so many seconds."""
        if size < 1:
            raise ValueError(f"size is a number of bytes, at least 1, not {size!r}")
        self._fault(pattern, dripping(size, check_seconds(every, "every")), times)

    def alter_next(
        self, pattern: Pattern, function: Callable[[Response], Response | None], *, times: int | None = 1
    ) -> None:
        """`function` changes the real answer (`status`, `headers`, `body`) of the next matching requests.

        It may also return another. It runs in the server's thread. If it raises, or returns anything else, the answer
        is a 500, and the end of the server's ``with`` block (the fixture's, too) raises.
        """
        self._fault(pattern, altering(function), times)

    def clear_faults(self) -> None:
        """Forgets the faults ordered and not yet used up."""
        self._loop.call(self._faults.waiting.clear)

    def _fault(self, pattern: Pattern, apply: Apply, times: int | None) -> None:
        check_pattern(pattern)
        if times is not None and times < 1:
            raise ValueError(f"times is a number of requests, at least 1, or None, not {times!r}")
        self._loop.call(self._faults.waiting.append, Fault(pattern, apply, times))
