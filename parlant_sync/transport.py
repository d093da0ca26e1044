"""HTTP through ``requests``: one request out, one body or one typed error back.

Everything a network can do becomes :class:`TransportError`, every status that is not success an :class:`ApiError`, and
no message carries a secret. Polls go over a :class:`Line`, which has a connection of its own and can be woken; calls
share a pool and never wait behind sleeping polls. Redirects are refused: they would carry credentials and messages
elsewhere.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests
import urllib3

from parlant_sync import errors, interrupt, redaction
from parlant_sync._version import __version__
from parlant_sync.deadline import Deadline
from parlant_sync.retry import FIRST_POST_GAP, Pace, retry_after
from parlant_sync.steady import Common, SteadySession

if TYPE_CHECKING:
    from parlant_sync.settings import Settings

logger = logging.getLogger(__name__)

# A longer body is refused with ProtocolError: what one response may cost in memory is bounded.
MAX_BODY = 256 * 1024 * 1024
_CHUNK = 1024 * 1024

_NETWORK_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


class Answer:
    """A successful answer: its headers and its whole body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Failure:
    """Tells of a failed request whether the server may have taken it: the last fact about the last request."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


def segment(value: str, what: str) -> str:
    """``value`` as one path segment. Raises :class:`ConfigurationError` for what cannot be one."""
    if value in ("", ".", "..") or not hasattr(value, "encode"):
        raise errors.ConfigurationError(f"{what} must be a non-empty string that names one, not {value!r}")
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise errors.ConfigurationError(f"{what} holds characters that have no UTF-8: {value!r}") from None


class Line:
    """One connection to the server, used by one thread at a time, which any thread can wake from its wait."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.session = transport.new_session(connections=1)
        self.wakeable = transport.wakeable
        self.slot = interrupt.Slot()

    def get(self, path: str, params: Mapping[str, Any], *, read_timeout: float) -> Answer:
        """A 504 is an answer here, the usual one: nothing new."""
        return self._transport.request(
            "GET", path, params=params, session=self.session, slot=self.slot, read_timeout=read_timeout, also=504
        )

    def close(self) -> None:
        interrupt.close(self.session)


