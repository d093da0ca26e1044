"""A conversation with one agent: send, stream, post, read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from parlant_sync import _validation as check
from parlant_sync import errors
from parlant_sync._api.posting import Draft
from parlant_sync._api.retry import LEAST
from parlant_sync._deadline import Deadline, seconds
from parlant_sync._open_session import OpenSession
from parlant_sync._polling.event_hub import Position
from parlant_sync._turns.driver import TurnDriver
from parlant_sync.events import (
    Event,
    EventKind,
    EventSource,
    Mode,
    Moderation,
    PostSource,
    Reply,
    SessionHealth,
    SessionInfo,
    Since,
    select,
)
from parlant_sync.reader import EventReader
from parlant_sync.turn import Turn

if TYPE_CHECKING:
    from parlant_sync.client import Client


class _Default:
    """Stands for "the client's default" if None has another meaning."""

    def __repr__(self) -> str:
        return "<the client's turn_timeout>"


DEFAULT: Final = _Default()
Timeout = float | None | _Default


class Session:
    """One session of the server. Made by ``Client``; safe to use from any thread.

    ``id, agent_id, customer_id, title, mode, metadata, labels, created`` are as last read; ``refresh()`` reads them
    again. Every call raises SessionClosed after ``close()``, what ended the polling if that has ended (NotFoundError,
    AuthenticationError, PermissionDeniedError), and ForkedProcessError in a forked child.
    """

    def __init__(self, opened: OpenSession, client: Client) -> None:
        self._opened = opened
        self._client = client  # it lives as long as one of its sessions is referred to
        self._settings = opened.settings
        self._starter = opened.starter
        self._api = opened.api

    def __reduce__(self) -> Any:
        raise TypeError("a Session belongs to its process and cannot be pickled; hand over its id, and attach there")

    def __repr__(self) -> str:
        state = "forked" if self._opened.hub.inherited else self._opened.state
        return f"<Session {self.id!r} of agent {self.agent_id!r} at {self._settings.base_url} ({state})>"

    # -- what it is

    @property
    def id(self) -> str:
        return self._opened.id

    @property
    def agent_id(self) -> str:
        return self._opened.info.agent_id

    @property
    def customer_id(self) -> str:
        return self._opened.info.customer_id

    @property
    def title(self) -> str | None:
        return self._opened.info.title

    @property
    def mode(self) -> Mode:
        """``"auto"``, or ``"manual"`` if only humans answer. Follows a tool that hands the session over."""
        return self._opened.hub.handed_over or self._opened.info.mode

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._opened.info.metadata

    @property
    def labels(self) -> tuple[str, ...]:
        return self._opened.info.labels

    @property
    def created(self) -> datetime | None:
        return self._opened.info.created

    @property
    def closed(self) -> bool:
        """Whether this object was closed, or its polling has ended."""
        return self._opened.closed

    @property
    def cursor(self) -> int | None:
        """The offset to resume from after a restart, by the default reader (see ``iter_events``).

        None after ``client.session()`` until the first turn, post or reader: only that decides where it begins.
        """
        return self._opened.hub.position.cursor

    @property
    def agent_status(self) -> str | None:
        """The last status seen of the agent: ``"ready"``, ``"processing"``, ``"typing"``, ..., or None."""
        return self._opened.hub.agent_status

    @property
    def health(self) -> SessionHealth:
        opened = self._opened
        if opened.hub.inherited:
            opened.hub.check()
        counts = opened.poller.counts
        return SessionHealth(
            state=opened.state,
            last_poll=counts.last_poll,
            consecutive_failures=counts.consecutive_failures,
            last_error=counts.last_error,
            next_offset=opened.hub.place.next,
            reconnects=counts.reconnects,
            backlog=opened.hub.backlog,
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
        draft = Draft(message, key, metadata, moderation, participant, once=once)
        deadline = self._deadline(timeout)
        with self._starter.using():
            driver = self._begin(draft, deadline, interrupt)
            try:
                return driver.run()
            except BaseException:
                driver.leave()  # also if an interrupt came at the first line of run()
                raise

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
        draft = Draft(message, key, metadata, moderation, participant, once=once)
        deadline, starter = self._deadline(timeout), self._starter
        with starter.using():
            driver = self._begin(draft, deadline, interrupt)
            try:
                return Turn(driver, owner=self)
            except BaseException:
                driver.leave()
                raise

    def _begin(self, draft: Draft, deadline: Deadline, interrupt: bool) -> TurnDriver:
        """Post, and follow the turn that answers. With ``once``, a message that is there already is not posted."""
        if not draft.once:
            return self._starter.begin(draft, deadline, interrupt=interrupt)
        with self._starter.alone_with(draft.key, deadline):  # of two calls with one key at the same time, one posts
            posted = self._posted_once(draft.key, deadline)
            if posted is not None:
                return self._opened.other_turns.follow(posted, deadline)
            return self._starter.begin(draft, deadline, interrupt=interrupt)

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
        return self._starter.post(Draft(message, key, metadata, moderation, participant, source))

    def _posted_once(self, key: str, deadline: Deadline) -> Event | None:
        """What the session already holds under ``key``."""
        if not self._starter.abilities.metadata:
            raise self._starter.unsupported("send(once=True)", "3.1")
        with self._starter.visiting():
            limit = Deadline(deadline.between(LEAST, self._settings.request_timeout))
            return self._starter.delivery.find(key, deadline=limit)

    def reply_to(self, event: Event, *, timeout: Timeout = DEFAULT) -> Reply:
        """Wait for the turn that answers a message already posted, or read that turn if it is over.

        Use it after ``post()``, TurnTimeout or a crash. Posts nothing. Raises as ``send()``, and ConfigurationError if
        this session does not hold the message.
        """
        check.customer_message(event)
        driver = self._opened.other_turns.follow(event, self._deadline(timeout))
        with self._starter.using():
            return driver.run()

    def trigger(
        self, guidelines: str | Iterable[str | Mapping[str, Any]] | None = None, *, timeout: Timeout = DEFAULT
    ) -> Reply:
        """Ask the agent to speak without a customer message, and block until that turn is over.

        ``guidelines``: what to say, one action or several. A mapping has an ``action`` and may have a ``rationale``:
        ``"buy_time"``, ``"follow_up"`` or ``"unspecified"``. Without guidelines, servers may answer 500 although the
        turn runs, so the events decide. Raises as ``send()``.
        """
        wanted, deadline = check.guidelines(guidelines), self._deadline(timeout)
        with self._starter.using():
            driver = self._opened.other_turns.trigger(wanted, deadline)
            try:
                return driver.run()
            except BaseException:
                driver.leave()
                raise

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
        deadline = self._deadline(timeout)
        with self._starter.using():
            start = self._opened.hub.start
            return self._opened.other_turns.next(self._starter.latest(deadline) if start is None else start, deadline)

    def find(self, key: str) -> Event | None:
        """Return the message posted under this key, from the server's list; None if it holds none now.

        Servers before 3.1 drop the key: there, only messages posted by this object are found. Raises as any single
        request: TransportError, ApiError, ProtocolError.
        """
        check.key(key)
        with self._starter.visiting():
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
        with self._starter.visiting():
            place = self._opened.hub.place
            event = self._api.create_event(self.id, body)
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
        """Return an iterator over the events of the session as they come, in offset order, each once.

        Without ``since``: those that no default reader of this object has given yet. They begin at the first event
        (``create_session()``), or where the ``since`` of ``client.session()`` says. With ``since`` (``"latest"``,
        ``"beginning"``, an offset): an independent reader. ``timeout``: the loop ends after so many seconds without an
        event; 0 gives what the server has now; None waits without limit. ``kinds`` and ``sources`` filter. A streamed
        message is given when it is complete; ``partial=True`` gives it immediately and again as it grows.

        Raises ConcurrencyError while another thread is inside the ``next`` of a default reader.
        """
        limit = None if timeout is None else seconds("timeout", timeout)
        wanted, senders = check.kinds(kinds), check.sources(sources)
        opened, starter, listed = self._opened, self._starter, False
        starter.check()
        position = opened.hub.position
        if since is None and position.claim.taken():
            raise errors.ConcurrencyError(
                f"another thread is reading {starter.where}; open a reader of its own with iter_events(since=...)"
            )
        with starter.using():
            if since is None:
                if position.known is None:
                    starter.latest()
                feed = starter.feed(position.offset, epoch=position.epoch)
            else:
                if since == "latest":
                    feed = starter.feed(starter.latest())
                else:
                    feed, listed = starter.reader_from(check.offset(since))
                position = Position(feed.offset, feed.epoch)
        return EventReader(
            starter,
            feed,
            position,
            owner=self,
            listed=listed,
            timeout=limit,
            kinds=wanted,
            sources=senders,
            partial=partial,
        )

    def history(
        self,
        since: int | Literal["beginning"] = 0,
        *,
        kinds: Iterable[EventKind] | EventKind | None = None,
        sources: Iterable[EventSource] | EventSource | None = None,
    ) -> list[Event]:
        """Return what the server holds now, from offset ``since`` on. Never waits for more; starts no thread.

        Raises as any single request.
        """
        start, wanted, senders = check.offset(since), check.kinds(kinds), check.sources(sources)
        with self._starter.visiting():
            events = self._api.list_events(self.id, start, kinds=wanted, cacheable=True)
        return select(events, wanted, senders)

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
        with self._starter.visiting():
            info = self._update(
                check.session_changes(
                    self._opened.info, title=title, mode=mode, customer_id=customer_id, metadata=metadata, labels=wanted
                )
            )
            others = sorted(set(info.labels) - set(wanted or ()))
            if wanted is not None and others:  # another client's, added since this object was last read
                info = self._update({"labels": {"remove": others}})
        for what, since in check.not_kept(info, metadata=metadata, labels=wanted, customer_id=customer_id):
            raise self._starter.unsupported(f"update({what}=)", since)

    def _update(self, body: Mapping[str, Any]) -> SessionInfo:
        info = self._api.update_session(self.id, body) or self._api.read_session(self.id)
        self._opened.learn(info)
        return info

    def refresh(self) -> Session:
        """Read the session's attributes again; returns the session. Raises as any single request."""
        with self._starter.visiting():
            self._opened.learn(self._api.read_session(self.id))
        return self

    def delete_events(self, since: int | Literal["beginning"]) -> None:
        """Delete the session's events on the server, from offset ``since`` on. Raises as any single request.

        Parlant up to 3.2 then uses the offsets again; readers notice at this object's next post.
        """
        start = check.offset(since)
        with self._starter.visiting():
            self._api.delete_events(self.id, start)

    def delete(self) -> None:
        """Delete the session on the server, and close this object. Raises as any single request."""
        with self._starter.visiting():
            opened = self._opened
            opened.delete(opened.client_api)  # not among the requests that the end of the session cuts

    # -- closing

    def close(self, timeout: float | None = None) -> None:
        """End the polling and every call that waits, at once and for all users. Idempotent; from any thread.

        The session stays on the server. Takes milliseconds if the poll is waiting for data, and at most ``timeout``
        seconds (default: ``close_timeout``) if its thread is inside DNS or a handshake; that thread is left to end by
        itself.
        """
        limit = self._settings.close_timeout if timeout is None else seconds("timeout", timeout)
        self._opened.close(Deadline(limit))

    def __enter__(self) -> Session:
        self._opened.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._opened.hub.inherited and self._opened.leave():
            self.close()

    def _deadline(self, timeout: Timeout) -> Deadline:
        if isinstance(timeout, _Default):
            return Deadline(self._settings.turn_timeout)
        return Deadline(seconds("timeout", timeout, none_is_ok=True))
