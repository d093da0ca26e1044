"""A conversation with one agent: send, stream, post, read; polled in the background for as long as it is open."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final

from parlant_sync import checks, errors
from parlant_sync.api import Api
from parlant_sync.deadline import Deadline, seconds
from parlant_sync.delivery import Delivery
from parlant_sync.events import Event, Reply, SessionInfo, select
from parlant_sync.feed import Feed
from parlant_sync.gate import Gate, Pass
from parlant_sync.hub import Hub, Place
from parlant_sync.poller import Poller
from parlant_sync.reader import EventReader, Position
from parlant_sync.settings import Settings
from parlant_sync.transport import Failure
from parlant_sync.turn import Turn
from parlant_sync.turns import TurnTracker

logger = logging.getLogger(__name__)


class _Default:
    """Stands for "the client's default" where None means something of its own."""

    def __repr__(self) -> str:
        return "<the client's turn_timeout>"


DEFAULT: Final = _Default()
Timeout = float | None | _Default
# A trigger without guidelines may be answered after a minute, or by a 500, though the turn runs (WIRE.md).
_TRIGGER_ANSWER = 2.0
_TRIGGER_BEGIN = 10.0


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
        api: Api,
        settings: Settings,
        owner: Any,
        next_offset: int,
        since: object,
        on_change: Callable[[], None],
        forget: Callable[[Session], None],
    ) -> None:
        self.since = since
        self._info = info
        self._api = api
        self._settings = settings
        self._owner = owner  # the client lives as long as one of its sessions is referred to
        self._forget = forget
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards _entered and _info
        self._entered = 0
        self._hub = Hub(next_offset)
        self._poller = Poller(
            info.id,
            api,
            self._hub,
            poll_wait=settings.poll_wait,
            idle_timeout=settings.idle_timeout,
            on_change=on_change,
        )
        self._delivery = Delivery(info.id, api, self._poller.bell)
        self._gate = Gate()
        self._position = Position(next_offset)
        # No thread refers to this object; when nobody else does either, its thread is told to end.
        weakref.finalize(self, self._poller.abandon).atexit = False  # type: ignore[misc]

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
        None waits without end; left out: the client's ``turn_timeout``). The message is posted at most once.

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
        checks.message(message)
        deadline = self._deadline(timeout)
        started = time.monotonic()
        entry = self._enter(deadline, started)
        feed: Feed | None = None
        try:
            with self._using():
                place = self._hub.place
                feed = self._feed(None, deadline)
                event = self._delivery.post(
                    message,
                    key=key,
                    metadata=metadata,
                    moderation=moderation,
                    participant=participant,
                    since=place.next,
                    deadline=deadline,
                )
                if self._note_posted(event, place):
                    feed.go_to(event.offset + 1)
                else:
                    feed.skip_to(event.offset + 1)
            self._check()
            return self._turn(feed, TurnTracker(event), deadline, event, entry, started)
        except BaseException as error:
            entry.release()
            if feed is not None:
                feed.close()
            if isinstance(error, errors.TransportError | errors.ApiError):
                self._check()  # where close() has cut the post short, that is the reason
            raise

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
        checks.message(message)
        with self._using():
            place = self._hub.place
            event = self._delivery.post(
                message,
                key=key,
                metadata=metadata,
                moderation=moderation,
                participant=participant,
                since=place.next,
                deadline=Deadline(self._settings.request_timeout),
                attempts=3,
            )
            self._note_posted(event, place)
            return event

    def reply_to(self, event: Event, *, timeout: Timeout = DEFAULT) -> Reply:
        """The turn that answers a message already posted: waits for it, or, where it is over, reads it.

        For after ``post()``, TurnTimeout, a crash. Raises as ``send()``; posts nothing.
        """
        checks.customer_message(event)
        deadline = self._deadline(timeout)
        self._check()
        feed = self._feed(event.offset + 1, deadline)
        with self._turn(feed, TurnTracker(event), deadline, event, None, time.monotonic()) as turn:
            return turn.reply()

    def trigger(
        self, guidelines: str | Iterable[str | Mapping[str, Any]] | None = None, *, timeout: Timeout = DEFAULT
    ) -> Reply:
        """Ask the agent to speak without a customer's message, and block until that turn is over.

        ``guidelines``: what to say, one action or several (a mapping may give its ``rationale``). Without them servers
        may answer 500 though the turn runs, or hold the answer back (WIRE.md): the events decide. Raises as ``send()``.
        """
        body: dict[str, Any] = {"kind": "message", "source": "ai_agent"}
        actions = checks.guidelines(guidelines)
        if actions:
            body["guidelines"] = actions
        deadline = self._deadline(timeout)
        started = time.monotonic()
        entry = self._enter(deadline, started)
        feed: Feed | None = None
        try:
            with self._using():
                place = self._hub.place
                feed = self._feed(None, deadline)
                feed.skip_to(self._hub.latest())
                failure = Failure()
                trouble: errors.ParlantSyncError | None = None
                trace: str | None = None
                limit = deadline.bound(None) if actions else deadline.bound(_TRIGGER_ANSWER)
                try:
                    event = self._api.create_event(self.id, body, failure=failure, read_timeout=_read_limit(limit))
                    if actions:
                        trace = event.trace_id
                        if self._note_posted(event, place):
                            feed.go_to(event.offset)
                except (errors.ServerError, errors.TransportError, errors.ProtocolError) as error:
                    if not failure.sent:
                        raise
                    trouble = error
            tracker = TurnTracker(trace=trace, unannounced=bool(actions) and trace is None)
            return self._turn(feed, tracker, deadline, None, entry, started, trouble).reply()
        except BaseException:
            entry.release()
            if feed is not None:
                feed.close()
            raise

    def find(self, key: str) -> Event | None:
        """The message posted under this key, by the server's list; None where it holds none now.

        Servers before 3.1 drop the key: there only a message posted by this object is found.
        """
        checks.key(key)
        with self._using():
            return self._delivery.find(key)

    def post_event(
        self, kind: str, data: Any, *, source: str = "customer_ui", metadata: Mapping[str, Any] | None = None
    ) -> Event:
        """Post a custom event, or a status event (``data`` is then its status, or ``{"status": ..., "data": ...}``)."""
        checks.mapping("metadata", metadata)
        body: dict[str, Any] = {"kind": kind, "source": source, "metadata": dict(metadata or {})}
        if kind == "status":
            status = data if isinstance(data, Mapping) else {"status": data}
            body["status"] = status.get("status")
            body["data"] = status.get("data") or {}
        else:
            body["data"] = data
        with self._using():
            place = self._hub.place
            event = self._api.create_event(self.id, body, failure=Failure())
            self._note_posted(event, place)
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
        self._check()
        position = self._position
        if since is None and position.taken():
            raise errors.ConcurrencyError(
                f"another thread is reading {self._where}; open a reader of its own with iter_events(since=...)"
            )
        with self._using():
            if since is None:
                feed = self._feed(position.offset, None, epoch=position.epoch)
            else:
                feed = self._feed(self._offset_of(since), None)
                position = Position(feed.offset, feed.epoch)
        return EventReader(
            api=self._api,
            session_id=self.id,
            poller=self._poller,
            feed=feed,
            position=position,
            check=self._check_process,
            timeout=limit,
            kinds=checks.names("kinds", kinds),
            sources=checks.names("sources", sources),
            partial=partial,
        )

    def _offset_of(self, since: int | str) -> int:
        if since == "latest":
            # Polled a moment ago, or not: a parked or troubled poller does not know the end.
            counts = self._poller.counts
            fresh = self._poller.state == "polling" and counts.last_poll and not counts.consecutive_failures
            return self._hub.latest() if fresh else self._api.end_of(self.id)
        return checks.offset(since)

    def history(
        self, since: int = 0, *, kinds: Iterable[str] | str | None = None, sources: Iterable[str] | str | None = None
    ) -> list[Event]:
        """What the server holds now from offset ``since`` on; never waits for more. Raises as any single request."""
        wanted = checks.names("kinds", kinds)
        with self._using():
            events = self._api.list_events(self.id, checks.offset(since), kinds=wanted)
        return select(events, wanted, checks.names("sources", sources))

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

        3.0 knows only title and mode; where a server drops the rest, InvalidRequestError says so.
        """
        checks.mapping("metadata", metadata)
        wanted = checks.labels(labels)
        body: dict[str, Any] = {}
        if title is not None:
            body["title"] = title
        if mode is not None:
            body["mode"] = mode
        if metadata is not None:
            body["metadata"] = {
                "set": {k: v for k, v in metadata.items() if v is not None},
                "unset": [k for k, v in metadata.items() if v is None],
            }
        if wanted is not None:
            body["labels"] = {"upsert": wanted, "remove": sorted(set(self.labels) - set(wanted))}
        with self._using():
            info = self._api.update_session(self.id, body) or self._api.read_session(self.id)
            self._take_info(info)
        kept = all(info.metadata.get(k) == v for k, v in (metadata or {}).items())
        if not kept or (wanted is not None and set(info.labels) != set(wanted)):
            raise errors.InvalidRequestError(
                f"session {self.id}: the server at {self._settings.base_url} does not keep "
                f"{'labels' if kept else 'metadata'} of sessions; Parlant does from {'3.2' if kept else '3.1'} on",
                method="PATCH",
            )

    def refresh(self) -> Session:
        """Read the session's attributes again; returns the session."""
        with self._using():
            self._take_info(self._api.read_session(self.id))
        return self

    def _take_info(self, info: SessionInfo) -> None:
        with self._lock:
            self._info = info

    def delete(self) -> None:
        """Delete the session on the server, and close this object."""
        with self._using():
            self._api.delete_session(self.id)
        self._close_deleted()

    def _close_deleted(self) -> None:
        self._hub.end(errors.SessionClosed(f"{self._where} was deleted; make a new one with create_session()"))
        self.close()

    # -- closing

    def close(self, timeout: float | None = None) -> None:
        """End the polling and every call that waits, at once and for everybody. Idempotent; from any thread.

        The session stays on the server. Takes milliseconds where the poll waits for data, at most ``timeout`` seconds
        (default: ``close_timeout``) where its thread is inside DNS or a handshake; that thread is then left to end.
        """
        if self._pid != os.getpid():
            return  # the parent's; this process has nothing of it to close
        self._begin_close()
        limit = self._settings.close_timeout if timeout is None else seconds("timeout", timeout)
        self._end_close(Deadline(limit))

    def _begin_close(self) -> None:
        """For the registry: wake everything, wait for nothing."""
        self._hub.end(errors.SessionClosed(f"{self._where} was closed; client.session({self.id!r}) opens it again"))
        self._gate.close()
        self._poller.stop()
        self._forget(self)

    def _end_close(self, deadline: Deadline) -> None:
        """For the registry: wait for the thread."""
        if not self._poller.join(deadline):
            logger.debug("session %s: the poller's thread is still inside a system call; left to end", self.id)

    def __enter__(self) -> Session:
        self._check()
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
        self._poller.drop_inherited()

    # -- helpers

    @property
    def _where(self) -> str:
        return f"session {self.id} on {self._settings.base_url}"

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise errors.ForkedProcessError(
                f"{self._where} was opened by process {self._pid}, before the fork; "
                f"open it here with client.session({self.id!r})"
            )

    def _check(self) -> None:
        self._check_process()
        ending = self._hub.ending
        if ending is not None:
            raise errors.copy_for_waiter(ending) from ending

    def _using(self) -> _Use:
        self._check()
        return _Use(self._poller)

    def _deadline(self, timeout: Timeout) -> Deadline:
        limit = self._settings.turn_timeout if isinstance(timeout, _Default) else timeout
        seconds("timeout", limit, none_is_ok=True)
        return Deadline(limit)

    def _enter(self, deadline: Deadline, started: float) -> Pass:
        self._check()
        with self._using():
            entry = self._gate.enter(deadline, deadline)
        self._check()
        if entry is None:
            raise errors.TurnTimeout(
                f"{self._where}: nothing was posted, for another turn of it was running all the time; "
                "wait longer, or use a session for each conversation",
                partial=Reply("", "empty", duration=time.monotonic() - started),
            )
        return entry

    def _feed(self, offset: int | None, deadline: Deadline | None, *, epoch: int | None = None) -> Feed:
        api, session_id, settings = self._api, self.id, self._settings

        def lister(since: int, _: Deadline) -> list[Event]:
            # A list is work, not waiting: it has the time of a request, but no more than its turn has left.
            limit = deadline.bound(settings.request_timeout) if deadline is not None else settings.request_timeout
            return api.list_events(session_id, since, deadline=Deadline(max(limit or 0.0, 0.5)), attempts=1)

        return Feed(self._hub, lister, settings.backlog_limit, offset=offset, epoch=epoch)

    def _turn(
        self,
        feed: Feed,
        tracker: TurnTracker,
        deadline: Deadline,
        request: Event | None,
        entry: Pass | None,
        started: float,
        trouble: errors.ParlantSyncError | None = None,
    ) -> Turn:
        return Turn(
            api=self._api,
            session_id=self.id,
            poller=self._poller,
            feed=feed,
            tracker=tracker,
            deadline=deadline,
            request=request,
            check=self._check_process,
            manual=self.mode == "manual",
            entry=entry,
            started=started,
            post_error=trouble,
            begin_by=Deadline(_TRIGGER_BEGIN) if trouble is not None else None,
        )

    def _note_posted(self, event: Event, place: Place) -> bool:
        """The server has just taken ``event``; True where that shows that its numbering went back."""
        self._poller.cut_pause()  # it answers again, so there is no reason to wait
        if not self._hub.note_posted(event.offset, place):
            return False
        logger.info("session %s: offsets went back to %d; reading on from there", self.id, event.offset)
        self._poller.poll_now()
        return True


class _Use:
    """A stretch in which the session is in use, so that it is not parked."""

    __slots__ = ("_poller",)

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    def __enter__(self) -> None:
        self._poller.use()

    def __exit__(self, *_: object) -> None:
        self._poller.unuse()


def _read_limit(limit: float | None) -> float | None:
    return None if limit is None else max(limit, 0.001)
