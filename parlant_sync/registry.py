"""The open sessions of one client: one id, one object, one poller; and their common end."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from types import MappingProxyType

from parlant_sync import errors
from parlant_sync.deadline import Deadline
from parlant_sync.session import Session


class _Opening:
    """An attach that is under way: whoever asks for the same id waits for it, and shares its failure."""

    __slots__ = ("done", "error", "session")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.session: Session | None = None
        self.error: BaseException | None = None


class Registry:
    """Thread-safe. Holds polling sessions strongly and parked ones weakly; forgets those that have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below; sessions are made, woken and joined outside it
        self._open: dict[str, Session] = {}
        self._parked: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()
        self._opening: dict[str, _Opening] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def snapshot(self) -> Mapping[str, Session]:
        with self._lock:
            found = {**self._parked, **self._open}
        return MappingProxyType({key: session for key, session in found.items() if not session.closed})

    def check_open(self) -> None:
        if self._closed:
            raise errors.SessionClosed("this client was closed; make a new Client")

    def get_or_open(self, session_id: str, make: Callable[[], Session], timeout: float) -> Session:
        """The open session of this id; else what ``make`` makes, once for all who ask at the same time."""
        with self._lock:
            self.check_open()
            session = self._find(session_id)
            if session is not None:
                return session
            opening = self._opening.get(session_id)
            mine = opening is None
            if opening is None:
                opening = self._opening[session_id] = _Opening()
        if not mine:
            return self._share(session_id, opening, timeout)
        try:
            session = make()
            self._add(session_id, session)
            opening.session = session
            return session
        except BaseException as error:
            opening.error = error
            raise
        finally:
            with self._lock:
                self._opening.pop(session_id, None)
            opening.done.set()

    def _share(self, session_id: str, opening: _Opening, timeout: float) -> Session:
        if not opening.done.wait(timeout):
            raise errors.TransportError(f"session {session_id}: another thread's attach did not end in time")
        if opening.session is not None:
            return opening.session
        error = opening.error
        if isinstance(error, errors.ParlantSyncError):
            raise errors.copy_for_waiter(error) from error
        raise errors.TransportError(f"session {session_id}: another thread's attach was interrupted; try again")

    def _find(self, session_id: str) -> Session | None:
        assert self._lock.locked()
        session = self._open.get(session_id) or self._parked.get(session_id)
        return session if session is not None and not session.closed else None

    def _add(self, session_id: str, session: Session) -> None:
        with self._lock:
            if not self._closed:
                if not session.closed:  # its poller may have ended already
                    self._open[session_id] = session
                return
        session.close()
        self.check_open()

    def add(self, session: Session) -> Session:
        """A session that was just created on the server."""
        self._add(session.id, session)
        return session

    def note(self, session: Session) -> None:
        """Its poller has started, was parked, or has ended: hold it accordingly."""
        with self._lock:
            if session.closed:
                self._remove(session)
            elif session._poller.state == "parked":
                if self._open.get(session.id) is session:
                    del self._open[session.id]
                    self._parked[session.id] = session
            elif self._parked.get(session.id) is session:
                del self._parked[session.id]
                self._open[session.id] = session

    def forget(self, session: Session) -> None:
        with self._lock:
            self._remove(session)

    def _remove(self, session: Session) -> None:
        assert self._lock.locked()
        for book in (self._open, self._parked):
            if book.get(session.id) is session:
                del book[session.id]

    def close(self, deadline: Deadline) -> None:
        """Wake all, then join all, under one deadline. Later openers get SessionClosed."""
        with self._lock:
            self._closed = True
            sessions = [*self._open.values(), *self._parked.values()]
        for session in sessions:
            session._begin_close()
        for session in sessions:
            session._end_close(deadline)

    def stop_pollers(self, deadline: Deadline) -> None:
        """Wake and join all pollers, and tell nobody who waits."""
        with self._lock:
            pollers = [session._poller for session in (*self._open.values(), *self._parked.values())]
        for poller in pollers:
            poller.stop()
        for poller in pollers:
            poller.join(deadline)

    def drop_inherited(self) -> list[Session]:
        """In a forked child: empty, with a lock of its own. Returns what it held, for the caller to drop."""
        self._lock = threading.Lock()
        sessions = [*self._open.values(), *self._parked.values()]
        self._open, self._opening = {}, {}
        self._parked = weakref.WeakValueDictionary()
        return sessions
