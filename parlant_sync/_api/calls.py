"""What all calls share: what a failure means, what may be repeated and for how long, and who can end them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from parlant_sync import errors
from parlant_sync._api.rate_limit import FIRST_POST_GAP, RateLimiter
from parlant_sync._api.retry import LEAST, StopSignal, retrying
from parlant_sync._deadline import Deadline
from parlant_sync._http.codec import parsed
from parlant_sync._http.interrupt import RunningRequests
from parlant_sync._http.transport import Failure, HttpAnswer, Transport, unique

_T = TypeVar("_T")
_A = TypeVar("_A", bound="ApiCalls")

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
        """One request among those of the owner. Raises what ``Transport.request`` raises."""
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
        """The value of an answer. Raises TransportError if it is empty, ProtocolError if it is not what it must be."""
        what = f"{method} {self.transport.base_url}{path}: {answer.status}"
        if not answer.body:
            raise errors.TransportError(f"{what}, but with an empty body: something on the way cut it off; try again")
        try:
            return parsed(answer.body, parse)
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
        return self.get_answer(
            path,
            lambda answer: self.read(answer, "GET", path, parse),
            params=params,
            deadline=deadline,
            attempts=attempts,
        )

    def get_answer(
        self,
        path: str,
        read: Callable[[HttpAnswer], _T],
        *,
        params: Mapping[str, Any] | None = None,
        deadline: Deadline | None = None,
        attempts: int = ATTEMPTS,
    ) -> _T:
        """The same for an answer that is read in another way."""
        limit = self.transport.settings.request_timeout
        deadline = deadline or Deadline(limit)
        failed = False

        def once() -> _T:
            nonlocal failed
            # A cache on the way may have kept the failure.
            fresh = {**(params or {}), "_": unique()} if failed else params
            failed = True
            left = deadline.between(LEAST, limit)
            return read(self.request("GET", path, params=fresh, read_timeout=left))

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
        """A request that changes something: repeated only if the server certainly did not take it."""
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


_ABOUT_TIME = (408, 425, 444, 460, 499)  # the last three are those of nginx and of AWS for a client that went away

# -- what a failure means: the only place that decides what is final, and what may be repeated


def is_final(error: BaseException) -> bool:
    """Whether this ends a session for every reader: Parlant itself says 401, 403 or 404. A proxy's page never does."""
    final = (errors.NotFoundError, errors.AuthenticationError, errors.PermissionDeniedError)
    return isinstance(error, final) and error.from_parlant


def may_pass(error: BaseException) -> bool:
    """Whether reading again may help: the network, a proxy, a limit. Everything else would fail the same way again."""
    if isinstance(error, errors.TransportError):
        return not error._hopeless
    if isinstance(error, (errors.ServerError, errors.RateLimitedError)):
        return True
    return isinstance(error, errors.ApiError) and error.status in (401, 403, 404) and not error.from_parlant


def unread(error: BaseException) -> bool:
    """Whether events were not read for a reason that may pass. The server has them, so a reader asks again."""
    known = (errors.TransportError, errors.ProtocolError, errors.ApiError)
    return isinstance(error, known) and not is_final(error)


def may_repeat(error: BaseException, failure: Failure) -> bool:
    """Whether a request that changes something may be made again, and may then succeed."""
    return not_taken(error, failure) and may_pass(error)


def not_taken(error: BaseException, failure: Failure) -> bool:
    """Whether this failure proves that the server did not take the request."""
    if isinstance(error, errors.RateLimitedError):
        return True
    return isinstance(error, errors.TransportError) and not failure.sent


def not_stored(error: BaseException, failure: Failure) -> bool:
    """Whether this failure of a post proves that the server does not hold the message."""
    if not failure.sent or not_taken(error, failure):
        return True
    # Parlant itself refused it. What a proxy answers may be about an answer of Parlant's that did not get through.
    return isinstance(error, errors.ApiError) and error.from_parlant and refuses(error)


def refuses(error: BaseException) -> bool:
    """Whether this status says that the request was not carried out, not that its answer came too late or was lost."""
    return isinstance(error, errors.ApiError) and 400 <= error.status < 500 and error.status not in _ABOUT_TIME
