"""What a failure means, what may be tried again, and after which pause. Entered only after a failure."""

from __future__ import annotations

import random
from collections.abc import Callable

from parlant_sync import errors
from parlant_sync._http.transport import Failure

SHORTEST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
# The longest Retry-After of a server that is obeyed.
LONGEST_RETRY_AFTER = 60.0
# A request gets at least this many seconds, also at the end of its caller's time. With less left, none is repeated.
LEAST = 0.5


def jittered(attempt: int) -> float:
    """The pause in seconds after the ``attempt``-th failure in a row: from 0.25 s up to 10 s, full jitter."""
    return random.uniform(SHORTEST_PAUSE, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(attempt, 30)))


def pause_after(error: BaseException, failures: int, pauses: Callable[[int], float] | None = None) -> float:
    """The pause in seconds after ``error``, the n-th failure in a row: what the server asked for, if that is longer."""
    wish = getattr(error, "retry_after", None) or 0.0
    return max((pauses or jittered)(failures), min(wish, LONGEST_RETRY_AFTER))


_ABOUT_TIME = (408, 425, 444, 460, 499)  # the last three are those of nginx and of AWS for a client that went away


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
