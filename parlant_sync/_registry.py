"""The open sessions of one client: one id, one object, one poller; and their common end."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout

from parlant_sync import errors
from parlant_sync._deadline import Deadline
from parlant_sync._open_session import OpenSession
from parlant_sync._polling.event_hub import Position

# How many sessions that were parked and forgotten are remembered, with the place where their default reader stopped.
_REMEMBERED = 10_000


class _Book:
    """What one process knows. A forked child begins a new one, so it never waits for a lock of the parent's threads."""

    def __init__(self) -> None:
        # Guards all below; sessions are opened, woken and joined outside it. Reentrant: the garbage collector may run a
        # user's __del__ that closes a session. So nothing is iterated that this may change.
        self.lock = threading.RLock()
        self.open: weakref.WeakValueDictionary[str, OpenSession] = weakref.WeakValueDictionary()
        # Those with a thread. The others, which are new or parked, are freed unless somebody refers to them.
        self.polling: dict[str, OpenSession] = {}
        self.left_off: OrderedDict[str, Position] = OrderedDict()
        self.opening: dict[str, Future[OpenSession]] = {}


class Registry:
    """Thread-safe. Holds polling sessions strongly and resting ones weakly; forgets those that have ended.

    ``server`` is its address, for messages.
    """

    def __init__(self, server: str = "the server") -> None:
        self._server = server
        self._closed = False
        self._books = {os.getpid(): _Book()}  # changed by single dict operations only

    @property
    def _book(self) -> _Book:
        # Compared at each use: some programs (uWSGI) fork without running Python's hooks.
        book = self._books.get(os.getpid())
        if book is None:
            self.drop_inherited()
            book = self._books.setdefault(os.getpid(), _Book())
        return book

    def check_open(self) -> None:
        if self._closed:
            raise errors.SessionClosed(self._closed_text())

    def _closed_text(self) -> str:
        return f"this client of {self._server} was closed; make a new Client"

    def all(self) -> list[OpenSession]:
        """Those that are open now."""
        book = self._book
        with book.lock:
            found = self._all(book)
        return [session for session in found if not session.closed]

    def find(self, session_id: str) -> OpenSession | None:
        book = self._book
        with book.lock:
            return self._find(book, session_id)

    # -- opening

    def get_or_open(self, session_id: str, make: Callable[[], OpenSession], timeout: float) -> OpenSession:
        """The open session of this id, else what ``make`` makes; once for all callers that ask at the same time."""
        deadline = Deadline(timeout)
        while True:
            book = self._book
            mine: Future[OpenSession] = Future()
            opening = mine
            try:
                with book.lock:
                    self.check_open()
                    found = self._find(book, session_id)
                    if found is not None:
                        return found
                    opening = book.opening.get(session_id) or mine
                    if opening.done():  # an interrupt has kept its opener from removing it
                        opening = mine
                    book.opening[session_id] = opening
                if opening is mine:
                    session = make()
                    self._keep(book, session)
                    mine.set_result(session)
                    return session
            except errors.ParlantSyncError as error:
                if opening is mine and not mine.done():
                    shared = errors.copy_for_waiter(error)
                    shared.__cause__ = error.__cause__  # not the error: its traceback holds the future and the session
                    mine.set_exception(shared)
                raise
            finally:
                mine.cancel()  # if it is not done, this is an interrupt, or a bug: the others try it themselves
                if opening is mine:
                    self._remove_opening(book, session_id, mine)
            opened = self._wait(book, session_id, opening, deadline)
            if opened is not None and not opened.closed:
                return opened

    def _wait(
        self, book: _Book, session_id: str, opening: Future[OpenSession], deadline: Deadline
    ) -> OpenSession | None:
        """What another thread opens; None if it was interrupted."""
        try:
            error = opening.exception(deadline.bound(None))
        except CancelledError:
            return None
        except FutureTimeout:
            self._remove_opening(book, session_id, opening)
            raise errors.TransportError(
                f"session {session_id} on {self._server}: another thread's attach did not end in time; try again, "
                "and check that the server answers"
            ) from None
        if error is not None:
            raise errors.copy_for_waiter(error)
        return opening.result(0)

    def _remove_opening(self, book: _Book, session_id: str, opening: Future[OpenSession]) -> None:
        with book.lock:
            if book.opening.get(session_id) is opening:
                book.opening.pop(session_id, None)

    def add(self, session: OpenSession) -> OpenSession:
        """Start a session that was just created on the server."""
        try:
            session.poller.start()
            self._keep(self._book, session)
        except BaseException:
            session.close(Deadline(0))  # no caller has it
            raise
        return session

    def _keep(self, book: _Book, session: OpenSession) -> None:
        with book.lock:
            if not self._closed:
                self._shelve(book, session)
                return
        session.close(Deadline(0))
        self.check_open()

    def _find(self, book: _Book, session_id: str) -> OpenSession | None:
        """The lock is held."""
        session = book.open.get(session_id)
        return session if session is not None and not session.closed else None

    # -- keeping

    def left_off(self, session_id: str) -> int | None:
        """Where the default reader stopped of a session that was parked and forgotten, but not closed."""
        book = self._book
        with book.lock:
            position = book.left_off.get(session_id)
            return None if position is None else position.known

    def note(self, session: OpenSession) -> None:
        """Its poller has started, was parked, or has ended: hold it accordingly."""
        book = self._book
        with book.lock:
            if book.open.get(session.id) is session:
                self._shelve(book, session)

    def _shelve(self, book: _Book, session: OpenSession) -> None:
        """Put it where its state belongs, which may have changed since it was made. The lock is held."""
        name = session.id
        book.open[name] = session
        book.polling.pop(name, None)
        book.left_off.pop(name, None)
        if session.state in ("new", "parked"):
            book.left_off[name] = session.hub.position
            if len(book.left_off) > _REMEMBERED:
                book.left_off.popitem(last=False)
        else:
            book.polling[name] = session
        if session.closed:  # checked last: what closes it from now on finds it here
            self._remove(book, session)

    def forget(self, session: OpenSession) -> None:
        book = self._book
        with book.lock:
            self._remove(book, session)

    def _remove(self, book: _Book, session: OpenSession) -> None:
        """The lock is held."""
        if book.open.get(session.id) is session:
            for kept in (book.open, book.polling, book.left_off):
                kept.pop(session.id, None)

    def _all(self, book: _Book) -> list[OpenSession]:
        """The lock is held."""
        # valuerefs() returns a list. keys() and items() would change if a session is freed meanwhile.
        return [session for ref in book.open.valuerefs() if (session := ref()) is not None]

    # -- the end

    def close(self, deadline: Deadline) -> None:
        """Wake all, then join all, under one deadline. Later openers get SessionClosed."""
        book = self._book
        with book.lock:
            self._closed = True
            sessions = self._all(book)
        for session in sessions:
            session.begin_close(f"{session.where} was closed with its client; make a new Client, and attach there")
        for session in sessions:
            session.end_close(deadline)

    def stop_pollers(self, deadline: Deadline) -> None:
        """At exit: wake and join all pollers. Waiting callers are not notified."""
        book = self._book
        with book.lock:
            pollers = [session.poller for session in self._all(book)]
        for poller in pollers:
            poller.stop()
        for poller in pollers:
            poller.join(deadline)

    def drop_inherited(self) -> None:
        """In a forked child: start empty, and forget the parent's sessions."""
        mine = os.getpid()
        for pid in list(self._books):
            book = None if pid == mine else self._books.pop(pid, None)
            for session in [] if book is None else self._all(book):
                session.drop_inherited()
