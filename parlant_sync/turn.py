"""The agent's turn that answers a message, while it happens: its events, its text, its updates, its reply."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

from parlant_sync import errors
from parlant_sync._deadline import Deadline, seconds
from parlant_sync._single_owner import SingleOwner
from parlant_sync._turns.driver import TurnDriver
from parlant_sync._turns.tracker import Update
from parlant_sync.events import Event, Reply

__all__ = ["Turn", "Update", "as_sse"]

logger = logging.getLogger(__name__)


class Turn:
    """The agent's turn that answers a message, while it happens. Made by ``session.stream()``.

    Iterate over it for its events, over ``text`` for the answer's text, over ``updates`` for both, or call
    ``reply``. Each gives the whole turn, whenever it is called. One thread at a time can do this; a second one gets
    ConcurrencyError. Each raises TurnTimeout when the turn's time is over, AgentError if the engine reported an error,
    SessionClosed, or what ended the session.
    """

    def __init__(self, driver: TurnDriver, owner: object) -> None:
        """``owner``: the session, which lives as long as one of its turns."""
        self._driver = driver
        self._owner = owner
        self._pid = os.getpid()
        self._claim = SingleOwner()  # of the thread that drives
        driver.leave_unattended()

    def __repr__(self) -> str:
        driver = self._driver
        state = "over" if driver.outcome is not None else "closed" if driver.left else "running"
        return f"<Turn of session {driver.starter.session_id!r}, request={self.request!r} ({state})>"

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop waiting for this turn. It continues at the server, and the session stays open. Idempotent."""
        if self._pid == os.getpid():  # in a forked child, threads that do not exist there may hold the locks
            self._driver.leave()

    def cancel(self) -> None:
        """Stop the agent (Parlant 4.0); ``reply()`` then has ``outcome="cancelled"`` and what the agent had said.

        If the turn is over, nothing happens. Raises UnsupportedByServer on earlier versions.
        """
        self._driver.starter.cancel(self._driver.outcome is None)

    @property
    def request(self) -> Event | None:
        """The message that the turn answers. None if no message started it."""
        return self._driver.request

    @property
    def restarts(self) -> int:
        """How often the pieces of ``text`` have begun again, with another answer."""
        return self._driver.transcript.restarts

    @property
    def trace_id(self) -> str | None:
        """The trace ID of the turn, once it has begun."""
        return self._driver.transcript.tracker.trace

    def __iter__(self) -> Iterator[Event]:
        """The turn's events as they come. A streamed message is given when it is complete."""
        given = 0
        while True:
            log = self._driver.transcript.log
            if given < len(log):
                given += 1
                yield log[given - 1]
            elif not self._drive(text=False):
                break
        self._driver.result()  # raises what has failed

    @property
    def text(self) -> Iterator[str]:
        """The answer's text in pieces whose sum is ``reply().text``: chunks as they are written, else whole messages.

        If the turn was cancelled in the middle of its text, ``restarts`` counts it, and the pieces continue with
        the new answer. Each use of this attribute begins with the first piece.
        """
        return self._text()

    def _text(self) -> Iterator[str]:
        given, restarts = 0, self.restarts
        while True:
            if restarts != self.restarts:
                given, restarts = 0, self.restarts
            pieces = self._driver.transcript.pieces
            if given < len(pieces):
                given += 1
                yield pieces[given - 1]
            elif not self._drive(text=True):
                break
        self._driver.result()  # raises what has failed

    def updates(self, heartbeat: float | None = None) -> Iterator[Update]:
        """Everything that a chat page shows, in one loop.

        Yields ``Update(kind, text, event)``. The kinds are ``"status"`` (``text`` is the status), ``"preamble"``,
        ``"text"`` (a piece of the answer, as from ``text``), ``"tool"``, ``"restart"`` (what was shown of the
        answer is not valid any more), ``"heartbeat"`` (after every ``heartbeat`` seconds without another update; None:
        never) and ``"end"`` (``text`` is the whole answer). Errors are raised as by ``reply``.
        """
        if heartbeat is not None:
            seconds("heartbeat", heartbeat, minimum=0.001)
        return self._updates(heartbeat)

    def _updates(self, heartbeat: float | None) -> Iterator[Update]:
        given = 0
        beat = Deadline(heartbeat)
        while True:
            updates = self._driver.transcript.updates
            if given < len(updates):
                given += 1
                yield updates[given - 1]
                beat = Deadline(heartbeat)
            elif not self._drive(text=True, until=beat):
                break
            elif beat.expired() and given >= len(self._driver.transcript.updates) and self._driver.outcome is None:
                yield Update("heartbeat")
                beat = Deadline(heartbeat)
        self._driver.result()  # raises what has failed
        yield Update("end", self.reply().text)

    def reply(self) -> Reply:
        """Block until the turn is over, and return what it said."""
        if self._driver.outcome is None:
            self._drive(text=False, to_end=True)
        return self._driver.result()

    def _drive(self, *, text: bool, until: Deadline | None = None, to_end: bool = False) -> bool:
        """Take one step, or all of them if ``to_end``; False if the outcome was known already."""
        driver, starter = self._driver, self._driver.starter
        if driver.outcome is not None:
            return False
        with starter.using_also_closed():  # first: in a forked child, a thread of the parent may have the claim
            try:
                if not self._claim.take():  # in the ``try``, because an interrupt may come after it was taken
                    raise errors.ConcurrencyError(
                        f"{starter.where}: another thread reads this turn; let one thread read it, or give each its own"
                    )
                driver.drive(text=text, until=until, to_end=to_end)
            finally:
                self._claim.let_go()
        return True


