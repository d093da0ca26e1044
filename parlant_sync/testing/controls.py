"""What a test does to a running server: waits for things, opens gates, orders faults."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from .agents import check_seconds
from .engine import Engine
from .faults import Apply, Fault, Faults, Hold, Pattern, altering, check_pattern, cutting, dripping, failing, matches
from .gates import Gates
from .loop import LoopThread
from .messages import Request, Response, phrase
from .store import Store


class Controls:
    """The part of :class:`FakeServer` that tests steer it with. All methods may be called from any thread."""

    _loop: LoopThread
    _store: Store
    _engine: Engine
    _gates: Gates
    _faults: Faults
    _requests: deque[Request]

    # --- what it got

    @property
    def requests(self) -> list[Request]:
        """The requests it got so far, oldest first (a copy; the last 10,000, see `record`)."""
        return self._loop.call(lambda: list(self._requests))

    def forget_requests(self) -> None:
        """Empties :attr:`requests`."""
        self._loop.call(self._requests.clear)

    def wait_requests(self, pattern: Pattern = "/", count: int = 1, timeout: float = 5.0) -> list[Request]:
        """Waits until `count` matching requests have come, and gives them; ``TimeoutError`` after `timeout` seconds.

        A pattern is a method, the end of a path, a path with ``*``, both (``"POST /events"``), or a function.
        """

        check_pattern(pattern)

        def found() -> list[Request]:
            return [r for r in self._requests if matches(pattern, r)]

        self._loop.wait_until(lambda: len(found()) >= count, timeout, f"{count} requests {pattern!r}")
        return self._loop.call(found)

    @property
    def polls(self) -> int:
        """How many long polls are waiting now."""
        return self._loop.call(self._polls, None)

    def wait_polls(self, count: int = 1, session_id: str | None = None, timeout: float = 5.0) -> None:
        """Waits until so many long polls are waiting (in that session); ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._polls(session_id) >= count, timeout, f"{count} polls waiting")

    def wait_no_polls(self, session_id: str | None = None, timeout: float = 5.0) -> None:
        """Waits until no long poll is waiting any more; ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._polls(session_id) == 0, timeout, "no poll waiting")

    def _polls(self, session_id: str | None) -> int:
        return sum(s.polls for s in self._store.sessions.values() if session_id in (None, s.id))

    # --- turns

    def wait_idle(self, timeout: float = 5.0) -> None:
        """Waits until no turn is running; ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._engine.busy == 0, timeout, "all turns over")

    def wait_events(self, session_id: str, count: int, timeout: float = 5.0) -> None:
        """Waits until the session holds so many events; ``TimeoutError`` after `timeout` seconds."""
        session = self._loop.call(self._store.session, session_id)
        self._loop.wait_until(lambda: len(session.events) >= count, timeout, f"{count} events")

    def reached(self, gate: str, count: int = 1, timeout: float = 5.0) -> None:
        """Waits until so many turns wait at the gate; ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._gates.waiting(gate) >= count, timeout, f"a turn at the gate {gate!r}")

    def release(self, gate: str, count: int | None = None) -> None:
        """Opens a gate for good, or lets `count` turns pass (those who wait; else the next ones)."""
        self._loop.call(self._gates.release, gate, count)

    def shut(self, gate: str) -> None:
        """Closes a gate that was opened."""
        self._loop.call(self._gates.shut, gate)

    def pause(self) -> None:
        """Stops all turns before their next event."""
        self._loop.call(self._gates.pause)

    def resume(self) -> None:
        """Lets them go on."""
        self._loop.call(self._gates.resume)

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
        :meth:`clear_faults`. For patterns see :meth:`wait_requests`.
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
        """`function` changes the real answer (`status`, `headers`, `body`) of the next matching requests, or gives
        another. It runs in the server's thread. Where it raises, or gives anything else, the answer is a 500, and the
        end of the server's ``with`` block (the fixture's, too) raises."""
        self._fault(pattern, altering(function), times)

    def clear_faults(self) -> None:
        """Forgets the faults ordered and not yet used up."""
        self._loop.call(self._faults.waiting.clear)

    def _fault(self, pattern: Pattern, apply: Apply, times: int | None) -> None:
        check_pattern(pattern)
        if times is not None and times < 1:
            raise ValueError(f"times is a number of requests, at least 1, or None, not {times!r}")
        self._loop.call(self._faults.waiting.append, Fault(pattern, apply, times))
