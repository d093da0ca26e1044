"""HTTP through ``requests``: one request out, one body or one typed error back.

Everything a network can do becomes :class:`TransportError`, every status that is not success an :class:`ApiError`, and
no message carries a secret. Polls go over a :class:`PollConnection` each, which can be woken; calls
share a pool and never wait behind sleeping polls. Redirects are refused: they would carry credentials and messages
elsewhere.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import requests

from parlant_sync import errors
from parlant_sync._deadline import SOCKET_MAX, Deadline
from parlant_sync._http import adapter, error_mapping, interrupt
from parlant_sync._http.auth import Auth
from parlant_sync._http.codec import encode
from parlant_sync._http.steady import Common, SteadySession
from parlant_sync._version import __version__

if TYPE_CHECKING:
    from parlant_sync._settings import Settings

logger = logging.getLogger(__name__)

# A longer body is refused with ProtocolError: what one response may cost in memory is bounded.
MAX_BODY = 256 * 1024 * 1024
_CHUNK = 1024 * 1024


class HttpAnswer:
    """A successful answer: its headers and its body, ``whole`` unless it was longer than was wanted, and left."""

    __slots__ = ("body", "headers", "status", "whole")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, whole: bool = True) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.whole = whole


def told_length(headers: Mapping[str, str]) -> int | None:
    """How many bytes the body has as JSON; None where that is not told."""
    length = headers.get("Content-Length") or ""
    # No body has a length of 20 digits, and int() refuses thousands of them.
    return int(length) if length.isdecimal() and len(length) < 20 and "Content-Encoding" not in headers else None


def read_body(response: requests.Response, deadline: Deadline, at_most: int | None) -> bytes | None:
    """The body, decoded; within the deadline even where it drips, and never more than MAX_BODY of it.

    None where it is longer than ``at_most``.
    """
    if at_most is not None and (told_length(response.headers) or 0) > at_most:
        return None
    try:
        return _read(response, deadline, at_most)
    except MemoryError:
        pass
    # Here, where nothing holds any more what had been read.
    raise errors.ProtocolError(f"a body came from {_place(response)} that is more than there is memory for")


def _place(response: requests.Response) -> str:
    return response.url.split("?")[0]


def _read(response: requests.Response, deadline: Deadline, at_most: int | None) -> bytes | None:
    read1 = getattr(response.raw, "read1", None)
    chunks: list[bytes] = []
    size = 0
    pieces = iter(lambda: read1(_CHUNK, decode_content=True), b"") if read1 else response.iter_content(_CHUNK)
    for piece in pieces:
        size += len(piece)
        if at_most is not None and size > at_most:
            return None
        if size > MAX_BODY:
            raise errors.ProtocolError(f"a body of more than {MAX_BODY} bytes came from {_place(response)}")
        chunks.append(piece)
        if deadline.expired():
            raise requests.exceptions.ReadTimeout("the body did not come in time")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class Failure:
    """Tells of a failed request whether the server may have taken it: the last fact about the last request.

    What is not known to have stayed here counts as sent.
    """

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


class PollConnection:
    """One connection to the server, used by one thread at a time, which any thread can wake from its wait."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.session, self.wakeable = transport.new_session(connections=1)
        self.slot = interrupt.RunningRequest()

    def get(self, path: str, params: Mapping[str, Any], *, read_timeout: float) -> HttpAnswer:
        """A 504 is an answer here, the usual one: nothing new."""
        return self._transport.request(
            "GET", path, params=params, session=self.session, slot=self.slot, read_timeout=read_timeout, also=504
        )

    def close(self) -> None:
        adapter.close(self.session)