def as_sse(turn: Turn, *, heartbeat: float | None = 15.0) -> Iterator[str]:
    """The updates of ``turn`` as Server-Sent Events, for a response of the type ``text/event-stream``.

    Each item is one event as a string: a line ``event: KIND``, a line ``data: JSON``, and an empty line. ``KIND`` is
    the kind of the update. The JSON object has ``text``, and ``trace_id`` of the agent's turn (with ``interrupt=True``
    two requests can get the same turn: show each trace ID once); for ``status`` also ``stage`` if there is one; for
    ``tool`` ``tools``, the names of the tools; for ``end`` also ``outcome`` and ``duration`` (seconds). A heartbeat is
    a comment line, ``: heartbeat``, which browsers ignore.

    An error ends the stream with an event ``error``: ``error`` is the name of its class, ``text`` what the agent had
    said, ``retry_after`` the seconds to wait if they are known. Its message is not sent, because visitors must not see
    addresses or internals: it is a warning in the log. ``turn.reply()`` raises the error again. The turn is closed at
    the end, also if the visitor leaves early.
    """
    try:
        for update in turn.updates(heartbeat):
            if update.kind == "heartbeat":
                yield ": heartbeat\n\n"
                continue
            data: dict[str, object] = {"text": update.text}
            event = update.event
            if event is not None:
                data["trace_id"] = event.trace_id
            if update.kind == "status" and event is not None and event.stage:
                data["stage"] = event.stage
            elif update.kind == "tool" and event is not None:
                data["tools"] = [str(call.get("tool_id")) for call in event.tool_calls]
            elif update.kind == "end":
                reply = turn.reply()
                data.update(outcome=reply.outcome, trace_id=reply.trace_id, duration=round(reply.duration, 3))
            yield _sse(update.kind, data)
    except errors.ParlantSyncError as error:
        logger.warning("session %s: the page's stream ended with an error: %s", turn._driver.starter.session_id, error)
        partial = getattr(error, "partial", None)
        data = {"error": type(error).__name__, "text": partial.text if isinstance(partial, Reply) else ""}
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None:
            data["retry_after"] = retry_after
        yield _sse("error", data)
    finally:
        turn.close()


def _sse(kind: str, data: dict[str, object]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"
