"""A streamed message while it grows: the server updates it in place, and no poll past its offset shows the rest."""

from __future__ import annotations

from parlant_sync._deadline import Deadline
from parlant_sync.events import Event

# How often it is read again, in seconds: alone, or (where that is refused) by a list, which a server limits more.
BY_READ = 0.2
BY_LIST = 1.0
# One that has not grown for so long will not: its server was stopped in the middle of it (WIRE.md).
STALE = 60.0
# The same by the server's clock, for readers that never wait: something stands behind it that is younger by so much.
DEAD = 600.0
_ENDINGS = frozenset({"ready", "cancelled", "error"})


class StreamedMessage:
    """The message as last read, and the events that came after it and wait for its end."""

    def __init__(self, event: Event, every: float) -> None:
        self.event = event
        self.held: list[Event] = []
        self.stale = Deadline(STALE)
        self.due = Deadline(every)  # when it is to be read again, whatever else comes meanwhile
        self.over = False  # an event behind it has said that it is as whole as it gets

    def is_followed_by(self, event: Event) -> bool:
        """Whether ``event``, of the same turn, says so."""
        return event.trace_id == self.event.trace_id and (event.status in _ENDINGS or event.kind == "message")

    def is_cut_by(self, event: Event) -> bool:
        """Whether ``event`` says so by beginning another turn, or by being so much younger."""
        begun, created = self.event.created, event.created
        if begun is not None and created is not None and (created - begun).total_seconds() > DEAD:
            return True
        return event.status == "acknowledged" and event.trace_id != self.event.trace_id

    @property
    def wants_a_look(self) -> bool:
        return self.due.expired() or self.stale.expired()

    def put_off(self, every: float) -> None:
        """It could not be read; once more in ``every`` seconds."""
        self.due = Deadline(every)
        if self.stale.expired():
            self.stale = Deadline(every)

    def grew(self, now: Event, every: float) -> bool:
        """It was read again, and is to be so once more in ``every`` seconds; True where it has grown."""
        self.due = Deadline(every)
        if now.raw == self.event.raw:
            return False
        self.event = now
        self.stale = Deadline(STALE)
        return True
