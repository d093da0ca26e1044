"""The way in: one server, its agents, its sessions."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Literal

import requests

from parlant_sync import _process, errors
from parlant_sync import _validation as check
from parlant_sync._api.rest import RestApi
from parlant_sync._deadline import Deadline, seconds
from parlant_sync._http.codec import segment
from parlant_sync._http.transport import Transport
from parlant_sync._open_session import OpenSession
from parlant_sync._registry import Registry
from parlant_sync._settings import Settings, Verify
from parlant_sync.events import (
    Agent,
    ClientStats,
    Event,
    EventKind,
    EventSource,
    ServerAbilities,
    ServerInfo,
    SessionInfo,
    Since,
    select,
)
from parlant_sync.session import Session

logger = logging.getLogger(__name__)


class Client:
    """A Parlant server. Safe to use from any thread, to make at import time, and to use after a ``fork``.

    ``base_url``: else ``$PARLANT_SERVER``, else ``http://localhost:8800``. ``token``: a string, or a callable asked
    before every request; else ``$PARLANT_TOKEN``. ``auth``: a ``requests`` auth object instead. ``session_factory``:
    returns a new ``requests.Session`` each time it is called, for adapters, authorities or proxies of your own; used as
    it is, and closed with the client (one that is returned again is shared, and yours to close). Its adapters' own
    retries do not count here; an adapter that is no ``HTTPAdapter`` must not repeat a POST. Durations are seconds:
    ``poll_wait`` (one long poll, rounded up to whole seconds), ``connect_timeout``, ``request_timeout`` (any other
    request), ``turn_timeout`` (the default of all calls that wait for a turn; None waits without limit),
    ``close_timeout``, ``idle_timeout`` (a session unused for so long stops polling until its next use; None never).
    ``backlog_limit``: events that may wait for one reader before it reads them again from the server instead.

    Raises ConfigurationError for what cannot work. Nothing is sent before the first call.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        token: str | Callable[[], str] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: Any = None,
        verify: Verify = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str] | None = None,
        poll_wait: float = 60,
        connect_timeout: float = 5,
        request_timeout: float = 30,
        turn_timeout: float | None = 300,
        close_timeout: float = 5,
        idle_timeout: float | None = 900,
        backlog_limit: int = 10_000,
        session_factory: Callable[[], requests.Session] | None = None,
    ) -> None:
        self._settings = Settings(
            base_url,
            token=token,
            headers=headers,
            auth=auth,
            verify=verify,
            cert=cert,
            proxies=proxies,
            poll_wait=poll_wait,
            connect_timeout=connect_timeout,
            request_timeout=request_timeout,
            turn_timeout=turn_timeout,
            close_timeout=close_timeout,
            idle_timeout=idle_timeout,
            backlog_limit=backlog_limit,
            session_factory=session_factory,
        )
        self._transport = Transport(self._settings)
        self._api = RestApi(self._transport)
        self._registry = Registry(self.base_url)
        _process.watch(self)

    def __repr__(self) -> str:
        registry = getattr(self, "_registry", None)
        if registry is None:
            return "<Client whose arguments were rejected>"
        return f"<Client of {self.base_url}, {len(registry.all())} open sessions>"

    def __reduce__(self) -> Any:
        raise TypeError("a Client belongs to its process and cannot be pickled; make one in each worker")

    @property
    def base_url(self) -> str:
        return self._settings.base_url

    @property
    def guest_token(self) -> str | None:
        """The token that a 4.0 server gave this anonymous client; None in all other cases.

        Only it gives access to the sessions of this client. Keep it, and pass it as ``token=`` to the next client.
        """
        guest = self._transport.guest
        return None if guest is None else guest.value

    @property
    def sessions(self) -> Mapping[str, Session]:
        """The open sessions by id: a read-only snapshot."""
        return MappingProxyType({opened.id: self._handle(opened) for opened in self._registry.all()})

    def _handle(self, opened: OpenSession) -> Session:
        return opened.session(functools.partial(Session, opened, self))

    def create_session(
        self,
        agent_id: str,
        *,
        customer_id: str | None = None,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        labels: Iterable[str] | None = None,
        allow_greeting: bool = False,
    ) -> Session:
        """Create a session with an agent on the server, and start its poller.

        Raises NotFoundError for an unknown agent (an unknown customer is taken, and never answered: WIRE.md),
        TransportError, ApiError. Not repeated where the server may have taken it.
        """
        self._registry.check_open()
        body: dict[str, Any] = {"agent_id": agent_id}
        segment(agent_id, "an agent id")
        optional = {"customer_id": customer_id, "title": title}
        body.update({name: value for name, value in optional.items() if value is not None})
        check.mapping("metadata", metadata)
        if metadata is not None:
            body["metadata"] = dict(metadata)
        wanted = check.labels(labels)
        if wanted is not None:
            body["labels"] = wanted
        info = self._create(body, allow_greeting)
        for what, since in check.not_kept(info, metadata=metadata, labels=wanted):
            if self._api.first_time(f"sessions drop {what}"):  # the next sessions are no different
                logger.warning(
                    "session %s on %s: this server does not keep %s of sessions; Parlant does from %s on",
                    info.id,
                    self.base_url,
                    what,
                    since,
                )
        return self._handle(self._registry.add(self._opened(info, 0, 0)))

    def _create(self, body: dict[str, Any], allow_greeting: bool) -> SessionInfo:
        guest = self._transport.guest
        while True:
            used = self.guest_token
            try:
                info, token = self._api.create_session(body, allow_greeting=allow_greeting)
            except errors.AuthenticationError:
                if guest is None or used is None:
                    raise
                guest.forget(used)  # it has expired, or the server has been restarted: become another guest
            except errors.NotFoundError as error:
                raise _unknown_customer(error, body, self.base_url) from None
            else:
                # If another thread has become a guest meanwhile, this session is another guest's: create a new one.
                if guest is None or token is None or guest.keep(token):
                    return info

    def session(self, session_id: str, *, since: Since | None = None) -> Session:
        """Attach to an existing session, with one request. Its thread starts with the first turn or reader.

        For one id, all threads of this client get the same open object. ``since``: where its default reader begins:
        ``"latest"`` (what comes after the first turn, post or ``iter_events()`` of this object began), ``"beginning"``
        or an offset. The default is ``"latest"``; if a session with this id was parked and forgotten, it is the place
        where its default reader stopped. Raises ConcurrencyError if an explicit ``since`` differs from that of the open
        object, NotFoundError for an unknown id, TransportError, ApiError.
        """
        segment(session_id, "a session id")
        wanted: Since = "latest" if since in (None, "latest") else check.offset(since)

        def make() -> OpenSession:
            info = self._api.read_session(session_id)
            start = None if wanted == "latest" else int(wanted)
            if since is None:
                start = self._registry.left_off(session_id)
            return self._opened(info, start, wanted)

        opened = self._registry.get_or_open(session_id, make, 3 * self._settings.request_timeout)
        if since is not None and opened.since != wanted:
            raise errors.ConcurrencyError(
                f"session {session_id} on {self.base_url} is open already, from {opened.since!r}; "
                f"leave out since=, or read from {since!r} with iter_events(since=...)"
            )
        return self._handle(opened)

    def _opened(self, info: SessionInfo, start: int | None, since: Since) -> OpenSession:
        return OpenSession(
            info, api=self._api, settings=self._settings, start=start, since=since, registry=self._registry
        )

    def history(
        self,
        session_id: str,
        since: int | Literal["beginning"] = 0,
        *,
        kinds: Iterable[EventKind] | EventKind | None = None,
        sources: Iterable[EventSource] | EventSource | None = None,
    ) -> list[Event]:
        """Return what the server holds of a session from offset ``since`` on, in one request.

        Attaches to no session and starts no thread. Raises NotFoundError, TransportError, ApiError, ProtocolError.
        """
        self._registry.check_open()
        start, wanted, senders = check.offset(since), check.kinds(kinds), check.sources(sources)
        return select(self._api.list_events(session_id, start, kinds=wanted, cacheable=True), wanted, senders)

    def agents(self) -> list[Agent]:
        """The agents of the server. A production server refuses this with PermissionDeniedError."""
        self._registry.check_open()
        return self._api.list_agents()

    def agent(self, agent_id: str) -> Agent:
        """One agent. Raises NotFoundError."""
        self._registry.check_open()
        return self._api.read_agent(agent_id)

    def list_sessions(
        self, *, agent_id: str | None = None, customer_id: str | None = None, labels: Iterable[str] | None = None
    ) -> Iterator[SessionInfo]:
        """The sessions on the server that match, read page by page where the server pages (from 3.1).

        ``labels``: those that have all of them. Raises, while it is iterated, TransportError, ApiError, ProtocolError.
        """
        self._registry.check_open()
        params: dict[str, Any] = {"agent_id": agent_id, "customer_id": customer_id}
        wanted = frozenset(check.labels(labels) or ())
        found = self._api.list_sessions({name: value for name, value in params.items() if value is not None})
        # Filtered here: the server filters after it has cut the page, and so ends early.
        return (info for info in found if not wanted or self._has_labels(info, wanted))

    def _has_labels(self, info: SessionInfo, wanted: frozenset[str]) -> bool:
        server = ServerAbilities.of(info.raw)
        if not server.labels:
            raise errors.UnsupportedByServer(
                f"{self.base_url}: list_sessions(labels=) needs Parlant 3.2 or newer; this server is {server.version}"
            )
        return wanted <= set(info.labels)

    def delete_session(self, session_id: str) -> None:
        """Delete a session on the server, and close it here. Raises NotFoundError."""
        self._registry.check_open()
        opened = self._registry.find(session_id)
        if opened is not None:
            opened.delete(self._api)
        else:
            self._api.delete_session(session_id)

    def server_info(self) -> ServerInfo:
        """Version, health and latency (seconds) of the server. Raises TransportError where nothing answers.

        ``healthy`` is False while it calls itself degraded, as 3.3 does for a while after its start though it works.
        """
        self._registry.check_open()
        return self._api.server_info()

    def stats(self) -> ClientStats:
        """Sums over the open sessions, and for how long a 429 still holds requests back."""
        sessions = self._registry.all()
        counts = [opened.poller.counts for opened in sessions]
        return ClientStats(
            sessions=len(counts),
            polls=sum(c.polls for c in counts),
            idle_polls=sum(c.idle_polls for c in counts),
            events=sum(c.events for c in counts),
            bytes=sum(c.bytes for c in counts),
            reconnects=sum(c.reconnects for c in counts),
            failures=sum(c.failures for c in counts),
            backlog=sum(opened.hub.backlog for opened in sessions),
            limited_for=self._api.limited_for(),
        )

    def close(self, timeout: float | None = None) -> None:
        """End every session of this client: wakes all pollers first, then joins all under one deadline. Idempotent.

        ``timeout`` seconds at most (default: ``close_timeout``); milliseconds where the polls wait for data.
        """
        limit = self._settings.close_timeout if timeout is None else seconds("timeout", timeout)
        self._api.stop(errors.SessionClosed(f"the client of {self.base_url} was closed; make a new one"))
        self._registry.close(Deadline(limit))
        self._transport.close()

    def __enter__(self) -> Client:
        self._registry.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end_at_exit(self, timeout: float) -> None:
        """For the exit hook: end the pollers. Waiting daemon threads are not notified: Python will freeze them."""
        self._registry.stop_pollers(Deadline(timeout))

    def _drop_inherited(self) -> None:
        """For the fork hook, in the child: empty and usable, without disturbing the parent."""
        self._registry.drop_inherited()
        self._transport.drop_inherited()


def _unknown_customer(error: errors.NotFoundError, body: Mapping[str, Any], server: str) -> errors.NotFoundError:
    """Parlant 4.0 says "Item '...' not found" for a customer as well as for an agent."""
    customer = body.get("customer_id")
    if customer is None or customer == body["agent_id"] or f"'{customer}'" not in error.detail:
        return error
    return errors.NotFoundError(
        f"POST {server}/sessions: {error.status} the server does not know customer {customer!r}; create the customer "
        "first, or leave out customer_id= for a guest",
        status=error.status,
        method=error.method,
        path=error.path,
        detail=error.detail,
    )
