"""Everything this library raises, in one tree.

::

    ParlantSyncError
    ├── ConfigurationError        a wrong argument or setting; also ValueError
    ├── TransportError            no HTTP answer: refused, reset, DNS, TLS, timed out, out of threads or descriptors
    ├── ApiError                  the server refused: .status .method .path .detail
    │   ├── AuthenticationError   401
    │   ├── PermissionDeniedError 403
    │   ├── NotFoundError         404
    │   ├── InvalidRequestError   400 409 413 422
    │   ├── RateLimitedError      429, with .retry_after
    │   └── ServerError           5xx
    ├── ProtocolError             a 2xx whose body is not what it must be
    ├── TurnTimeout               out of time; also TimeoutError: .partial .event
    ├── AgentError                the engine reported an error: .detail .summary .partial
    │   └── AgentUnavailable      the server's cost control refused the turn: .retry_after
    ├── UnsupportedByServer       this server's version cannot do that
    ├── DeliveryUncertain         a message may or may not have arrived: .key .session_id
    ├── SessionClosed             this object was closed, here or by client.close()
    ├── ConcurrencyError          two callers need the same thing in conflicting ways
    └── ForkedProcessError        an object of the parent process was used after a fork

All can be pickled. None holds a secret: what a server echoes is redacted before it gets here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from parlant_sync.events import Event, Reply

_E = TypeVar("_E", bound="ParlantSyncError")


def _rebuild(cls: type[_E], args: tuple[Any, ...], state: dict[str, Any]) -> _E:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ParlantSyncError(Exception):
    """The base of all errors of this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls cls(*args), which the keyword-only arguments below do not survive.
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(ParlantSyncError, ValueError):
    """An argument, an environment variable or a base URL that cannot work."""


class TransportError(ParlantSyncError):
    """No HTTP answer came: refused, reset, name not found, TLS, timed out, or this process is out of resources."""

    _hopeless = False  # a retry cannot help: a certificate or an address is wrong


class ApiError(ParlantSyncError):
    """The server answered with a status that is not success.

    ``status`` is the HTTP status, ``method`` and ``path`` the request, ``detail`` what the server said (redacted,
    shortened). ``from_parlant``: whether Parlant itself answered, with a JSON object that has ``detail``. Another body
    is a proxy's: a temporary failure, whatever its status.
    """

    from_parlant = True

    def __init__(self, message: str, *, status: int = 0, method: str = "", path: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.method = method
        self.path = path
        self.detail = detail


class AuthenticationError(ApiError):
    """401: the token is missing or not accepted."""


class PermissionDeniedError(ApiError):
    """403: the token is not allowed to do this."""


class NotFoundError(ApiError):
    """404: the session, agent or event is not (or no longer) on this server."""


class InvalidRequestError(ApiError):
    """400, 409, 413 or 422: the server refuses this request for good."""


class RateLimitedError(ApiError):
    """429. ``retry_after`` is what the server asked for, in seconds, or None."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 429,
        method: str = "",
        path: str = "",
        detail: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, method=method, path=path, detail=detail)
        self.retry_after = retry_after


class ServerError(ApiError):
    """5xx: the server, or a proxy before it, failed."""


class ProtocolError(ParlantSyncError):
    """A successful answer whose body is not what a Parlant server sends."""


class TurnTimeout(ParlantSyncError, TimeoutError):
    """The turn was not over in time. The session stays usable.

    ``partial`` is the ``Reply`` so far; ``event`` the message that was posted (None if none was), which
    ``session.reply_to(event)`` continues to wait for.
    """

    def __init__(self, message: str, *, partial: Reply, event: Event | None = None) -> None:
        super().__init__(message)
        self.partial = partial
        self.event = event


class AgentError(ParlantSyncError):
    """The agent's engine reported an error for this turn.

    ``detail`` is the engine's whole text (often a traceback), ``summary`` its last line, ``partial`` the
    ``Reply`` so far.
    """

    def __init__(self, message: str, *, detail: str = "", summary: str | None = None, partial: Reply) -> None:
        super().__init__(message)
        self.detail = detail
        self.summary = _last_line(detail) if summary is None else summary
        self.partial = partial


class AgentUnavailable(AgentError):
    """The server's cost control refused the turn (Parlant 4.0). It is worth another try after ``retry_after`` seconds
    (None if the server did not say when)."""

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        summary: str | None = None,
        partial: Reply,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, detail=detail, summary=summary, partial=partial)
        self.retry_after = retry_after


class UnsupportedByServer(ParlantSyncError):
    """This server's version of Parlant cannot do that; the text names the feature and the version that has it."""


class DeliveryUncertain(ParlantSyncError):
    """The message may or may not have been stored. ``session.find(key)`` can check once the server is reachable."""

    def __init__(self, message: str, *, key: str, session_id: str) -> None:
        super().__init__(message)
        self.key = key
        self.session_id = session_id


class SessionClosed(ParlantSyncError):
    """This session or client object was closed."""


class ConcurrencyError(ParlantSyncError):
    """Two callers need the same thing in conflicting ways."""


class ForkedProcessError(ParlantSyncError):
    """A session, turn or reader of the parent process was used in a forked child."""


def _last_line(text: str) -> str:
    lines = text[-4096:].split("\n")
    return next((" ".join(line.split())[:300] for line in reversed(lines) if line.strip()), "")


def copy_for_waiter(error: BaseException) -> BaseException:
    """A copy to raise in another thread. A shared instance would collect the tracebacks of all threads."""
    if not isinstance(error, ParlantSyncError):
        return error
    copied = _rebuild(type(error), error.args, dict(error.__dict__))
    copied.__cause__ = error
    return copied
