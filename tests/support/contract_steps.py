"""Steps that contract cases share: bounded waits on what can be observed, and events in short."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from parlant_sync import Event, Session
from support.waiting import PATIENCE, wait_until


def wait_for(session: Session, what: Callable[[Event], object], *, since: int = 0, timeout: float = PATIENCE) -> Event:
    """The first event from ``since`` on that is so, as soon as the server holds it."""
    with session.iter_events(since=since, timeout=timeout, partial=True) as events:
        for event in events:
            if what(event):
                return event
    raise AssertionError(f"no such event: {list_of(session.history())}")


def is_writing(event: Event) -> bool:
    """Whether the agent is at work on its answer. Compass sends ``typing`` with the first words only."""
    return event.status == "typing" or (event.status == "processing" and event.data.get("message") == "Thinking")


def stored(session: Session, text: str) -> Event:
    """The customer's message with this text, as soon as the server holds it: its POST may still be waiting.

    Not by a reader: that holds back what stands behind a message that grows.
    """
    found = wait_until(lambda: [event for event in session.history(sources="customer") if event.message == text])
    return found[0]


def list_of(events: Iterable[Event]) -> list[str]:
    """Events in a word each, for messages of failed assertions."""
    return [f"{e.offset}:{e.source}:{e.trace_id[:6]}:{e.status or e.message or e.kind}" for e in events]


def texts(events: Iterable[Event], source: str = "ai_agent") -> list[str]:
    return [event.message or "" for event in events if event.kind == "message" and event.source == source]
