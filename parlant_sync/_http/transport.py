"""HTTP through ``requests``: one request out, one body or one typed error back.

Every failure of the network becomes a ``TransportError``, every status that is not success an ``ApiError``,
and no message carries a secret. Each poller has a ``PollConnection``, which can be woken; calls share a pool and
never wait behind sleeping polls. Redirects are refused: they would carry credentials and messages elsewhere.
"""

from __future__ import annotations

import http.client
import logging
import os
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import requests

from parlant_sync import errors
from parlant_sync._deadline import SOCKET_MAX, Deadline
from parlant_sync._http import adapter, auth, callers_session, connection, error_mapping, redaction, tls
from parlant_sync._http.codec import encode
from parlant_sync._version import __version__

if TYPE_CHECKING:
    from parlant_sync._settings import Settings

logger = logging.getLogger(__name__)

# A longer body is refused with ProtocolError: what one response may cost in memory is bounded.
MAX_BODY = 256 * 1024 * 1024
_CHUNK = 1024 * 1024


class HttpAnswer(NamedTuple):
    """A successful answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray

    def __repr__(self) -> str:
        return f"<HttpAnswer {self.status}>"  # error reports show variables, and a server may echo secrets


def read_body(response: requests.Response, deadline: Deadline) -> bytearray:
    """Return the body, unpacked.

    Raises ProtocolError above MAX_BODY, and ReadTimeout after the deadline, also if the body drips.
    """
    try:
        return _read(response, deadline)
    except MemoryError:
        pass
    # Raised here, where what was read is no longer held.
    raise errors.ProtocolError(f"the body from {_place(response)} needs more memory than there is")


def _place(response: requests.Response) -> str:
    return response.url.split("?")[0]


def _read(response: requests.Response, deadline: Deadline) -> bytearray:
    raw = response.raw
    # http.client's own read1, which vcrpy's answers have, does not unpack.
    read1 = None if isinstance(raw, http.client.HTTPResponse) else getattr(raw, "read1", None)
    pieces = iter(partial(read1, _CHUNK, decode_content=True), b"") if read1 else response.iter_content(_CHUNK)
    body = bytearray()  # grows in place: pieces that are joined in the end take twice the memory, and more time
    for piece in pieces:
        body += piece
        if len(body) > MAX_BODY:
            raise errors.ProtocolError(f"a body of more than {MAX_BODY} bytes came from {_place(response)}")
        if deadline.expired():
            raise requests.exceptions.ReadTimeout("the body did not come in time")
        if getattr(raw, "length_remaining", None) == 0 and "Content-Encoding" not in response.headers:
            break  # known without another read, as nothing is to be unpacked
    return body


class Failure:
    """Whether the server may have taken a failed request. A fact about the last attempt.

    What is not known to have stayed here counts as sent.
    """

    sent = False


class PollConnection:
    """One connection to the server, used by one thread at a time. Any thread can wake that one from its wait."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.session, self.wakeable = transport.poll_session()
        self.slot = connection.RunningRequest(for_polls=True)
        self._last: dict[str, Any] | None = None

    def get(self, path: str, params: Mapping[str, Any], *, read_timeout: float) -> HttpAnswer:
        """Poll once. Parlant's own 504 is an answer here, the usual one: nothing new. A proxy's is a ServerError."""
        asked = dict(params)
        if asked == self._last:  # a cache on the way may have kept the last answer, a 504 included
            params = {**params, "_": unique()}
        self._last = asked
        return self._transport.request(
            "GET", path, params=params, session=self.session, slot=self.slot, read_timeout=read_timeout, also=504
        )

    def close(self) -> None:
        self.slot.close_idle()
        if self._transport.settings.session_factory is not None:
            adapter.close(self.session)

    def drop_inherited(self) -> None:
        """In a forked child: close the descriptor without a word to the peer, who still talks with the parent."""
        self.slot.drop_inherited()


def unique() -> str:
    """A value that makes a repeated request another one for every cache."""
    return "".join(chr(ord("a") + byte % 26) for byte in os.urandom(10))


