"""Streamed messages: the server updates them in place, and no poll past their offset shows the rest.

A turn reads one again for its text, and an event reader before it gives the message. Both do it with what is here.
"""

from __future__ import annotations

from parlant_sync import errors
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import unread
from parlant_sync._deadline import Deadline
from parlant_sync.events import Event

# How often a message is read again, in seconds: alone, or by a list, which a server limits more.
BY_READ = 0.2
BY_LIST = 1.0
# A message that has not grown for so long will not: its server was stopped in the middle of it (WIRE.md).
STALE = 60.0
# The same by the server's clock, for readers that never wait: an event behind the message is younger by so much.
DEAD = 600.0
_ENDINGS = frozenset({"ready", "cancelled", "error"})


class StreamedMessage:
    """A message as last read, and the events behind it, which wait until it is complete."""

    def __init__(self, event: Event, every: float) -> None:
        self.event = event
        self.held: list[Event] = []
        self.stale = Deadline(STALE)
        self.due = Deadline(every)  # when to read the message again, also if other events come first
        self.over = False  # an event behind it has shown that it will not grow any more

    def is_followed_by(self, event: Event) -> bool:
        """Whether ``event``, of the same turn, shows that this message will not grow any more."""
        return event.trace_id == self.event.trace_id and (event.status in _ENDINGS or event.kind == "message")

    def is_cut_by(self, event: Event) -> bool:
        """Whether ``event`` shows it because it begins another turn, or because it is so much younger."""
        begun, created = self.event.created, event.created
        if begun is not None and created is not None and (created - begun).total_seconds() > DEAD:
            return True
        return event.status == "acknowledged" and event.trace_id != self.event.trace_id

    @property
    def is_due(self) -> bool:
        """Whether it is time to read the message again."""
        return self.due.expired() or self.stale.expired()

    @property
    def is_final(self) -> bool:
        """Whether the message, as it was read last, is all that there will be of it."""
        return not self.event.is_partial or self.over or self.stale.expired()

    def store(self, fresh: Event, every: float) -> bool:
        """Store a fresh copy, and schedule the next read in ``every`` seconds. Return whether it has changed."""
        self.due = Deadline(every)
        if fresh.raw == self.event.raw:
            return False
        self.event = fresh
        self.stale = Deadline(STALE)
        return True

    def put_off(self, every: float) -> None:
        """The message could not be read. Try again in ``every`` seconds."""
        self.due = Deadline(every)
        if self.stale.expired():
            self.stale = Deadline(every)


class MessageReader:
    """Reads the streamed messages of one session while they grow. Thread-safe."""

    def __init__(self, api: RestApi, session_id: str) -> None:
        self._api = api
        self._session_id = session_id

    def every(self) -> float:
        """The pause between two reads, in seconds: longer if the server shows no single events."""
        return BY_READ if self._api.single_reads else BY_LIST

    def refresh(self, message: StreamedMessage, deadline: Deadline, every: float | None = None) -> bool | None:
        """Read ``message`` again, once. Return whether it has changed, or None if it cannot be read now.

        ``every``: seconds until the next read (default: ``every()``). Raises what ends the session (401, 403, 404).
        """
        try:
            fresh = self._read(message, deadline)
        except errors.ParlantSyncError as error:
            if not unread(error) and not isinstance(error, errors.SessionClosed):
                raise
            message.put_off(self.every() if every is None else every)
            return None
        return message.store(fresh, self.every() if every is None else every)

    def finish(self, message: StreamedMessage, deadline: Deadline) -> None:
        """Read ``message``, which will not grow any more, to its last word. Repeated until ``deadline``.

        Raises what kept it from being read.
        """
        for _ in range(2):  # one that is not complete now is broken, or came by an old answer
            fresh = self._api.again(
                lambda: self._read(message, deadline), unread, deadline=deadline, attempts=float("inf")
            )
            message.store(fresh, self.every())
            if not fresh.is_partial:
                break

    def _read(self, message: StreamedMessage, deadline: Deadline) -> Event:
        return self._api.held(self._session_id, message.event, deadline=deadline) or message.event
