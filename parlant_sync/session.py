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
from typing import Any, Final, Literal

from parlant_sync import _validation as check
from parlant_sync import errors
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import LEAST
from parlant_sync._deadline import Deadline, seconds
from parlant_sync._http.interrupt import RunningRequests
from parlant_sync._http.transport import Failure
from parlant_sync._polling.event_hub import EventHub
from parlant_sync._polling.poller import Poller
from parlant_sync._settings import Settings
from parlant_sync._turns.starter import TurnStarter
from parlant_sync._turns.turn_queue import TurnQueue
from parlant_sync.events import (
    Event,
    EventKind,
    EventSource,
    Mode,
    Moderation,
    PostSource,
    Reply,
    SessionInfo,
    Since,
    Value,
    select,
)
from parlant_sync.reader import EventReader, Position
from parlant_sync.turn import Turn

logger = logging.getLogger(__name__)


class _Default:
    """Stands for "the client's default" where None means something of its own."""

    def __repr__(self) -> str:
        return "<the client's turn_timeout>"


DEFAULT: Final = _Default()
Timeout = float | None | _Default


@dataclass(frozen=True, repr=False)
class SessionHealth(Value):
    """How the polling of a session goes. ``state``: new, polling, waiting (backing off), parked or ended."""

    state: str
    last_poll: datetime | None
    consecutive_failures: int
    last_error: str | None
    next_offset: int
    reconnects: int
    backlog: int

    def __repr__(self) -> str:
        error = "" if self.last_error is None else f", last error: {self.last_error[:100]}"
        return f"<SessionHealth {self.state}, {self.consecutive_failures} failures in a row{error}>"


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
        self._hub = EventHub(next_offset, f"session {info.id} on {settings.base_url}")
        self._poller = Poller(
            info.id,
            api,
            self._hub,
            poll_wait=settings.poll_wait,
            idle_timeout=settings.idle_timeout,
            on_change=on_change,
        )
        self._client_api = api
        calls, turn_queue = RunningRequests(), self._turn_queue
        self._api = api = api.scoped(calls, self._hub.stop_signal)
        # A request that runs while the server refuses another one gets its own answer, which says what became of it.
        self._hub.on_end(lambda cause: None if isinstance(cause, errors.ApiError) else calls.stop(cause))
        self._hub.on_end(lambda _: turn_queue.close())
        self._starter = TurnStarter(
            info,
            api=api,
            settings=settings,
            hub=self._hub,
            poller=self._poller,
            turn_queue=self._turn_queue,
            check=self._check_process,
        )
        self._began = next_offset  # for next_turn()
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
    def mode(self) -> Mode:
        """``"auto"``, or ``"manual"`` if only humans answer. Follows a tool that hands the session over."""
        return self._hub.handed_over or self._info.mode

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
        once: bool = False,
        interrupt: bool = False,
        metadata: Mapping[str, Any] | None = None,
        moderation: Moderation | None = None,
        participant: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Post a customer's message, and block until the agent's turn that answers it is over.

        One turn runs at a time per session: a second ``send()`` waits for the first, within its own ``timeout``
        (seconds; None waits without limit; the default is the client's ``turn_timeout``). ``interrupt=True`` does not
        wait: the new message cancels the running turn, and both callers get the reply that answers both messages.

        One call posts the message at most once, under ``key`` (see ``find()``; a new key by default). ``once=True``
        follows the message that the session already holds under this key, instead of posting it again.
        ``moderation``: ``"auto"``, ``"paranoid"`` or ``"none"``. ``participant``: who speaks, a mapping with
        ``display_name``.

        Raises TurnTimeout (the session stays usable), AgentError, DeliveryUncertain, TransportError if the server was
        not reached, the ApiError of a refusal, SessionClosed.
        """
        with self.stream(
            message,
            timeout=timeout,
            key=key,
            once=once,
            interrupt=interrupt,
            metadata=metadata,
            moderation=moderation,
            participant=participant,
        ) as turn:
            return turn.reply()

    def stream(
        self,
        message: str,
        *,
        timeout: Timeout = DEFAULT,
        key: str | None = None,
        once: bool = False,
        interrupt: bool = False,
        metadata: Mapping[str, Any] | None = None,
        moderation: Moderation | None = None,
        participant: Mapping[str, Any] | None = None,
    ) -> Turn:
        """Post as ``send()`` does, and return the turn while it happens. Arguments and errors are those of ``send()``.

        The message is posted before this returns.
        """
        arguments = self._arguments(message, key, metadata, moderation, participant)
        deadline = self._deadline(timeout)
        if once:
            posted = self._posted_once(key, deadline)
            if posted is not None:
                return self._starter.follow(posted, deadline)
        return self._starter.stream(message, arguments, deadline, interrupt=interrupt)

    def post(
        self,
        message: str,
        *,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        moderation: Moderation | None = None,
        participant: Mapping[str, Any] | None = None,
        source: PostSource = "customer",
    ) -> Event:
        """Post a message and return the stored event at once. Does not wait for a turn, or queue behind one.

        ``source``: ``"customer"``, or a colleague who speaks: ``"human_agent"`` or
        ``"human_agent_on_behalf_of_ai_agent"``, which need ``participant={"display_name": ...}``. Raises as
        ``send()``, but never TurnTimeout or AgentError. Takes at most ``request_timeout`` seconds.
        """
        check.post_source(source)
        arguments = self._arguments(message, key, metadata, moderation, participant, source)
        return self._starter.post(message, arguments)

    def _arguments(
        self,
        message: object,
        key: str | None,
        metadata: Mapping[str, Any] | None,
        moderation: Moderation | None,
        participant: Mapping[str, Any] | None,
        source: PostSource = "customer",
    ) -> dict[str, Any]:
        """What a post takes, checked."""
        check.message(message)
        if key is not None:
            check.key(key)
        check.mapping("metadata", metadata)
        check.moderation(moderation)
        check.participant(participant, source)
        return {
            "key": key,
            "metadata": metadata,
            "moderation": moderation,
            "participant": participant,
            "source": source,
        }

    def _posted_once(self, key: str | None, deadline: Deadline) -> Event | None:
        """What the session already holds under ``key``."""
        if key is None:
            raise errors.ConfigurationError("once=True needs key=: the message is recognised by its key")
        if not self._starter.abilities.metadata:
            raise self._starter.unsupported("send(once=True) needs a server that keeps keys", "3.1")
        with self._starter.using():
            limit = Deadline(deadline.between(LEAST, self._settings.request_timeout))
            return self._starter.delivery.find(key, deadline=limit)

    def reply_to(self, event: Event, *, timeout: Timeout = DEFAULT) -> Reply:
        """Wait for the turn that answers a message already posted, or read that turn if it is over.

        Use it after ``post()``, TurnTimeout or a crash. Posts nothing. Raises as ``send()``, and ConfigurationError if
        this session does not hold the message.
        """
        check.customer_message(event)
        with self._starter.follow(event, self._deadline(timeout)) as turn:
            return turn.reply()

    def trigger(
        self, guidelines: str | Iterable[str | Mapping[str, Any]] | None = None, *, timeout: Timeout = DEFAULT
    ) -> Reply:
        """Ask the agent to speak without a customer message, and block until that turn is over.

        ``guidelines``: what to say, one action or several. A mapping has an ``action`` and may have a ``rationale``:
        ``"buy_time"``, ``"follow_up"`` or ``"unspecified"``. Without guidelines, servers may answer 500 although the
        turn runs, so the events decide. Raises as ``send()``.
        """
        with self._starter.trigger(check.guidelines(guidelines), self._deadline(timeout)) as turn:
            return turn.reply()

    def cancel(self) -> None:
        """Stop the agent's running turn (Parlant 4.0). Does nothing if no turn is running.

        A call that waits for the turn returns a reply with ``outcome="cancelled"``. Raises UnsupportedByServer on
        earlier versions; otherwise as any single request.
        """
        self._starter.cancel()

    def next_turn(self, *, timeout: Timeout = DEFAULT) -> Reply:
        """Wait for the next turn that no call of this object requested, and return its reply.

        That is a greeting, a message that the agent or a colleague sends unprompted, or another client's turn. The
        first call looks from where this object began to read; each later one after the turn returned last. Raises as
        ``send()``, and ConcurrencyError if another thread is inside this call.
        """
        return self._starter.next_turn(self._began, self._deadline(timeout))

    def find(self, key: str) -> Event | None:
        """Return the message posted under this key, from the server's list; None if it holds none now.

        Servers before 3.1 drop the key: there, only messages posted by this object are found. Raises as any single
        request: TransportError, ApiError, ProtocolError.
        """
        check.key(key)
        with self._starter.using():
            return self._starter.delivery.find(key)

    def post_event(
        self,
        kind: Literal["custom", "status"],
        data: Any,
        *,
        source: EventSource = "customer_ui",
        metadata: Mapping[str, Any] | None = None,
    ) -> Event:
        """Post a custom event, or a status event (``data``: its status, or ``{"status": ..., "data": ...}``).

        Returns it as stored. Not repeated if the server may have taken it. Raises as any single request.
        """
        check.event_kind(kind)
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
        since: Since | None = None,
        kinds: Iterable[EventKind] | EventKind | None = None,
        sources: Iterable[EventSource] | EventSource | None = None,
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
            kinds=check.kinds(kinds),
            sources=check.sources(sources),
            partial=partial,
        )

    def history(
        self,
        since: int | Literal["beginning"] = 0,
        *,
        kinds: Iterable[EventKind] | EventKind | None = None,
        sources: Iterable[EventSource] | EventSource | None = None,
    ) -> list[Event]:
        """What the server holds now from offset ``since`` on; never waits for more. Raises as any single request."""
        wanted = check.kinds(kinds)
        with self._starter.using():
            events = self._api.list_events(self.id, check.offset(since), kinds=wanted)
        return select(events, wanted, check.sources(sources))

    # -- the session itself

    def update(
        self,
        *,
        title: str | None = None,
        mode: Mode | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
        customer_id: str | None = None,
    ) -> None:
        """Change what is given. ``metadata`` is merged (None as a value removes the name), ``labels`` are replaced.

        Parlant 3.0 knows only title and mode. UnsupportedByServer names what a server did not keep. Raises as any
        single request.
        """
        if mode is not None:
            check.mode(mode)
        check.mapping("metadata", metadata)
        wanted = check.labels(labels)
        with self._starter.using():
            info = self._update(
                check.session_changes(
                    self._info, title=title, mode=mode, customer_id=customer_id, metadata=metadata, labels=wanted
                )
            )
            others = sorted(set(info.labels) - set(wanted or ()))
            if wanted is not None and others:  # another client's, added since this object was last read
                info = self._update({"labels": {"remove": others}})
        for what, since in check.not_kept(info, metadata=metadata, labels=wanted, customer_id=customer_id):
            raise self._starter.unsupported(f"update() of sessions with {what}", since)

    def _update(self, body: Mapping[str, Any]) -> SessionInfo:
        info = self._api.update_session(self.id, body) or self._api.read_session(self.id)
        self._hub.handed_over = None
        self._info = info
        return info

    def refresh(self) -> Session:
        """Read the session's attributes again; returns the session. Raises as any single request."""
        with self._starter.using():
            self._info = self._api.read_session(self.id)
        self._hub.handed_over = None
        return self

    def delete_events(self, since: int | Literal["beginning"]) -> None:
        """Delete the session's events from offset ``since`` on, on the server, for good. Raises as any single request.

        Parlant up to 3.2 then uses the offsets again; readers notice at this object's next post.
        """
        start = check.offset(since)
        with self._starter.using():
            self._api.delete_events(self.id, start)

    def delete(self) -> None:
        """Delete the session on the server, and close this object. Raises as any single request."""
        with self._starter.using():
            self._delete(self._client_api)  # not among the requests that the end of the session cuts

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
