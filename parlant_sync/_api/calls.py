"""What all calls have in common: what may be repeated, how often and for how long, and who can end them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from parlant_sync import errors
from parlant_sync._api.rate_limit import FIRST_POST_GAP, RateLimiter
from parlant_sync._api.retry import LEAST, StopSignal, retrying
from parlant_sync._deadline import Deadline
from parlant_sync._http.codec import decode_json
from parlant_sync._http.interrupt import RunningRequests
from parlant_sync._http.transport import Failure, HttpAnswer, Transport

_T = TypeVar("_T")
_A = TypeVar("_A", bound="ApiCalls")

# A repeat may help: the network, a proxy, a limit. Everything else would fail the same way again.
PASSING = (errors.TransportError, errors.ServerError, errors.RateLimitedError)
# These end a session, for whoever reads it.
DEADLY = (errors.NotFoundError, errors.AuthenticationError, errors.PermissionDeniedError)
ATTEMPTS = 3


class ApiCalls:
    """Requests over one transport, with their retries, among the ``calls`` of one owner."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.calls = RunningRequests()
        self._stop = StopSignal()
        self._server = _Server()

    def scoped(self: _A, calls: RunningRequests, stop: StopSignal) -> _A:
        """The same for another owner: its requests are among ``calls``, and ``stop`` ends their pauses."""
        other = type(self)(self.transport)
        other.calls, other._stop, other._server = calls, stop, self._server
        return other

    def stop(self, cause: errors.ParlantSyncError) -> None:
        """End what runs and refuse what comes: all of it raises a copy of ``cause``. One-way."""
        self.calls.stop(cause)
        self._stop.set()

    @property
    def list_limiter(self) -> RateLimiter:
        """The client's limiter of event lists, polls among them."""
        return self._server.list_limiter

    @property
    def post_limiter(self) -> RateLimiter:
        """The client's limiter of posts."""
        return self._server.post_limiter

    def drop_inherited(self) -> None:
        """In a forked child: forget the parent's connections without telling their peers, and its 429s."""
        self._server.list_limiter, self._server.post_limiter = RateLimiter(), RateLimiter(first_gap=FIRST_POST_GAP)
        self.transport.drop_inherited()

    @property
    def single_reads(self) -> bool:
        """Whether the server shows single events: until it refuses (a production policy does)."""
        return self._server.single_reads

    @single_reads.setter
    def single_reads(self, value: bool) -> None:
        self._server.single_reads = value

    @property
    def composition_modes(self) -> dict[str, str]:
        """What is known of the agents, by their ids."""
        return self._server.composition_modes

    def request(self, method: str, path: str, **options: Any) -> HttpAnswer:
        return self.transport.request(method, path, calls=self.calls, **options)

    def again(
        self,
        once: Callable[[], _T],
        may_retry: Callable[[BaseException], bool],
        *,
        deadline: Deadline,
        attempts: int = ATTEMPTS,
    ) -> _T:
        try:
            return retrying(once, deadline=deadline, attempts=attempts, may_retry=may_retry, stop=self._stop)
        except Exception as error:
            if self.calls.cause is not None and may_retry(error):
                self.calls.check()  # ended in a pause: there would have been another attempt
            raise

    def read(self, answer: HttpAnswer, method: str, path: str, parse: Callable[[Any], _T]) -> _T:
        try:
            return parse(decode_json(answer.body))
        except ValueError as error:
            raise errors.ProtocolError(
                f"{method} {self.transport.base_url}{path}: {answer.status}, but not with what a Parlant server sends: "
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
        """A GET, again after passing failures, all within ``deadline`` (default: ``request_timeout``)."""
        limit = self.transport.settings.request_timeout
        deadline = deadline or Deadline(limit)

        def once() -> _T:
            left = deadline.between(LEAST, limit)
            return self.read(self.request("GET", path, params=params, read_timeout=left), "GET", path, parse)

        return self.again(once, may_pass, deadline=deadline, attempts=attempts)

    def write(
        self,
        method: str,
        path: str,
        body: Any,
        parse: Callable[[Any], _T],
        *,
        params: Mapping[str, Any] | None = None,
        body_expected: bool = False,
    ) -> _T:
        """A request that changes something: repeated only where the server certainly did not take it."""
        failure = Failure()

        def once() -> _T:
            answer = self.request(method, path, params=params, body=body, failure=failure)
            return self.read(answer, method, path, parse) if answer.body or body_expected else parse(None)

        deadline = Deadline(self.transport.settings.request_timeout)
        return self.again(once, lambda error: may_repeat(error, failure), deadline=deadline)


class _Server:
    """What was learnt of the server, by whichever request; all scopes of one client share it."""

    def __init__(self) -> None:
        self.single_reads = True
        self.composition_modes: dict[str, str] = {}
        self.list_limiter = RateLimiter()
        self.post_limiter = RateLimiter(first_gap=FIRST_POST_GAP)


def _hopeless(error: BaseException) -> bool:
    return isinstance(error, errors.TransportError) and error._hopeless


def may_pass(error: BaseException) -> bool:
    return isinstance(error, PASSING) and not _hopeless(error)


def unread(error: BaseException) -> bool:
    """Whether events were not read for a reason that may pass, be that a proxy's answer: the server has them."""
    known = (errors.TransportError, errors.ProtocolError, errors.ApiError)
    return isinstance(error, known) and not isinstance(error, DEADLY)


def may_repeat(error: BaseException, failure: Failure) -> bool:
    """Whether a request that changes something may be made again, and with any hope."""
    return not_taken(error, failure) and not _hopeless(error)


def not_taken(error: BaseException, failure: Failure) -> bool:
    """Whether this failure proves that the server did not take the request."""
    if isinstance(error, errors.RateLimitedError):
        return True
    return isinstance(error, errors.TransportError) and not failure.sent
