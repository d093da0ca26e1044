"""What an answer, or a failure, means for its row: decided here, carried out by the runner."""

from __future__ import annotations

import enum

import parlant_sync as ps
from parlant_sync.batch.worker import Answer


class Verdict(enum.Enum):
    OVER = "the turn is over, well or not: it is the row's result, or its next message follows"
    WAIT = "the server refuses for now or is out of reach: later again, together with all rows"
    LOOK = "the message may or may not be there: look for it, and post it again where it is settled that it is not"
    ANEW = "its session is gone from the server, with all that was said: from the beginning"
    STOP = "this concerns every row: the batch ends, and can be run again"


def judge(stage: str, answer: Answer, *, own: bool, reposts_left: bool) -> Verdict:
    """``stage``: ``open``, ``look``, ``post``, ``ask`` or ``wait``; ``own``: its session was made for it."""
    cause = answer.cause
    if answer.status == "denied":
        return Verdict.STOP
    if isinstance(cause, (ps.TransportError, ps.RateLimitedError)):
        return Verdict.WAIT
    if stage in ("open", "look"):
        if isinstance(cause, ps.ServerError):
            return Verdict.WAIT  # nothing was posted: no harm in asking again
        if isinstance(cause, ps.NotFoundError) and stage == "look":
            if "session" not in cause.detail.lower():
                return Verdict.WAIT  # not the server's own word: a proxy says 404 while the server behind it is away
            return Verdict.ANEW if own else Verdict.OVER
        return Verdict.OVER
    doubtful = answer.status == "uncertain" or isinstance(cause, (ps.ServerError, ps.NotFoundError))
    return Verdict.LOOK if reposts_left and doubtful else Verdict.OVER