class Transport:
    """The way to one server. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.base_url = settings.base_url
        # Read once: requests would go through the whole environment twice for each request (0.3 ms and more).
        proxies = requests.utils.get_environ_proxies(self.base_url, no_proxy=settings.proxies.get("no_proxy"))
        self._common = Common(self.base_url, {**proxies, **settings.proxies})
        self._common.headers.update(self._own_headers(self._common.headers))
        self._proxy = requests.utils.select_proxy(self.base_url, self._common.proxies)
        self._tls = settings.tls_context()
        self._proxy_tls = settings.proxy_tls_context(self._proxy, self._tls)
        self._lock = threading.Lock()  # guards _calls and _closed: one is kept, and none after the end
        self._calls: requests.Session | None = None
        self._closed = False

    def new_session(self, *, connections: int) -> tuple[requests.Session, bool]:
        """A ``requests.Session``, the caller's own where a factory was given; and whether its sockets can be woken.

        No lock of ours may be held: the factory is the caller's code. Raises SessionClosed after ``close()``.
        """
        if self._closed:
            raise self._ended()
        factory = self.settings.session_factory
        if factory is None:
            ours = adapter.Adapter(self._tls, self._proxy_tls, pool_connections=1, pool_maxsize=connections)
            return SteadySession(ours, self._common), interrupt.CAN_WAKE
        session = factory()
        if not isinstance(session, requests.Session):
            raise errors.ConfigurationError(f"session_factory returned {type(session).__name__}, no requests.Session")
        return session, adapter.adopt(session, self.base_url) and interrupt.CAN_WAKE

    def _ended(self) -> errors.SessionClosed:
        return errors.SessionClosed(f"the client of {self.base_url} is closed; make a new one")

    def _own_headers(self, before: Mapping[str, Any]) -> dict[str, Any]:
        name = f"parlant-sync/{__version__} {before.get('User-Agent') or ''}".strip()
        return {"User-Agent": name, "Accept": "application/json", **self.settings.headers}

    def line(self) -> PollConnection:
        return PollConnection(self)

    def _call_session(self) -> requests.Session:
        session = self._calls
        if session is not None:
            return session
        made, _ = self.new_session(connections=64)
        with self._lock:
            if self._calls is None and not self._closed:
                self._calls = made
            kept = self._calls
        if kept is not made:
            adapter.close(made)  # another thread was faster, or this one too late
        if kept is None:
            raise self._ended()
        return kept

    def _arguments(self, session: requests.Session, headers: dict[str, Any]) -> dict[str, Any]:
        """What a session is told with each request. One of a caller is not altered: it may be in other use as well."""
        arguments = self.settings.tls_arguments()
        if self.settings.session_factory is not None:
            headers = {**self._own_headers(session.headers), **headers}
            arguments["proxies"] = dict(self.settings.proxies)  # a copy: requests adds the environment's
        arguments["headers"] = headers
        return arguments

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        session: requests.Session | None = None,
        slot: interrupt.RunningRequest | None = None,
        calls: interrupt.RunningRequests | None = None,
        read_timeout: float | None = None,
        failure: Failure | None = None,
        at_most: int | None = None,
        also: int = 0,
    ) -> HttpAnswer:
        """One request, no retries. ``path`` is already quoted and starts with a slash.

        The whole answer has ``read_timeout`` seconds (default: ``request_timeout``) from the moment of the request, not
        only each read of it. ``calls``: those that it can be ended with. ``failure`` is told whether bytes had gone. Of
        a body longer than ``at_most`` no more is read. ``also`` is a status that is an answer as well, not an error.

        Raises TransportError, ApiError (its subclass for the status), ProtocolError; what ``calls`` were stopped with;
        or ``Interrupted`` where the slot alone was kicked or stopped.
        """
        slot = slot or interrupt.RunningRequest()
        source = self.settings.token_source
        once = functools.partial(
            self._once,
            method,
            path,
            params=params,
            body=body,
            session=session,
            slot=slot,
            calls=calls,
            limit=self.settings.request_timeout if read_timeout is None else read_timeout,
            failure=failure,
            at_most=at_most,
            also=also,
        )
        answer = once()
        if isinstance(answer, errors.AuthenticationError) and source is not None and source.rotates:
            logger.debug("%s %s: 401; asking for the token once more", method, path)
            answer = once()
        if isinstance(answer, BaseException):
            raise answer  # here, where nothing is being handled that would become its context and be shown with it
        return answer

    def _once(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None,
        body: Any,
        session: requests.Session | None,
        slot: interrupt.RunningRequest,
        calls: interrupt.RunningRequests | None,
        limit: float,
        failure: Failure | None,
        at_most: int | None,
        also: int,
    ) -> HttpAnswer | BaseException:
        if failure is not None:
            failure.sent = False  # whatever ends this one before it goes; the last one's fate was told already
        headers: dict[str, Any] = {}
        data = None
        if body is not None:
            data = encode(body)
            headers["Content-Type"] = "application/json"
        if at_most is not None:
            headers["Accept-Encoding"] = "identity"  # its length is to be told
        outer = interrupt.current()
        auth: Auth | None = None
        try:
            if calls is not None:
                calls.enter(slot)
            session = session or self._call_session()
            with slot:
                auth = Auth(self.settings, session, slot)
                slot.deadline = deadline = Deadline(limit)
                response = session.request(
                    method,
                    self.base_url + path,
                    params=params,
                    data=data,
                    auth=auth,
                    timeout=(min(self.settings.connect_timeout, limit, SOCKET_MAX), min(limit, SOCKET_MAX)),
                    allow_redirects=False,
                    stream=True,
                    **self._arguments(session, headers),
                )
                with response:
                    if response.status_code < 200:  # closes the connection: the answer itself may come yet
                        raise requests.exceptions.ConnectionError(f"{response.status_code} came, which ends no request")
                    most = at_most if response.status_code < 300 else None
                    content = read_body(response, deadline, most)
        except error_mapping.NETWORK_ERRORS as error:
            # No ``auth``, no request: it was the factory that failed.
            sent = auth is not None and (slot.sent if slot.seen else not error_mapping.unsent(error))
            if failure is not None:
                failure.sent = sent
            if slot.interrupted:
                ended = None if calls is None else calls.ended()
                return ended or interrupt.Interrupted("the request was cut short by this process")
            secrets = [] if auth is None else auth.secrets(self._proxy)
            return error_mapping.no_answer(method, self.base_url, path, error, self._proxy, sent=sent, secrets=secrets)
        except errors.ProtocolError:
            if failure is not None:
                failure.sent = True
            raise
        finally:
            # Neither can be interrupted, as ``__exit__`` can, which would leave the thread in a request that is over.
            interrupt.here.slot = outer
            if calls is not None:
                calls.running.discard(slot)
        if failure is not None:
            failure.sent = True
        if 200 <= response.status_code < 300 or response.status_code == also:
            return HttpAnswer(response.status_code, response.headers, content or b"", content is not None)
        return error_mapping.refused(method, self.base_url, path, response, content or b"")

    def close(self) -> None:
        """Later requests get SessionClosed; those under way go on (``RunningRequests`` ends them)."""
        with self._lock:
            self._closed = True
            calls, self._calls = self._calls, None
        if calls is not None:
            adapter.close(calls)

    def drop_inherited(self) -> None:
        """In a forked child: forget the parent's connections without telling their peers."""
        self._lock = threading.Lock()
        calls, self._calls = self._calls, None
        if calls is not None:
            adapter.drop_inherited(calls)