class Transport:
    """The way to one server. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        error_mapping.check_urllib3()
        self.settings = settings
        self.base_url = settings.base_url
        # Read once: requests would go through the whole environment twice for each request (0.3 ms and more).
        proxies = requests.utils.get_environ_proxies(self.base_url, no_proxy=settings.proxies.get("no_proxy"))
        self._tls_arguments = tls.arguments(settings)
        self._common = adapter.Common(self.base_url, {**proxies, **settings.proxies}, self._tls_arguments)
        self._common.headers.update(self._own_headers(self._common.headers))
        self._proxy = requests.utils.select_proxy(self.base_url, self._common.proxies)
        self._tls = tls.server_context(settings)
        self._proxy_tls = tls.proxy_context(settings, self._proxy, self._tls)
        self._token = auth.TokenSource(settings.token, self.base_url) if settings.token is not None else None
        # The token that the server gives an anonymous client; None for all other clients.
        self.guest = auth.GuestToken() if settings.anonymous else None
        # Guards _calls and _closed: one is kept, none after the end. Reentrant: a signal handler may close the client.
        self._lock = threading.RLock()
        self._calls: requests.Session | None = None
        self._polls: requests.Session | None = None
        self._closed = False
        self._pid = os.getpid()

    def _new_session(self, *, connections: int) -> tuple[requests.Session, bool]:
        """A ``requests.Session``, the caller's own if there is a factory; and whether its sockets can be woken.

        No lock of ours may be held: the factory is the caller's code. Raises SessionClosed after ``close()``.
        """
        if self._closed:
            raise self._ended()
        factory = self.settings.session_factory
        if factory is None:
            ours = adapter.Adapter(self._tls, self._proxy_tls, pool_connections=1, pool_maxsize=connections)
            return adapter.OwnSession(ours, self._common), connection.CAN_WAKE
        session = factory()
        if not isinstance(session, requests.Session):
            raise errors.ConfigurationError(
                f"session_factory returned {type(session).__name__}, not a requests.Session"
            )
        return session, callers_session.adopt(session, self.base_url, self._common.cookies) and connection.CAN_WAKE

    def poll_session(self) -> tuple[requests.Session, bool]:
        """A session for a poller: one of ours serves all of them, each with a connection of its own."""
        if self._pid != os.getpid():
            self.drop_inherited()
        if self.settings.session_factory is not None:
            return self._new_session(connections=1)
        if self._closed:
            raise self._ended()
        polls = self._polls
        if polls is None:
            ours = adapter.Adapter(self._tls, self._proxy_tls, pool_connections=1, pool_maxsize=1)
            polls = self._polls = adapter.OwnSession(ours, self._common)  # two threads at once make two
        return polls, connection.CAN_WAKE

    def secrets(self) -> list[str]:
        """Return what must not show in any text of a server: the caller's headers and the token."""
        sent = self._token.header if self._token is not None else self.guest.value if self.guest is not None else None
        token = {"Authorization": sent} if sent is not None else {}
        return redaction.secrets_of({**self.settings.headers, **token})

    def _ended(self) -> errors.SessionClosed:
        return errors.SessionClosed(f"the client of {self.base_url} is closed; make a new one")

    def _own_headers(self, before: Mapping[str, Any]) -> dict[str, Any]:
        name = f"parlant-sync/{__version__} {before.get('User-Agent') or ''}".strip()
        # Every answer changes with time. Caches of the process (requests-cache) and on the way must not keep any.
        ours = {"User-Agent": name, "Accept": "application/json", "Cache-Control": "no-store"}
        return {**ours, **self.settings.headers}

    def line(self) -> PollConnection:
        return PollConnection(self)

    def _call_session(self) -> requests.Session:
        session = self._calls
        if session is not None:
            return session
        made, _ = self._new_session(connections=64)
        with self._lock:
            if self._calls is None and not self._closed:
                self._calls = made
            kept = self._calls
        if kept is not made:
            adapter.close(made)  # another thread was faster, or this one too late
        if kept is None:
            raise self._ended()
        return kept

    def _auth(self, session: requests.Session, slot: connection.RunningRequest) -> auth.RequestAuth | None:
        """What authenticates the next request; None if nothing does. On a caller's session, something always does:
        requests would look into netrc."""
        given = self._token or self.settings.auth or session.auth
        if self.guest is not None and self.guest.kept:
            given = self.guest
        if given is None and self.settings.session_factory is None:
            return None
        return auth.RequestAuth(given, slot, self.base_url)

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        session: requests.Session | None = None,
        slot: connection.RunningRequest | None = None,
        calls: connection.RunningRequests | None = None,
        read_timeout: float | None = None,
        failure: Failure | None = None,
        also: int = 0,
    ) -> HttpAnswer:
        """One request, no retries. ``path`` is already quoted and starts with a slash.

        The whole answer has ``read_timeout`` seconds (default: ``request_timeout``) from the moment of the request, not
        only each read of it. ``calls`` can end it, with others. ``failure`` notes whether bytes went. ``also``
        is a status that is an answer as well if it is Parlant's, not an error.

        Raises TransportError, ApiError (its subclass for the status), ProtocolError; what ``calls`` were stopped with;
        or ``Interrupted`` if the slot alone was kicked or stopped.
        """
        if self._pid != os.getpid():
            self.drop_inherited()
        slot = slot or connection.RunningRequest()
        failure = failure or Failure()
        failure.sent = False
        data = None if body is None else encode(body)
        deadline = Deadline(self.settings.request_timeout if read_timeout is None else read_timeout)
        once_more = self._token is not None and self._token.rotates
        while True:
            answer = self._once(method, path, params, data, session, slot, calls, deadline, failure, also=also)
            if not once_more or not isinstance(answer, errors.AuthenticationError):
                break
            logger.debug("%s %s: 401; asking for the token once more", method, path)
            once_more = False
        if isinstance(answer, HttpAnswer):
            return answer
        try:
            # Raised here, so that no frame of requests is in its traceback: their variables hold the headers.
            raise answer.with_traceback(None)
        finally:
            del answer  # this frame is in the traceback: the two, and the client, would be left to the collector

    def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        data: bytes | None,
        session: requests.Session | None,
        slot: connection.RunningRequest,
        calls: connection.RunningRequests | None,
        deadline: Deadline,
        failure: Failure,
        *,
        also: int,
    ) -> HttpAnswer | BaseException:
        """An answer, or the error to raise."""
        failure.sent = False  # whatever ends this attempt before it goes
        headers: dict[str, Any] = {}
        if data is not None:
            headers["Content-Type"] = "application/json"
        outer = connection.here.slot
        try:
            if calls is not None:
                calls.enter(slot)
            session = session or self._call_session()
            left = min(deadline.remaining(), SOCKET_MAX)
            with slot:
                slot.deadline = deadline
                send: Any = session.request
                if self.settings.session_factory is not None:
                    # A caller's session is not altered: it may be in other use as well.
                    headers = {**self._own_headers(session.headers), **headers}
                    # A copy: requests adds the environment's.
                    send = partial(send, proxies=dict(self.settings.proxies), **self._tls_arguments)
                response = send(
                    method,
                    self.base_url + path,
                    params=params,
                    data=data,
                    headers=headers,
                    auth=self._auth(session, slot),
                    timeout=(max(min(self.settings.connect_timeout, left), 0.001), max(left, 0.001)),
                    allow_redirects=False,
                    stream=True,
                )
                with response:
                    if response.status_code < 200:  # closes the connection: the answer itself may come yet
                        raise requests.exceptions.ConnectionError(f"{response.status_code} came, which ends no request")
                    content = read_body(response, deadline)
        except error_mapping.NETWORK_ERRORS as error:
            # Without a session there was no request: the session factory failed.
            failure.sent = session is not None and (slot.sent if slot.seen else not error_mapping.unsent(error))
            if slot.interrupted:
                ended = None if calls is None else calls.ended()
                return ended or connection.Interrupted("the request was cut short by this process")
            return error_mapping.no_answer(
                method,
                self.base_url,
                path,
                error,
                self._proxy,
                sent=failure.sent,
                secrets=auth.secrets(slot.request, self._proxy),
            )
        except errors.ParlantSyncError as error:
            # A ProtocolError is about an answer; others (of a token callable, of ``calls``) came before the request.
            failure.sent = isinstance(error, errors.ProtocolError)
            return error
        finally:
            # Neither can be interrupted, as ``__exit__`` can, which would leave the thread in a request that is over.
            connection.here.slot = outer
            if calls is not None:
                calls.running.discard(slot)
        failure.sent = True
        if 200 <= response.status_code < 300:
            return HttpAnswer(response.status_code, response.headers, content)
        if response.status_code == also and error_mapping.is_parlants(content):
            return HttpAnswer(also, response.headers, content)
        return error_mapping.refused(method, self.base_url, path, response, content)

    def close(self) -> None:
        """Later requests get SessionClosed; those under way go on (``RunningRequests`` ends them)."""
        if self._pid != os.getpid():
            self.drop_inherited()
        with self._lock:
            self._closed = True
        self.reconnect()

    def reconnect(self) -> None:
        """Use no connection again that is idle now: one of them gave an answer that belongs to another request."""
        with self._lock:
            calls, self._calls = self._calls, None
        if calls is not None:
            adapter.close(calls)

    def drop_inherited(self) -> None:
        """In a forked child: forget the parent's connections without a word to their peers."""
        self._lock = threading.RLock()  # a thread of the parent may hold the old one
        self._pid = os.getpid()
        self._calls = self._polls = None  # they end with their last references: closed, not shut down
        self._common.cookies._cookies_lock = threading.RLock()
