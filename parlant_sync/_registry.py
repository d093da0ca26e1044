"""The open sessions of one client: one id, one object, one poller; and their common end."""

from __future__ import annotations

import queue
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType

from parlant_sync import errors
from parlant_sync._deadline import Deadline
from parlant_sync._polling.poller import Use
from parlant_sync.reader import Position
from parlant_sync.session import Session

# Of so many sessions that were parked and then forgotten it is remembered how far they had been read.
_REMEMBERED = 10_000


class _Opening:
    """An attach that is under way: whoever asks for the same id waits for it, and shares its failure."""

    __slots__ = ("error", "latch", "over")

    def __init__(self) -> None:
        # Gets an item when it is over, and keeps one from then on. No Event: this is one call into C, so done or not.
        self.latch: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.over = False
        self.error: BaseException | None = None

    def wait(self, timeout: float | None) -> bool:
        """Whether it is over, in so many seconds."""
        try:
            self.latch.get(timeout=timeout)
        except queue.Empty:
            pass
        finally:
            if self.over:
                self.latch.put(None)  # for the next one
        return self.over


class Registry:
    """Thread-safe. Holds polling sessions strongly and parked ones weakly; forgets those that have ended.

    ``server`` is its address, for messages.
    """

    def __init__(self, server: str = "the server") -> None:
        self._server = server
        # Guards all below; sessions are made, woken and joined outside it. Reentrant: a collection in the middle may
        # run a user's __del__ that closes a session. So nothing is iterated that this may change.
        self._lock = threading.RLock()
        self._open: dict[str, Session] = {}
        self._parked: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()
        self._left_off: OrderedDict[str, Position] = OrderedDict()
        self._opening: dict[str, _Opening] = {}
        self._closed = False

    def snapshot(self) -> Mapping[str, Session]:
        with self._lock:
            sessions = self._all()
        return MappingProxyType({session.id: session for session in sessions if not session.closed})

    def _all(self) -> list[Session]:
        """The lock is held."""
        # valuerefs() is a list of its own: keys and items would be those of a moment that is over.
        parked = [session for ref in self._parked.valuerefs() if (session := ref()) is not None]
        return [*parked, *self._open.values()]

    def check_open(self) -> None:
        if self._closed:
            raise errors.SessionClosed(f"this client of {self._server} was closed; make a new Client")

    def get_or_open(self, session_id: str, make: Callable[[], Session], timeout: float) -> Session:
        """The open session of this id; else what ``make`` makes, started; once for all who ask at the same time."""
        deadline = Deadline(timeout)
        while True:
            opening = mine = _Opening()
            session: Session | None = None
            try:
                with self._lock:
                    self.check_open()
                    found = self._find(session_id)
                    if found is not None:
                        return found
                    opening = self._running().setdefault(session_id, mine)
                if opening is mine:
                    session = make()  # has no thread yet: an interrupt may lose it
                    self._begin(session)
                    return session
            except BaseException as error:
                with self._lock:
                    lost = session is not None and not self._holds(session)
                if session is not None and lost:
                    session.close(0)  # nobody can have it
                if isinstance(error, Exception):
                    mine.error = self._for_others(session_id, error)
                raise
            finally:
                # A store and a call into C, the first things here: no interrupt comes before or between them.
                mine.over = True
                mine.latch.put(None)
                with self._lock:
                    self._running()
            if not opening.wait(deadline.bound(None)):
                raise errors.TransportError(
                    f"session {session_id} on {self._server}: another thread's attach did not end in time; try again, "
                    "and check that the server answers"
                )
            if opening.error is not None:
                raise errors.copy_for_waiter(opening.error)
            # It went well, or was interrupted: look again. What it opened may be closed already.

    def _for_others(self, session_id: str, error: Exception) -> BaseException:
        """What the others raise: without its traceback, whose frames hold the opening, and with it the session."""
        if isinstance(error, errors.ParlantSyncError):
            copied = errors.copy_for_waiter(error)
            copied.__cause__ = error.__cause__
            return copied
        name = type(error).__name__
        return errors.TransportError(
            f"session {session_id} on {self._server}: another thread's attach failed with {name}; try again"
        )

    def _running(self) -> dict[str, _Opening]:
        """Without those that are over, be it by an interrupt that let nobody clear up. The lock is held."""
        self._opening = {key: one for key, one in list(self._opening.items()) if not one.over}
        return self._opening

    def _find(self, session_id: str) -> Session | None:
        """The lock is held."""
        session = self._open.get(session_id) or self._parked.get(session_id)
        return session if session is not None and not session.closed else None

    def _holds(self, session: Session) -> bool:
        """The lock is held."""
        return self._open.get(session.id) is session or self._parked.get(session.id) is session

    def _begin(self, session: Session) -> None:
        with Use(session._poller):
            pass  # its thread runs now
        with self._lock:
            if not self._closed:
                self._shelve(session)
                return
        session.close()
        self.check_open()

    def add(self, session: Session) -> Session:
        """Start a session that was just created on the server."""
        try:
            self._begin(session)
        except BaseException:
            session.close(0)  # nobody else knows of it
            raise
        return session

    def left_off(self, session_id: str) -> int | None:
        """Where the default reader goes on of a session that was parked, and not closed; None where none was."""
        with self._lock:
            position = self._left_off.get(session_id)
            return None if position is None else position.offset

    def note(self, session: Session) -> None:
        """Its poller has started, was parked, or has ended: hold it accordingly."""
        with self._lock:
            if self._holds(session):
                self._shelve(session)

    def _shelve(self, session: Session) -> None:
        """Where its state says, which may be another one than when it was made. The lock is held."""
        if session._poller.state == "parked":
            self._parked[session.id] = session
            self._open.pop(session.id, None)
            self._left_off.pop(session.id, None)  # to the end; no move_to_end(), which fails where a __del__ closed it
            self._left_off[session.id] = session._position
            if len(self._left_off) > _REMEMBERED:
                self._left_off.popitem(last=False)
        else:
            self._open[session.id] = session
            self._parked.pop(session.id, None)
            self._left_off.pop(session.id, None)
        if session.closed:  # looked at last: what closes it from now on finds it here
            self._remove(session)

    def forget(self, session: Session) -> None:
        with self._lock:
            self._remove(session)

    def _remove(self, session: Session) -> None:
        """The lock is held."""
        if self._open.get(session.id) is session:
            self._open.pop(session.id, None)
        if self._parked.get(session.id) is session:
            self._parked.pop(session.id, None)
        if self._left_off.get(session.id) is session._position:
            self._left_off.pop(session.id, None)

    def close(self, deadline: Deadline) -> None:
        """Wake all, then join all, under one deadline. Later openers get SessionClosed."""
        with self._lock:
            self._closed = True
            sessions = self._all()
        for session in sessions:
            session._begin_close()
        for session in sessions:
            session._end_close(deadline)

    def stop_pollers(self, deadline: Deadline) -> None:
        """Wake and join all pollers, and tell nobody who waits."""
        with self._lock:
            pollers = [session._poller for session in self._all()]
        for poller in pollers:
            poller.stop()
        for poller in pollers:
            poller.join(deadline)

    def drop_inherited(self) -> list[Session]:
        """In a forked child: empty, with a lock of its own. Returns what it held, for the caller to drop."""
        self._lock = threading.RLock()
        sessions = self._all()
        self._open, self._opening, self._left_off = {}, {}, OrderedDict()
        self._parked = weakref.WeakValueDictionary()
        return sessions
