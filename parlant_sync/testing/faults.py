"""The requests that a test sees, and faults on demand: answers that are wrong, late, cut, or that never come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .given import check_seconds
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
    _requests: deque[Request]
    _faults: list[Fault]  # those that wait for their requests, in the order they were asked for

    def _take_fault(self, request: Request) -> Fault | None:
        """The fault for this request, used up by one."""
        for fault in self._faults:
            if matches(fault.pattern, request):
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times == 0:
                        self._faults.remove(fault)
                return fault
        return None

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

        async def apply(request: Request, serve: Serve) -> Response:
            if stored:
                await serve(request)
            return Response(status, content, {"content-type": kind, **given})

        self._fault(pattern, apply, times)

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

        async def apply(request: Request, serve: Serve) -> Response:
            response = await serve(request) if carried_out else Response(200)
            response.cut_after = len(response.body) // 2 if after is None else after
            response.cut_body = of_body or after is None
            response.reset = reset
            return response

        self._fault(pattern, apply, times)

    def hold_next(self, pattern: Pattern = "/", *, times: int | None = 1) -> Hold:
        """The next matching requests are carried out and stored, but not answered until ``.release()``."""
        hold = Hold(self._loop)
        self._fault(pattern, hold.apply, times)
        return hold

    def drip_next(self, pattern: Pattern = "/", size: int = 1, every: float = 0.1, *, times: int | None = 1) -> None:
        """The answers of the next matching requests come in pieces of `size` bytes, one `every` so many seconds."""
        if size < 1:
            raise ValueError(f"size is a number of bytes, at least 1, not {size!r}")
        check_seconds(every, "every")

        async def apply(request: Request, serve: Serve) -> Response:
            response = await serve(request)
            response.drip = (size, every)
            return response

        self._fault(pattern, apply, times)

    def alter_next(
        self, pattern: Pattern, function: Callable[[Response], Response | None], *, times: int | None = 1
    ) -> None:
        """`function` changes the real answer (`status`, `headers`, `body`) of the next matching requests.

        It may also return another. It runs in the server's thread. If it raises, or returns anything else, the answer
        is a 500, and the end of the server's ``with`` block (the fixture's, too) raises.
        """

        async def apply(request: Request, serve: Serve) -> Response:
            response = await serve(request)
            changed = function(response)
            if not isinstance(changed, (Response, type(None))):
                raise TypeError(f"it gave {changed!r:.60}; a Response is needed, or None")
            changed = changed or response
            if type(changed.status) is not int or not isinstance(changed.body, bytes):
                raise TypeError(f"status {changed.status!r:.20} is no int, or body {changed.body!r:.60} no bytes")
            return changed

        self._fault(pattern, apply, times)

    def clear_faults(self) -> None:
        """Forgets the faults ordered and not yet used up."""
        self._loop.call(self._faults.clear)

    def _fault(self, pattern: Pattern, apply: Apply, times: int | None) -> None:
        check_pattern(pattern)
        if times is not None and times < 1:
            raise ValueError(f"times is a number of requests, at least 1, or None, not {times!r}")
        self._loop.call(self._faults.append, Fault(pattern, apply, times))
