"""What runs for one session id in this process: its poller, its readers' hub, its turns."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from parlant_sync import errors
from parlant_sync._api.rest import RestApi
from parlant_sync._deadline import Deadline
from parlant_sync._http.connection import RunningRequests
from parlant_sync._polling.event_hub import EventHub
from parlant_sync._polling.poller import Poller
from parlant_sync._settings import Settings
from parlant_sync._turns.other_turns import OtherTurns
from parlant_sync._turns.starter import TurnStarter
from parlant_sync.events import SessionInfo, Since

if TYPE_CHECKING:
    from parlant_sync._registry import Registry
    from parlant_sync.session import Session

logger = logging.getLogger(__name__)


class OpenSession:
    """Held by the registry, and by the ``Session`` that callers have. Thread-safe.

    It refers to neither of them, nor to the client. So a client and its sessions are freed, and their threads end, as
    soon as no caller refers to any of them.
    """

    def __init__(
        self,
        info: SessionInfo,
        *,
        api: RestApi,
        settings: Settings,
        start: int | None,
        since: Since,
        registry: Registry,
    ) -> None:
        """``start``: the first event of the default reader; None if the first turn or reader decides that."""
        self.id = info.id
        self.info = info  # as last read
        self.settings = settings
        self.since = since
        self.where = f"session {info.id} on {settings.base_url}"
        self._registry = weakref.ref(registry)  # it holds the session, not the other way round
        # Guards _entered and _session. Reentrant: the garbage collector may run a user's __del__ that closes this.
        self._lock = threading.RLock()
        self._entered = 0
        self._session: weakref.ref[Session] | None = None
        calls = RunningRequests()
        self.hub = EventHub(start, self.where)
        self.poller = Poller(
            info.id,
            api,
            self.hub,
            poll_wait=settings.poll_wait,
            idle_timeout=settings.idle_timeout,
            on_change=functools.partial(_note, weakref.ref(self)),
        )
        self.client_api = api
        self.api = api.scoped(calls, self.hub.stop_signal)
        # A request that runs while the server refuses another one gets its own answer, which says what became of it.
        self.hub.on_end(lambda cause: None if isinstance(cause, errors.ApiError) else calls.stop(cause))
        self.starter = TurnStarter(info, api=self.api, settings=settings, hub=self.hub, poller=self.poller)
        self.other_turns = OtherTurns(self.starter)
        self._finalizer = weakref.finalize(self, self.poller.abandon)
        self._finalizer.atexit = False  # type: ignore[misc]

    def session(self, make: Callable[[], Session]) -> Session:
        """The ``Session`` object that all callers share. ``make`` creates it if no caller holds one now."""
        if self.hub.inherited:
            return make()
        with self._lock:
            found = None if self._session is None else self._session()
            if found is None:
                found = make()
                self._session = weakref.ref(found)
            return found

    def learn(self, info: SessionInfo) -> None:
        """The session was read again."""
        self.hub.handed_over = None
        self.info = info

    @property
    def closed(self) -> bool:
        return self.hub.ending is not None or self.hub.inherited

    @property
    def state(self) -> str:
        return self.poller.state

    # -- with

    def enter(self) -> None:
        self.starter.check()
        with self._lock:
            self._entered += 1

    def leave(self) -> bool:
        """Whether this was the last ``with`` block."""
        with self._lock:
            self._entered -= 1
            return self._entered <= 0

    # -- the end

    def delete(self, api: RestApi) -> None:
        gone = errors.SessionClosed(f"{self.where} was deleted; make a new one with create_session()")
        self.hub.deleting = gone
        try:
            api.delete_session(self.id)
        except BaseException:
            self.hub.deleting = None
            raise
        self.hub.end(gone)  # what counts from here on, instead of what close() says
        self.close(Deadline(self.settings.close_timeout))

    def close(self, deadline: Deadline) -> None:
        if self.hub.inherited:
            return  # it is the parent's
        self.begin_close(f"{self.where} was closed; client.session({self.id!r}) opens it again")
        self.end_close(deadline)

    def begin_close(self, why: str) -> None:
        """Wake everything that waits; wait for nothing."""
        self.hub.end(errors.SessionClosed(why))
        self.poller.stop()
        self._finalizer.detach()  # an exception of a signal handler inside a finalizer would be swallowed
        registry = self._registry()
        if registry is not None:
            registry.forget(self)

    def end_close(self, deadline: Deadline) -> None:
        """Wait for the thread."""
        if not self.poller.join(deadline):
            logger.debug("session %s: the poller's thread is still inside a system call; left to end", self.id)

    def drop_inherited(self) -> None:
        """In a forked child."""
        self._lock = threading.RLock()
        self.hub.drop_inherited()
        self.poller.drop_inherited()


def _note(ref: weakref.ref[OpenSession]) -> None:
    """Let the registry know of a change. For the poller's thread, which must not keep the session alive."""
    opened = ref()
    registry = None if opened is None else opened._registry()
    if opened is not None and registry is not None:
        registry.note(opened)
