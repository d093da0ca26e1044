"""Reading many sessions with a bounded number of requests at a time: ``tail --all-sessions``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from parlant_sync import (
    Client,
    Event,
    NotFoundError,
    ParlantSyncError,
    RateLimitedError,
    ServerError,
    TransportError,
)
from parlant_sync.cli import output
from parlant_sync.cli.errors import is_gone
from parlant_sync.cli.terminal import above_lines

_LIST_EVERY = 5.0  # seconds between two looks for new sessions
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # between two looks into one session, which grow while nothing comes
_ABANDONED = 300.0  # a streamed message that has not grown for so long never will
_PASSING = (TransportError, ServerError, RateLimitedError)


@dataclass
class _Watched:
    next_offset: int
    due: float = 0.0
    pause: float = _FIRST_PAUSE


class Watcher:
    """Calls ``passed_on(session_id, event)`` for each event, of one session in order, one at a time.

    ``saved(session_id, next_offset)`` is called after it. ``start`` gives the offset where a session begins that is
    not in ``known``.
    """

    def __init__(
        self,
        client: Client,
        selection: dict[str, Any],
        *,
        polls: int,
        known: dict[str, int],
        start: Callable[[str], int],
        passed_on: Callable[[str, Event], None],
        saved: Callable[[str, int], None],
        listed: Callable[[set[str]], None],
    ) -> None:
        self._client = client
        self._selection = selection
        self._polls = polls
        self._known = known
        self._start = start
        self._passed_on = passed_on
        self._saved = saved
        self._listed = listed
        self._sessions: dict[str, _Watched] = {}
        self._wait = threading.Event()  # never set: waits on it end early only by an exception of a signal
        self._failing = False

    @property
    def offsets(self) -> dict[str, int]:
        """Session id -> the offset of its next event."""
        return {session_id: each.next_offset for session_id, each in self._sessions.items()}

    def run(self, timeout: float | None) -> None:
        """Until no event comes for ``timeout`` seconds; 0: what is there now. Raises what is not an outage."""
        list_at = 0.0
        quiet_since = time.monotonic()
        with ThreadPoolExecutor(self._polls, "parlant-sync-watch") as pool:
            while True:
                try:
                    if time.monotonic() >= list_at:
                        self._list()
                        list_at = time.monotonic() + _LIST_EVERY
                    if self._round(pool):
                        quiet_since = time.monotonic()
                    self._failing = False
                except _PASSING as error:
                    self._say(error)
                    if timeout == 0:
                        raise
                    self._wait.wait(_LIST_EVERY)
                now = time.monotonic()
                if timeout is not None and now - quiet_since >= timeout:
                    return
                due = min([list_at, *(each.due for each in self._sessions.values())])
                left = due - now if timeout is None else min(due - now, quiet_since + timeout - now)
                self._wait.wait(max(0.0, left))

    def _list(self) -> None:
        ids = [info.id for info in self._client.list_sessions(**self._selection)]
        for gone in set(self._sessions).difference(ids):
            del self._sessions[gone]
        for new in [each for each in ids if each not in self._sessions]:  # in the server's order
            known = self._known.get(new)
            try:
                self._sessions[new] = _Watched(self._start(new) if known is None else known)
            except NotFoundError as error:
                if not is_gone(error, new):
                    raise
        self._listed(set(ids))

    def _round(self, pool: ThreadPoolExecutor) -> bool:
        """Look into every session that is due; whether anything came."""
        now = time.monotonic()
        due = [session_id for session_id, each in self._sessions.items() if each.due <= now]
        came = False
        # In slices, so that an interrupted run has no long queue of requests to wait for.
        for begin in range(0, len(due), self._polls):
            part = due[begin : begin + self._polls]
            for session_id, events in zip(part, pool.map(self._read, part), strict=True):
                came |= self._take(session_id, events)
        return came

    def _read(self, session_id: str) -> list[Event] | None:
        try:
            return self._client.history(session_id, self._sessions[session_id].next_offset)
        except NotFoundError as error:
            if is_gone(error, session_id):
                return None  # deleted since the list was read
            raise

    def _take(self, session_id: str, events: Iterable[Event] | None) -> bool:
        watched = self._sessions[session_id]
        if events is None:
            del self._sessions[session_id]
            return False
        came = False
        for event in events:
            if event.is_partial and not _abandoned(event):
                break  # it is read again when it is complete
            self._passed_on(session_id, event)
            watched.next_offset = event.offset + 1
            self._saved(session_id, watched.next_offset)
            came = True
        watched.pause = _FIRST_PAUSE if came else min(1.5 * watched.pause, _LONGEST_PAUSE)
        watched.due = time.monotonic() + watched.pause
        return came

    def _say(self, error: ParlantSyncError) -> None:
        if not self._failing:
            with above_lines():
                output.note(f"{error}; trying again until it works")
        self._failing = True


def _abandoned(event: Event) -> bool:
    return event.created is None or time.time() - event.created.timestamp() > _ABANDONED
