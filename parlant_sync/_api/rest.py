"""The REST calls of a Parlant server that this library uses, typed, with the retries that are safe for each."""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from parlant_sync import errors
from parlant_sync._api.rate_limit import FIRST_POST_GAP, RateLimiter
from parlant_sync._api.retry import LEAST, may_pass, may_repeat, pause_after
from parlant_sync._deadline import Deadline, StopSignal
from parlant_sync._http.auth import GUEST_HEADER
from parlant_sync._http.codec import decode_json, is_segment, segment
from parlant_sync._http.connection import RunningRequests
from parlant_sync._http.transport import Failure, HttpAnswer, PollConnection, Transport, unique
from parlant_sync.events import (
    Agent,
    Event,
    ServerInfo,
    SessionInfo,
    read_agent,
    read_events,
    read_session,
)

logger = logging.getLogger(__name__)

_PAGE = 100
ATTEMPTS = 3
_T = TypeVar("_T")


def session_path(session_id: str) -> str:
    return f"/sessions/{segment(session_id, 'a session id')}"


@functools.lru_cache(maxsize=1000)
def events_path(session_id: str) -> str:
    return f"{session_path(session_id)}/events"


class RestApi:
    """The calls of one owner (a client, a session) over one transport. Thread-safe.

    Each raises what ``Transport.request`` raises.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.calls = RunningRequests()
        self.stop_signal = StopSignal()
        # All owners of one client share what follows, because the server is the same.
        self.list_limiter = RateLimiter()  # of event lists, polls among them
        self.post_limiter = RateLimiter(first_gap=FIRST_POST_GAP)
        self._server = _Server()

    def scoped(self, calls: RunningRequests, stop: StopSignal) -> RestApi:
        """The same for another owner: its requests are among ``calls``, and ``stop`` ends their pauses."""
        other = copy.copy(self)
        other.calls, other.stop_signal = calls, stop
        return other

    def stop(self, cause: errors.ParlantSyncError) -> None:
        """End what runs and refuse what comes: all of it raises a copy of ``cause``. One-way."""
        self.calls.stop(cause)
        self.stop_signal.set()

    @property
    def single_reads(self) -> bool:
        """Whether the server shows single events: until it refuses that, as a production policy does."""
        return self._server.single_reads

    def first_time(self, what: str) -> bool:
        """Whether no owner of this client has asked for ``what`` before: for a warning that is worth one line."""
        mine = object()
        return self._server.said.setdefault(what, mine) is mine

    def limited_for(self) -> float:
        """Seconds until the requests of this client go on that a 429 holds back; 0.0 if there are none."""
        other = self._server.limited_until - time.monotonic()
        return max(0.0, other, self.list_limiter.pause_left(), self.post_limiter.pause_left())

    # -- one request, with its retries

    def request(self, method: str, path: str, **options: Any) -> HttpAnswer:
        """One request among those of the owner. Raises what ``Transport.request`` raises."""
        return self.transport.request(method, path, calls=self.calls, **options)

    def again(
        self,
        once: Callable[[], _T],
        may_retry: Callable[[BaseException], bool],
        *,
        deadline: Deadline,
        attempts: float = ATTEMPTS,
        pauses: Callable[[int], float] | None = None,
    ) -> _T:
        """``once()``, repeated after failures that ``may_retry`` until ``deadline`` or ``attempts`` end it.

        Raises the last failure, or what ended the owner if it would have been repeated otherwise. ``pauses`` gives the
        seconds to wait after the n-th failure (default: ``jittered``); a longer ``retry_after`` of the failure counts
        instead. If the owner ends in a pause, one last call follows.
        """

        def repeatable(error: BaseException) -> bool:
            if not may_retry(error):
                return False
            self.calls.check()
            return True

        def over(failures: int) -> bool:
            return failures >= attempts or deadline.remaining() <= LEAST or self.stop_signal.is_set()

        def pause(error: Any, failures: int) -> float:
            seconds = min(pause_after(error, failures, pauses), deadline.remaining() - LEAST)
            if isinstance(error, errors.RateLimitedError):
                self._server.limited_until = time.monotonic() + seconds
            return seconds

        # The first call needs no tenacity, whose import takes longer than a request.
        try:
            return once()
        except Exception as error:
            if not repeatable(error) or over(1):
                raise
            try:
                import tenacity
            except Exception:  # the failure may be that this process can open no file
                raise error from None
            first_pause = pause(error, 1)
        self.stop_signal.wait(first_pause)
        runner = tenacity.Retrying(
            retry=tenacity.retry_if_exception(repeatable),
            stop=lambda state: over(state.attempt_number + 1),
            wait=lambda state: pause(state.outcome and state.outcome.exception(), state.attempt_number + 1),
            sleep=tenacity.sleep_using_event(self.stop_signal),  # type: ignore[arg-type]
            reraise=True,
        )
        try:
            result: _T = runner(once)
        except Exception as error:
            raise error.with_traceback(None)  # without the frames of tenacity  # noqa: B904
        return result

    def read(self, answer: HttpAnswer, method: str, path: str, parse: Callable[[Any], _T]) -> _T:
        """The value of an answer. Raises TransportError if it is empty, ProtocolError if it is not what it must be."""
        what = f"{method} {self.transport.base_url}{path}: {answer.status}"
        if not answer.body:
            raise errors.TransportError(f"{what}, but with an empty body: something on the way cut it off; try again")
        try:
            return parse(decode_json(answer.body))
        except ValueError as error:
            raise errors.ProtocolError(
                f"{what}, but not with what a Parlant server sends: "
                f"{type(error).__name__ if isinstance(error, UnicodeError) else str(error)[:200]}; "
                f"is {self.transport.base_url} the server itself?"
            ) from None

    def get(
        self,
        path: str,
        parse: Callable[[Any], _T],
        *,
        params: Mapping[str, Any] | None = None,
        deadline: Deadline | None = None,
        attempts: int = ATTEMPTS,
    ) -> _T:
        """A GET, repeated after failures that may pass, all within ``deadline`` (default: ``request_timeout``)."""
        limit = self.transport.settings.request_timeout
        deadline = deadline or Deadline(limit)
        failed = False

        def once() -> _T:
            nonlocal failed
            # A cache on the way may have kept the failure.
            fresh = {**(params or {}), "_": unique()} if failed else params
            failed = True
            left = deadline.between(LEAST, limit)
            return self.read(self.request("GET", path, params=fresh, read_timeout=left), "GET", path, parse)

        return self.again(once, may_pass, deadline=deadline, attempts=attempts)

    def write(
        self,
        method: str,
        path: str,
        body: Any,
        parse: Callable[[Any], _T],
        *,
        params: Mapping[str, Any] | None = None,
    ) -> _T:
        """A request that changes something: repeated only if the server certainly did not take it."""
        failure = Failure()

        def once() -> _T:
            answer = self.request(method, path, params=params, body=body, failure=failure)
            return parse(None) if answer.status == 204 else self.read(answer, method, path, parse)

        deadline = Deadline(self.transport.settings.request_timeout)
        return self.again(once, lambda error: may_repeat(error, failure), deadline=deadline)

    # -- events

    def poll(
        self, line: PollConnection, session_id: str, *, min_offset: int, wait: int, slack: float
    ) -> tuple[list[Event], int]:
        """One long poll: the events from ``min_offset`` on and the size of the body; a 504 is "nothing new"."""
        path = events_path(session_id)
        answer = line.get(path, {"min_offset": min_offset, "wait_for_data": wait}, read_timeout=wait + slack)
        if answer.status == 504:  # Parlant's own
            return [], 0
        return self.read(answer, "GET", path, read_events), len(answer.body)

    def list_events(
        self,
        session_id: str,
        min_offset: int,
        *,
        kinds: frozenset[str] | None = None,
        deadline: Deadline | None = None,
        attempts: int = ATTEMPTS,
        cacheable: bool = False,
    ) -> list[Event]:
        """What the server holds now, from ``min_offset`` on; also if a cache on the way ignores no-store.

        An old list would hide events that a reader then never gets, and end a turn before its answer (found by the
        soak). ``cacheable``: for callers who may record and replay it.

        If it ends with a 429, the pollers pause as well: they share the server's limit.
        """
        params: dict[str, Any] = {"min_offset": min_offset, "wait_for_data": 0}
        if not cacheable:
            params["_"] = unique()
        if kinds and kinds <= {"message", "status", "tool", "custom"}:
            params["kinds"] = ",".join(sorted(kinds))
        try:
            return self.get(events_path(session_id), read_events, params=params, deadline=deadline, attempts=attempts)
        except errors.RateLimitedError as error:
            self.list_limiter.limited(error.retry_after)
            raise

    def held(self, session_id: str, event: Event, *, deadline: Deadline | None = None) -> Event | None:
        """The event as the server holds it, or None. From 3.2 on read alone; else, or if that is refused, listed."""
        if self.single_reads and is_segment(event.id):
            path = f"{events_path(session_id)}/{segment(event.id, 'an event id')}"
            try:
                # A message that grows is read again and again at one address: an old answer would cut its text off.
                found = self.get(path, Event, params={"_": unique()}, deadline=deadline, attempts=1)
                if found.id == event.id:
                    return found
                raise errors.ProtocolError(f"GET {self.transport.base_url}{path}: the answer is of another request")
            except errors.ApiError as error:
                if error.status not in (403, 404, 405) or not error.from_parlant:
                    raise
                logger.debug("session %s: single events cannot be read (%s); listing instead", session_id, error.status)
                if error.status != 404:  # which may be this event's alone
                    self._server.single_reads = False
        for found in self.list_events(session_id, event.offset, deadline=deadline, attempts=1):
            if found.id == event.id:
                return found
        return None

    def create_event(
        self,
        session_id: str,
        body: Mapping[str, Any],
        *,
        failure: Failure | None = None,
        params: Mapping[str, Any] | None = None,
        read_timeout: float | None = None,
    ) -> Event:
        """Posts once. Whether the server may have taken it after an error is then in ``failure``."""
        path = events_path(session_id)
        answer = self.request("POST", path, params=params, body=body, read_timeout=read_timeout, failure=failure)
        return self.read(answer, "POST", path, Event)

    def delete_events(self, session_id: str, min_offset: int) -> None:
        self.write("DELETE", events_path(session_id), None, lambda _: None, params={"min_offset": min_offset})

    def cancel_turn(self, session_id: str) -> None:
        """Stop the running turn. Only for Parlant 4.0: earlier versions store this as a meaningless event.

        A 409 means that nothing is running, a 504 of the server that the turn stops when its present step is done.
        """
        body = {"kind": "status", "source": "customer_ui", "status": "cancelled"}
        try:
            self.create_event(session_id, body)
        except errors.ApiError as error:
            if error.status != 409 and (error.status != 504 or getattr(error, "_of_a_proxy", False)):
                raise

    # -- sessions, agents, server

    def create_session(self, body: Mapping[str, Any], *, allow_greeting: bool) -> tuple[SessionInfo, str | None]:
        """The session, and the guest token if the server gave one (Parlant 4.0, to anonymous clients)."""
        params = {"allow_greeting": "true" if allow_greeting else "false"}
        failure = Failure()

        def once() -> tuple[SessionInfo, str | None]:
            answer = self.request("POST", "/sessions", params=params, body=body, failure=failure)
            return self.read(answer, "POST", "/sessions", read_session), answer.headers.get(GUEST_HEADER)

        deadline = Deadline(self.transport.settings.request_timeout)
        return self.again(once, lambda error: may_repeat(error, failure), deadline=deadline)

    def read_session(
        self, session_id: str, *, deadline: Deadline | None = None, attempts: int = ATTEMPTS
    ) -> SessionInfo:
        return self.get(session_path(session_id), read_session, deadline=deadline, attempts=attempts)

    def update_session(self, session_id: str, body: Mapping[str, Any]) -> SessionInfo | None:
        def parse(value: Any) -> SessionInfo | None:
            return None if value is None else read_session(value)

        return self.write("PATCH", session_path(session_id), body, parse)

    def delete_session(self, session_id: str) -> None:
        self.write("DELETE", session_path(session_id), None, lambda _: None)

    def list_sessions(self, params: Mapping[str, Any]) -> Iterator[SessionInfo]:
        """Pages from 3.1 on; 3.0 ignores ``limit`` and sends a plain list."""
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            page = {**params, "limit": _PAGE, **({"cursor": cursor} if cursor else {})}
            items, following = self.get("/sessions", _read_page, params=page)
            yield from items
            if following is None or following in seen:
                return
            seen.add(following)
            cursor = following

    def list_agents(self) -> list[Agent]:
        def parse(value: Any) -> list[Agent]:
            if isinstance(value, dict):
                value = value.get("items")
            if not isinstance(value, list):
                raise ValueError("a list of agents was expected")
            return [read_agent(item) for item in value]

        return self.get("/agents", parse)

    def read_agent(self, agent_id: str, *, deadline: Deadline | None = None, attempts: int = ATTEMPTS) -> Agent:
        path = f"/agents/{segment(agent_id, 'an agent id')}"
        return self.get(path, read_agent, deadline=deadline, attempts=attempts)

    def is_fluid(self, agent_id: str, *, deadline: Deadline) -> bool | None:
        """Whether the agent's composition mode is "fluid"; read once per client. None if it cannot be read now."""
        known = self._server.fluid.get(agent_id)
        if known is None:
            try:
                mode = self.read_agent(agent_id, deadline=deadline, attempts=1).raw.get("composition_mode")
            except errors.ParlantSyncError as error:
                logger.debug("%s: agent %s cannot be read: %s", self.transport.base_url, agent_id, error)
                return None
            if isinstance(mode, str):
                known = self._server.fluid[agent_id] = mode == "fluid"
        return known

    def server_info(self) -> ServerInfo:
        """Raises TransportError where nothing answers; a server that hides its state counts as healthy."""
        healthy = True
        self._health()  # opens the connection, so that the next one measures the server alone
        started = time.monotonic()
        status = self._health()
        latency = time.monotonic() - started
        if status is not None:
            healthy = status in ("ok", "healthy")
        return ServerInfo(self._version(), healthy, latency)

    def _health(self) -> str | None:
        def parse(value: Any) -> str:
            found = value.get("status") if isinstance(value, dict) else value
            if not isinstance(found, str):
                raise ValueError("the state of a server was expected")
            return found

        try:
            answer = self.request("GET", "/healthz")
            return self.read(answer, "GET", "/healthz", parse) if answer.body else "not a Parlant server's"
        except errors.ServerError as error:
            return f"failing ({error.status})"
        except errors.ProtocolError:
            return "not a Parlant server's"
        except errors.ApiError:
            return None  # 3.0 has no such page, a production server does not show it

    def _version(self) -> str | None:
        def parse(value: Any) -> str | None:
            info = value.get("info") if isinstance(value, dict) else None
            version = info.get("version") if isinstance(info, dict) else None
            # 3.0 says 0.1.0, the default of its framework (WIRE.md): that is not telling.
            return version if isinstance(version, str) and version != "0.1.0" else None

        try:
            return self.get("/openapi.json", parse, attempts=1)
        except (errors.ApiError, errors.ProtocolError):
            return None


class _Server:
    """What the requests of a client have learnt about its server."""

    def __init__(self) -> None:
        self.single_reads = True
        self.fluid: dict[str, bool] = {}  # by the ids of agents
        self.said: dict[str, object] = {}  # warnings that were given
        self.limited_until = 0.0  # monotonic: the end of a pause after a 429, of requests without a limiter


def _read_page(value: Any) -> tuple[list[SessionInfo], str | None]:
    following: str | None = None
    if isinstance(value, dict):
        if value.get("has_more") and isinstance(value.get("next_cursor"), str):
            following = value["next_cursor"]
        value = value.get("items")
    if not isinstance(value, list):
        raise ValueError("a list of sessions was expected")
    return [read_session(item) for item in value], following