class Transport:
    """The way to one server. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.base_url = settings.base_url
        self.pace = Pace()  # of the event lists
        self.post_pace = Pace(first_gap=FIRST_POST_GAP)
        self.wakeable = interrupt.CAN_WAKE
        self._tls = settings.tls_context()
        # Read once: requests would go through the whole environment twice for each request (0.3 ms and more).
        proxies = requests.utils.get_environ_proxies(self.base_url, no_proxy=settings.proxies.get("no_proxy"))
        self._common = Common(self.base_url, {**proxies, **settings.proxies})
        self._set_headers(self._common.headers)
        self._lock = threading.Lock()  # guards _calls, so that it is made once
        self._calls: requests.Session | None = None

    def new_session(self, *, connections: int) -> requests.Session:
        """A ``requests.Session``, the caller's own where a factory was given, whose sockets can be woken."""
        factory = self.settings.session_factory
        if factory is not None:
            session = factory()
            if not isinstance(session, requests.Session):
                raise errors.ConfigurationError(f"session_factory returned {session!r}, and no requests.Session")
            session.proxies.update(self.settings.proxies)
            self._set_headers(session.headers)
            if not interrupt.instrument(session):
                self.wakeable = False
        else:
            adapter = interrupt.Adapter(self._tls, pool_connections=1, pool_maxsize=connections)
            session = SteadySession(adapter, self._common)
        # Redirects are refused; asked for their target, requests would also read their body, however long.
        session.get_redirect_target = _no_target  # type: ignore[assignment,method-assign]
        return session

    def _set_headers(self, headers: MutableMapping[str, Any]) -> None:
        headers["User-Agent"] = f"parlant-sync/{__version__} {headers.get('User-Agent', '')}".strip()
        headers["Accept"] = "application/json"
        headers.update(self.settings.headers)

    def line(self) -> Line:
        return Line(self)

    def _call_session(self) -> requests.Session:
        with self._lock:
            if self._calls is None:
                self._calls = self.new_session(connections=64)
            return self._calls

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        session: requests.Session | None = None,
        slot: interrupt.Slot | None = None,
        read_timeout: float | None = None,
        failure: Failure | None = None,
        inspect: Callable[[Mapping[str, str]], bool] | None = None,
        also: int = 0,
    ) -> Answer:
        """One request, no retries. ``path`` is already quoted and starts with a slash.

        The whole answer has ``read_timeout`` seconds (default: ``request_timeout``) from the moment of the request, not
        only each read of it. ``failure`` is told whether bytes had gone. ``inspect`` is shown the headers of a success
        and may answer that its body is not wanted. ``also`` is a status that is an answer as well, not an error.

        Raises TransportError, ApiError (its subclass for the status), ProtocolError, or ``Interrupted`` where the slot
        was kicked or stopped.
        """
        source = self.settings.token_source
        answer = self._once(method, path, params, body, session, slot, read_timeout, failure, inspect, also)
        if isinstance(answer, errors.AuthenticationError) and source is not None and source.rotates:
            logger.debug("%s %s: 401; asking for the token once more", method, path)
            answer = self._once(method, path, params, body, session, slot, read_timeout, failure, inspect, also)
        if isinstance(answer, errors.ApiError):
            raise answer
        return answer

    def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: Any,
        session: requests.Session | None,
        slot: interrupt.Slot | None,
        read_timeout: float | None,
        failure: Failure | None,
        inspect: Callable[[Mapping[str, str]], bool] | None,
        also: int,
    ) -> Answer | errors.ApiError:
        settings = self.settings
        limit = settings.request_timeout if read_timeout is None else read_timeout
        data = None if body is None else _encode(body)
        slot = slot or interrupt.Slot()
        try:
            session = session or self._call_session()
            with slot:
                slot.deadline = deadline = Deadline(limit)
                response = session.request(
                    method,
                    self.base_url + path,
                    params=params,
                    data=data,
                    headers={"Content-Type": "application/json"} if data is not None else None,
                    auth=settings.request_auth(session),
                    timeout=(min(settings.connect_timeout, limit), limit),
                    allow_redirects=False,
                    stream=True,
                    **settings.tls_arguments(),
                )
                with response:
                    wanted = response.status_code >= 300 or inspect is None or inspect(response.headers)
                    content = _read(response, deadline) if wanted else b""
        except _NETWORK_ERRORS as error:
            if failure is not None:
                failure.sent = slot.sent
            if slot.interrupted:
                raise interrupt.Interrupted("the request was cut short by this process") from None
            # What cannot be a header is quoted by requests' own error, secret or not.
            hide = isinstance(error, requests.exceptions.InvalidHeader)
            raise self._no_answer(method, path, error) from (None if hide else error)
        except errors.ProtocolError:
            if failure is not None:
                failure.sent = True
            raise
        if failure is not None:
            failure.sent = slot.sent
        if 200 <= response.status_code < 300 or response.status_code == also:
            return Answer(response.status_code, response.headers, content)
        secrets = redaction.secrets_of(response.request.headers)
        return self._refused(method, path, response, content, secrets)

    def _no_answer(self, method: str, path: str, error: BaseException) -> errors.ParlantSyncError:
        if isinstance(error, (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL)):
            return errors.ConfigurationError(f"{method} {self.base_url}{path}: {type(error).__name__}")
        return errors.TransportError(
            f"{method} {self.base_url}{path}: {_reason(error)}; check that a Parlant server answers at {self.base_url}"
        )

    def _refused(
        self, method: str, path: str, response: requests.Response, body: bytes, secrets: list[str]
    ) -> errors.ApiError:
        status = response.status_code
        detail = redaction.shorten(redaction.redact(_detail(body), secrets))
        message = f"{method} {self.base_url}{path}: {status}{' ' + detail if detail else ''}"
        kind, hint = _KINDS.get(status, (errors.ServerError, _SERVER_HINT) if status >= 500 else (errors.ApiError, ""))
        if status == 404 and detail in ("Not Found", ""):
            hint = f"is {self.base_url} the address of a Parlant server?"
        elif status == 404 and path.startswith("/agents"):
            hint = "check the id; client.agents(), or the command parlant-sync agents, lists them"
        if 300 <= status < 400:
            hint = "redirects are refused; give the final address as base_url"
        if hint:
            message += f" ({hint})"
        facts: dict[str, Any] = {"status": status, "method": method, "path": path, "detail": detail}
        if kind is errors.RateLimitedError:
            facts["retry_after"] = retry_after(response.headers.get("Retry-After"))
        return kind(message, **facts)

    def close(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, None
        if calls is not None:
            interrupt.close(calls)

    def drop_inherited(self) -> None:
        """In a forked child: forget the parent's connections without telling their peers."""
        self._lock = threading.Lock()
        self.pace, self.post_pace = Pace(), Pace(first_gap=FIRST_POST_GAP)
        calls, self._calls = self._calls, None
        if calls is not None:
            interrupt.drop_inherited(calls)


_SERVER_HINT = "the server or a proxy before it failed; try again, and look into its log"
_KINDS: dict[int, tuple[type[errors.ApiError], str]] = {
    400: (errors.InvalidRequestError, ""),
    401: (errors.AuthenticationError, "check the token: Client(token=...) or $PARLANT_TOKEN"),
    403: (errors.PermissionDeniedError, "the server does not allow this to this token"),
    404: (errors.NotFoundError, "check the id; a server that keeps sessions in memory forgets them when it restarts"),
    409: (errors.InvalidRequestError, ""),
    413: (errors.InvalidRequestError, ""),
    422: (errors.InvalidRequestError, ""),
    429: (errors.RateLimitedError, "too many requests; wait a minute, or ask with fewer sessions at once"),
}


def _no_target(response: object) -> str | None:
    return None


def _encode(body: Any) -> bytes:
    try:
        # A lone surrogate has no UTF-8. Escaped, the server would store it, and from then on fail at every list of the
        # session: better refused here.
        return json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise errors.ConfigurationError("what is to be posted holds a lone surrogate, which has no UTF-8") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.ConfigurationError(f"what is to be posted has no JSON: {error}") from None


def _read(response: requests.Response, deadline: Deadline) -> bytes:
    """The body, decoded; within the deadline even where it drips, and never more than MAX_BODY of it."""
    read1 = getattr(response.raw, "read1", None)
    chunks: list[bytes] = []
    size = 0
    pieces = iter(lambda: read1(_CHUNK, decode_content=True), b"") if read1 else response.iter_content(_CHUNK)
    for piece in pieces:
        size += len(piece)
        if size > MAX_BODY:
            raise errors.ProtocolError(f"a body of more than {MAX_BODY} bytes came from {response.url.split('?')[0]}")
        chunks.append(piece)
        if deadline.expired():
            raise requests.exceptions.ReadTimeout("the body did not come in time")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words, without object reprs and without URLs, which may hold secrets of users."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
        return "no answer in time"
    cause: BaseException = error
    for _ in range(8):
        inner = getattr(cause, "reason", None) or next(
            (arg for arg in reversed(cause.args) if isinstance(arg, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            break
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        return "the host name cannot be resolved"
    text = str(cause).split(": ", 1)[-1] if isinstance(cause, urllib3.exceptions.NewConnectionError) else str(cause)
    return redaction.shorten(redaction.redact(text), 160) or type(cause).__name__


def _detail(body: bytes) -> str:
    text = body[: 64 * 1024].decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    detail = value.get("detail", value) if isinstance(value, dict) else value
    if isinstance(detail, list) and detail and all(isinstance(d, dict) and "msg" in d and "loc" in d for d in detail):
        # What FastAPI says of a request that does not fit: where, and what.
        return "; ".join(f"{'.'.join(str(part) for part in d['loc'])}: {d['msg']}" for d in detail)
    return detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
