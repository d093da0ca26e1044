"""What the pollers do, for Prometheus: ``register(client)``. Needs the extra ``prometheus``.

The counters go on counting when sessions are closed, as counters must. (``client.stats()`` sums up the open sessions
alone, and so goes down.) What a session did that was opened and closed between two scrapes is not seen.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from parlant_sync._polling.poll_log import PollCounts
from parlant_sync.client import Client
from parlant_sync.session import Session

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError('parlant_sync.metrics needs prometheus_client: pip install "parlant-sync[prometheus]"') from error

_COUNTERS = {
    "polls": ("parlant_sync_polls", "Long polls begun."),
    "idle_polls": ("parlant_sync_idle_polls", "Long polls that ended without an event."),
    "events": ("parlant_sync_events", "Events received by polls."),
    "bytes": ("parlant_sync_received_bytes", "Bytes of the answers to polls."),
    "reconnects": ("parlant_sync_reconnects", "Times a session's polling went on after failures."),
    "failures": ("parlant_sync_poll_failures", "Polls that failed."),
}
_GAUGES = {
    "parlant_sync_sessions": ("Open sessions by state.", ["client", "state"]),
    "parlant_sync_backlog_events": ("Events waiting for their readers.", ["client"]),
    "parlant_sync_failing_sessions": ("Open sessions whose last poll failed.", ["client"]),
}
_SESSION_GAUGES = {
    "parlant_sync_session_consecutive_failures": "Polls that failed since the last one that did not.",
    "parlant_sync_session_backlog_events": "Events waiting for this session's readers.",
    "parlant_sync_session_next_offset": "The offset that is polled for.",
    "parlant_sync_session_last_poll_timestamp_seconds": "When a poll last succeeded, as Unix time.",
}
_STATES = ("new", "polling", "waiting", "parked", "ended")


def register(
    client: Client, *, registry: CollectorRegistry = REGISTRY, name: str = "default", per_session: bool = False
) -> ClientCollector:
    """Have ``registry`` show this client, under the label ``client="<name>"``.

    ``per_session``: also one series for each open session, by its id. An application that opens a session per visitor
    must not ask for that: the labels have no end. One collector shows all clients of a registry: a second client needs
    a ``name`` of its own, and ``per_session`` as the first one's. Returns the collector. Raises ValueError where a
    living client is shown by that name, or with the other ``per_session``. Thread-safe.
    """
    with _registering:
        collector = _collectors.get(registry)
        known = collector is not None
        if collector is None:
            collector = ClientCollector(per_session=per_session)
        elif collector._per_session != per_session:
            raise ValueError(f"this registry shows its clients with per_session={collector._per_session} already")
        collector.watch(client, name=name)
        try:
            registry.register(collector)  # again, too: it may have been unregistered
        except ValueError:
            if not known:
                raise
        _collectors[registry] = collector
        return collector


# Guards _collectors; the registry's lock is taken inside it. Reentrant, as ClientCollector's.
_registering = threading.RLock()
_collectors: weakref.WeakKeyDictionary[CollectorRegistry, ClientCollector] = weakref.WeakKeyDictionary()


class ClientCollector(Collector):
    """A collector over one or more clients. Refers to them weakly: one that is gone is no longer shown."""

    def __init__(self, *, per_session: bool = False) -> None:
        self._per_session = per_session
        self._pid = os.getpid()
        # Guards _books and what is in them. The client's own lock is taken inside it. Reentrant: a collection in there
        # may run a user's __del__.
        self._lock = threading.RLock()
        self._books: dict[str, _Book] = {}

    def watch(self, client: Client, *, name: str) -> None:
        """Show this client, too. Raises ValueError where a living one has that name."""
        with self._own_lock():
            known = self._books.get(name)
            if known is not None and known.client() not in (None, client):
                raise ValueError(f"another client is shown as {name!r}; give each a name of its own")
            self._books[name] = _Book(client)

    def describe(self) -> Iterable[Metric]:
        """The families without values; the registry looks here for names used twice."""
        return self._families().values()

    def collect(self) -> Iterator[Metric]:
        """A scrape. Asks nobody: all numbers are in memory."""
        families = self._families()
        seen: list[tuple[str, Mapping[str, Session], dict[str, int]]] = []
        with self._own_lock():
            for name, book in list(self._books.items()):
                client = book.client()
                if client is None:
                    del self._books[name]
                    continue
                sessions = client.sessions  # in here: an older picture would make a past session count twice
                totals = book.totals(session._opened.poller.counts for session in sessions.values())
                seen.append((name, sessions, totals))
        for name, sessions, totals in seen:
            for field, total in totals.items():
                families[_COUNTERS[field][0]].add_metric([name], total)
            self._show(families, name, sessions)
        yield from families.values()

    def _show(self, families: Mapping[str, Any], name: str, sessions: Mapping[str, Session]) -> None:
        health = {session_id: session.health for session_id, session in sessions.items()}
        states = [one.state for one in health.values()]
        for state in _STATES:
            families["parlant_sync_sessions"].add_metric([name, state], states.count(state))
        families["parlant_sync_backlog_events"].add_metric([name], sum(one.backlog for one in health.values()))
        failing = sum(one.consecutive_failures > 0 for one in health.values())
        families["parlant_sync_failing_sessions"].add_metric([name], failing)
        if not self._per_session:
            return
        for session_id, one in health.items():
            at = one.last_poll.timestamp() if one.last_poll is not None else None
            values = (one.consecutive_failures, one.backlog, one.next_offset, at)
            for family, value in zip(_SESSION_GAUGES, values, strict=True):
                if value is not None:
                    families[family].add_metric([name, session_id], value)

    def _families(self) -> dict[str, Any]:
        found: list[Any] = [CounterMetricFamily(n, text, labels=["client"]) for n, text in _COUNTERS.values()]
        found += [GaugeMetricFamily(n, text, labels=labels) for n, (text, labels) in _GAUGES.items()]
        if self._per_session:
            labels = ["client", "session_id"]
            found += [GaugeMetricFamily(n, text, labels=labels) for n, text in _SESSION_GAUGES.items()]
        return {family.name: family for family in found}

    def _own_lock(self) -> AbstractContextManager[Any]:
        if self._pid != os.getpid():
            # A forked child: the lock may be held by a thread that is not here, and the counts are the parent's.
            self._pid = os.getpid()
            self._lock = threading.RLock()
            for book in self._books.values():
                book.forget()
        return self._lock


class _Book:
    """The counts of one client's sessions, those of past ones summed up."""

    def __init__(self, client: Client) -> None:
        self.client = weakref.ref(client)
        self._past = dict.fromkeys(_COUNTERS, 0)
        self._known: dict[int, PollCounts] = {}  # by their id, which is theirs for as long as they are held here

    def totals(self, now: Iterable[PollCounts]) -> dict[str, int]:
        open_now = {id(counts): counts for counts in now}
        for key in self._known.keys() - open_now.keys():
            _add(self._past, self._known[key])
        self._known = open_now
        found = dict(self._past)
        for counts in open_now.values():
            _add(found, counts)
        return found

    def forget(self) -> None:
        self._past = dict.fromkeys(_COUNTERS, 0)
        self._known = {}


def _add(totals: dict[str, int], counts: PollCounts) -> None:
    for field in totals:
        totals[field] += getattr(counts, field)
