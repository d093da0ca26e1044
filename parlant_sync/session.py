"""A conversation with one agent: send, stream, post, read; polled in the background for as long as it is open."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final

from parlant_sync import _validation as check
from parlant_sync import errors
from parlant_sync._api.rest import RestApi, session_path
from parlant_sync._deadline import Deadline, seconds
from parlant_sync._http.interrupt import RunningRequests
from parlant_sync._http.transport import Failure
from parlant_sync._polling.event_hub import EventHub
from parlant_sync._polling.poller import Poller
from parlant_sync._settings import Settings
from parlant_sync._turns.starter import TurnStarter
from parlant_sync._turns.turn_queue import TurnQueue
from parlant_sync.events import Event, Reply, SessionInfo, select
from parlant_sync.reader import EventReader, Position
from parlant_sync.turn import Turn

logger = logging.getLogger(__name__)


class _Default:
    """Stands for "the client's default" where None means something of its own."""

    def __repr__(self) -> str:
        return "<the client's turn_timeout>"


DEFAULT: Final = _Default()
Timeout = float | None | _Default


@dataclass(frozen=True)
class SessionHealth:
    """How the polling of a session goes. ``state``: new, polling, waiting (backing off), parked or ended."""

    state: str
    last_poll: datetime | None
    consecutive_failures: int
    last_error: str | None
    next_offset: int
    reconnects: int
    backlog: int


class Session:
    """One session of the server. Made by :class:`Client`; safe to use from any thread.

    ``id, agent_id, customer_id, title, mode, metadata, labels, created`` are as last read; ``refresh()`` reads again.
    Every call raises SessionClosed after ``close()``, what ended the polling where that has ended (NotFoundError,
    AuthenticationError, PermissionDeniedError), and ForkedProcessError in a forked child.
    """

    def __init__(
        self,
        info: SessionInfo,
        *,
        api: RestApi,
        settings: Settings,
        owner: Any,
        next_offset: int,
        since: object,
        on_change: Callable[[], None],
        forget: Callable[[Session], None],
    ) -> None:
        self.since = since
        self._info = info
        self._settings = settings
        self._owner = owner  # the client lives as long as one of its sessions is referred to
        self._forget = forget
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards _entered
        self._entered = 0
        self._turn_queue = TurnQueue()
        self._hub = EventHub(next_offset, on_end=self._turn_queue.close)
        self._poller = Poller(
            info.id,
            api,
            self._hub,
            poll_wait=settings.poll_wait,
            idle_timeout=settings.idle_timeout,
            on_change=on_change,
        )
        self._calls = RunningRequests()
        self._api = api = api.scoped(self._calls, self._poller.stop_signal)
        self._starter = TurnStarter(
            info.id,
            api=api,
            settings=settings,
            hub=self._hub,
            poller=self._poller,
            turn_queue=self._turn_queue,
            check=self._check_process,
        )
        self._position = Position(next_offset)
        # No thread refers to this object; when nobody else does either, its thread is told to end.
        self._finalizer = weakref.finalize(self, self._poller.abandon)
        self._finalizer.atexit = False  # type: ignore[misc]

    def __reduce__(self) -> Any:
        raise TypeError("a Session belongs to its process and cannot be pickled; hand over its id, and attach there")

    def __repr__(self) -> str:
        state = "forked" if self._pid != os.getpid() else self._poller.state
        return f"<Session {self.id!r} of agent {self.agent_id!r} at {self._settings.base_url} ({state})>"

    # -- what it is

    @property
    def id(self) -> str:
        return self._info.id

    @property
    def agent_id(self) -> str:
        return self._info.agent_id

    @property
    def customer_id(self) -> str:
        return self._info.customer_id

    @property
    def title(self) -> str | None:
        return self._info.title

    @property
    def mode(self) -> str:
        """``"auto"``, or ``"manual"`` where only humans answer."""
        return self._info.mode

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._info.metadata

    @property
    def labels(self) -> tuple[str, ...]:
        return self._info.labels

    @property
    def created(self) -> datetime | None:
        return self._info.created

    @property
    def closed(self) -> bool:
        """Whether this object was closed, or its polling has ended for good."""
        return self._hub.ending is not None

    @property
    def cursor(self) -> int:
        """The offset to resume from after a restart, by the default reader (see ``iter_events``)."""
        return self._position.cursor

    @property
    def agent_status(self) -> str | None:
        """The last status seen of the agent: ``"ready"``, ``"processing"``, ``"typing"``, ..., or None."""
        return self._hub.agent_status

    @property
    def health(self) -> SessionHealth:
        self._check_process()
        counts = self._poller.counts
        return SessionHealth(
            state=self._poller.state,
            last_poll=counts.last_poll,
            consecutive_failures=counts.consecutive_failures,
            last_error=counts.last_error,
            next_offset=self._hub.place.next,
            reconnects=counts.reconnects,
            backlog=self._hub.backlog,
        )

    # -- turns

    def send(
        self,
        message: str,
        *,
        timeout: Timeout = DEFAULT,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        moderation: str | None = None,
        participant: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Post a customer's message, and block until the agent's turn that answers it is over.

        One turn at a time per session: a second ``send()`` waits for the first, within its own ``timeout`` (seconds;
        None waits without end; left out: the client's ``turn_timeout``). The message is posted at most once, under
        ``key`` (for ``find()``; left out: a new one). ``moderation``: ``"auto"``, ``"paranoid"`` or ``"none"``.
        ``participant``: who speaks, a mapping with a ``display_name``.

        Raises TurnTimeout (the session stays usable), AgentError, DeliveryUncertain, TransportError where the server
        was not reached, the ApiError of a refusal, SessionClosed.
        """
        with self.stream(
            message, timeout=timeout, key=key, metadata=metadata, moderation=moderation, participant=participant
        ) as turn:
            return turn.reply()

    def stream(
        self,
        message: str,
        *,
        timeout: Timeout = DEFAULT,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        moderation: str | None = None,
        participant: Mapping[str, Any] | None = None,
    ) -> Turn:
        """The same turn as it happens; the message is posted before this returns. Arguments, errors: ``send()``."""
        check.message(message)
        arguments = {"key": key, "metadata": metadata, "moderation": moderation, "participant": participant}
        return self._starter.stream(message, arguments, self._deadline(timeout), manual=self.mode == "manual")

    def post(
        self,
        message: str,
        *,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        moderation: str | None = None,
        participant: Mapping[str, Any] | None = None,
    ) -> Event:
        """Post a customer's message and return the stored event at once. Neither waits for nor queues behind a turn.

        Raises as ``send()``, but never TurnTimeout or AgentError; has ``request_timeout`` seconds.
        """
        check.message(message)
        arguments = {"key": key, "metadata": metadata, "moderation": moderation, "participant": participant}
        return self._starter.post(message, arguments)

    def reply_to(self, event: Event, *, timeout: Timeout = DEFAULT) -> Reply:
        """The turn that answers a message already posted: waits for it, or, where it is over, reads it.

        For after ``post()``, TurnTimeout, a crash. Raises as ``send()``, and ConfigurationError for a message that this
        session does not hold; posts nothing.
        """
        check.customer_message(event)
        with self._starter.follow(event, self._deadline(timeout), manual=self.mode == "manual") as turn:
            return turn.reply()

    def trigger(
        self, guidelines: str | Iterable[str | Mapping[str, Any]] | None = None, *, timeout: Timeout = DEFAULT
    ) -> Reply:
        """Ask the agent to speak without a customer's message, and block until that turn is over.

        ``guidelines``: what to say, one action or several. A mapping has an ``action`` and may have a ``rationale``:
        ``"buy_time"``, ``"follow_up"`` or ``"unspecified"``. Without guidelines servers may answer 500 though the turn
        runs, or hold the answer back (WIRE.md): the events decide. Raises as ``send()``.
        """
        with self._starter.trigger(check.guidelines(guidelines), self._deadline(timeout)) as turn:
            return turn.reply()

    def find(self, key: str) -> Event | None:
        """The message posted under this key, by the server's list; None where it holds none now.

        Servers before 3.1 drop the key: there only a message posted by this object is found. Raises as any single
        request: TransportError, ApiError, ProtocolError.
        """
        check.key(key)
        with self._starter.using():
            return self._starter.delivery.find(key)

    def post_event(
        self, kind: str, data: Any, *, source: str = "customer_ui", metadata: Mapping[str, Any] | None = None
    ) -> Event:
        """Post a custom event, or a status event (``data`` is then its status, or ``{"status": ..., "data": ...}``).

        Returns it as stored. Not repeated where the server may have taken it. Raises as any single request.
        """
        check.mapping("metadata", metadata)
        body: dict[str, Any] = {"kind": kind, "source": source, "metadata": dict(metadata or {})}
        if kind == "status":
            status = data if isinstance(data, Mapping) else {"status": data}
            body["status"] = status.get("status")
            body["data"] = status.get("data") or {}
        else:
            body["data"] = data
        with self._starter.using():
            place = self._hub.place
            event = self._api.create_event(self.id, body, failure=Failure())
            self._starter.note_posted(event, place, Deadline(self._settings.request_timeout))
            return event

    # -- events

    def iter_events(
        self,
        *,
        timeout: float | None = None,
        since: int | str | None = None,
        kinds: Iterable[str] | str | None = None,
        sources: Iterable[str] | str | None = None,
        partial: bool = False,
    ) -> EventReader:
        """The events of the session as they come, in offset order, each once.

        Without ``since``: those that no default reader of this object has given out yet, from where the session was
        opened. With it (``"latest"``, ``"beginning"``, an offset): an independent reader. ``timeout``: seconds without
        an event that end the loop; 0 gives what the server has now; None waits for ever. ``kinds`` and ``sources``
        filter. A streamed message is given when it is whole; ``partial=True`` gives it at once and again as it grows.

        Raises ConcurrencyError where another thread is inside the default reader's ``next``.
        """
        limit = None if timeout is None else seconds("timeout", timeout)
        self._starter.check()
        position = self._position
        if since is None and position.claim.taken():
            raise errors.ConcurrencyError(
                f"another thread is reading {self._starter.where}; open a reader of its own with iter_events(since=...)"
            )
        with self._starter.using():
            if since is None:
                feed = self._starter.feed(position.offset, epoch=position.epoch)
            else:
                feed = self._starter.feed(self._starter.latest() if since == "latest" else check.offset(since))
                position = Position(feed.offset, feed.epoch)
        return EventReader(
            api=self._api,
            session_id=self.id,
            poller=self._poller,
            feed=feed,
            position=position,
            check=self._check_process,
            timeout=limit,
            kinds=check.names("kinds", kinds),
            sources=check.names("sources", sources),
            partial=partial,
        )

    def history(
        self, since: int = 0, *, kinds: Iterable[str] | str | None = None, sources: Iterable[str] | str | None = None
    ) -> list[Event]:
        """What the server holds now from offset ``since`` on; never waits for more. Raises as any single request."""
        wanted = check.names("kinds", kinds)
        with self._starter.using():
            events = self._api.list_events(self.id, check.offset(since), kinds=wanted)
        return select(events, wanted, check.names("sources", sources))

    # -- the session itself

    def update(
        self,
        *,
        title: str | None = None,
        mode: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
    ) -> None:
        """Change what is given: ``metadata`` is merged (a value of None removes the name), ``labels`` replaced.

        3.0 knows only title and mode; where a server drops the rest, InvalidRequestError says so. Raises as any single
        request.
        """
        check.mapping("metadata", metadata)
        wanted = check.labels(labels)
        with self._starter.using():
            info = self._update(
                check.session_changes(self._info, title=title, mode=mode, metadata=metadata, labels=wanted)
            )
            others = sorted(set(info.labels) - set(wanted or ()))
            if wanted is not None and others:  # somebody else's, of since this object was last read
                info = self._update({"labels": {"remove": others}})
        for what, since in check.not_kept(info, metadata, wanted):
            raise errors.InvalidRequestError(
                f"{self._starter.where}: this server does not keep {what} of sessions; Parlant does from {since} on. "
                "What else was to be changed, has been",
                status=200,
                method="PATCH",
                path=session_path(self.id),
            )

    def _update(self, body: Mapping[str, Any]) -> SessionInfo:
        info = self._api.update_session(self.id, body) or self._api.read_session(self.id)
        self._info = info
        return info

    def refresh(self) -> Session:
        """Read the session's attributes again; returns the session. Raises as any single request."""
        with self._starter.using():
            self._info = self._api.read_session(self.id)
        return self

    def delete(self) -> None:
        """Delete the session on the server, and close this object. Raises as any single request."""
        with self._starter.using():
            self._delete(self._api)

    def _delete(self, api: RestApi) -> None:
        gone = errors.SessionClosed(f"{self._starter.where} was deleted; make a new one with create_session()")
        self._hub.deleting = gone
        try:
            api.delete_session(self.id)
        except BaseException:
            self._hub.deleting = None
            raise
        self._hub.end(gone)
        self.close()

    # -- closing

    def close(self, timeout: float | None = None) -> None:
        """End the polling and every call that waits, at once and for everybody. Idempotent; from any thread.

        The session stays on the server. Takes milliseconds where the poll waits for data, at most ``timeout`` seconds
        (default: ``close_timeout``) where its thread is inside DNS, or in a TLS handshake of a ``session_factory``'s
        adapter; that thread is then left to end.
        """
        if self._pid != os.getpid():
            return  # the parent's; this process has nothing of it to close
        self._begin_close()
        limit = self._settings.close_timeout if timeout is None else seconds("timeout", timeout)
        self._end_close(Deadline(limit))

    def _begin_close(self) -> None:
        """For the registry: wake everything, wait for nothing."""
        closed = errors.SessionClosed(f"{self._starter.where} was closed; client.session({self.id!r}) opens it again")
        self._hub.end(closed)
        self._calls.stop(self._hub.ending or closed)
        self._poller.stop()
        self._finalizer.detach()  # done: an interrupt that fell into it would be swallowed
        self._forget(self)

    def _end_close(self, deadline: Deadline) -> None:
        """For the registry: wait for the thread."""
        if not self._poller.join(deadline):
            logger.debug("session %s: the poller's thread is still inside a system call; left to end", self.id)

    def __enter__(self) -> Session:
        self._starter.check()
        with self._lock:
            self._entered += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._entered -= 1
            last = self._entered <= 0
        if last:
            self.close()

    def _drop_inherited(self) -> None:
        """For the client, in a forked child."""
        self._lock = threading.Lock()
        self._hub.drop_inherited()
        self._poller.drop_inherited()

    # -- helpers

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise errors.ForkedProcessError(
                f"{self._starter.where} was opened by process {self._pid}, before the fork; "
                f"open it here with client.session({self.id!r})"
            )

    def _deadline(self, timeout: Timeout) -> Deadline:
        limit = self._settings.turn_timeout if isinstance(timeout, _Default) else timeout
        seconds("timeout", limit, none_is_ok=True)
        return Deadline(limit)
