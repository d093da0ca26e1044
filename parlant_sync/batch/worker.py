"""What is done for one message of a row: in a thread of the batch, or in a worker process of an executor."""

from __future__ import annotations

import functools
import os
import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import parlant_sync as ps
from parlant_sync.batch.results import GOOD, TurnResult
from parlant_sync.batch.rows import Row


@dataclass(frozen=True)
class Config:
    """How every process reaches the server: the arguments of its ``Client``. Pickles if they do; shows no secret."""

    base_url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def client(self) -> ps.Client:
        return ps.Client(self.base_url, **self.options)


@dataclass(frozen=True)
class Task:
    """One message of a row. ``event``: it is posted already. ``leave`` closes the session afterwards.

    ``run`` names the batch. ``serial`` makes each task different, so that no executor takes one for a repetition.
    """

    session_id: str
    message: str
    key: str
    metadata: Mapping[str, Any]
    timeout: float
    event: ps.Event | None = None
    leave: bool = True
    run: str = ""
    serial: int = 0


@dataclass(frozen=True)
class Answer:
    """What became of a task. ``status``: one of a result's, or ``closed``. ``turn`` is None if there was none.

    ``seconds`` is how long it took to find out.
    """

    status: str
    turn: TurnResult | None = None
    error: str | None = None
    cause: ps.ParlantSyncError | None = None
    seconds: float = 0.0


def open_session(
    client: ps.Client, row: Row, agent_id: str | None, customer_id: str | None, label: str | None
) -> tuple[str, str, bool]:
    """The ids of the row's session, new or given, which is open then, and of its agent; whether labels are kept."""
    if row.session_id is not None:
        session = client.session(row.session_id)
        return session.id, session.agent_id, True
    assert agent_id is not None
    session = client.create_session(
        agent_id,
        customer_id=customer_id,
        title=f"batch: {row.id}",
        metadata=dict(row.metadata) or None,
        labels=[label] if label is not None else None,
    )
    return session.id, session.agent_id, label in session.labels


def probe(client: ps.Client, agent_id: str) -> None:
    """Ask the server for something small, to see whether it is there."""
    client.agent(agent_id)


def delete(client: ps.Client, session_id: str) -> None:
    """Delete a session that is no longer needed."""
    client.delete_session(session_id)


def locate(client: ps.Client, task: Task, turn: int, own: bool) -> ps.Event | None:
    """The message under the task's key. ``own``: the session was made for its row, so its messages can be counted.

    Raises DeliveryUncertain if a server that drops keys (3.0) holds the same text and it may be of someone else.
    """
    session = client.session(task.session_id)
    leave = True  # also if this fails
    try:
        found = _locate(session, task.key, task.message, turn, own)
        leave = task.leave
        return found
    finally:
        if leave:
            session.close()


def _locate(session: ps.Session, key: str, message: str, turn: int, own: bool) -> ps.Event | None:
    event = session.find(key)
    if event is not None:
        return event
    keyless = [e for e in session.history(kinds="message", sources="customer") if "metadata" not in e.raw]
    if own:
        found = keyless[turn] if turn < len(keyless) else None
        return found if found is not None and found.message == message else None
    if any(e.message == message for e in keyless):
        raise ps.DeliveryUncertain(
            f"session {session.id}: the server keeps no keys, and there is such a message; it may be this row's",
            key=key,
            session_id=session.id,
        )
    return None


def post(client: ps.Client, task: Task) -> ps.Event:
    """Post here what a worker process will wait for; no poller is left running."""
    session = client.session(task.session_id)
    try:
        return session.post(task.message, key=task.key, metadata=task.metadata)
    finally:
        session.close()


def ask(client: ps.Client, task: Task) -> Answer:
    """Post the message, if that is not done, and wait for its reply. Raises nothing: failures are answers."""
    started = time.monotonic()
    session: ps.Session | None = None
    leave = True  # also if this fails: there is no next message then, and nothing else would stop its poller
    try:
        since = task.event.offset + 1 if task.event is not None else None
        session = client.sessions.get(task.session_id) or client.session(task.session_id, since=since)
        if task.event is not None:
            reply = session.reply_to(task.event, timeout=task.timeout)
        else:
            reply = session.send(task.message, key=task.key, metadata=task.metadata, timeout=task.timeout)
        leave = task.leave
        if reply.outcome not in GOOD:
            what = f"the turn ended as {reply.outcome!r}: it was stopped from outside"
            return Answer("failed", _turn(task.message, reply, "failed"), what)
        return Answer(reply.outcome, _turn(task.message, reply, reply.outcome))
    except Exception as error:
        return failure(error, time.monotonic() - started, task.message)
    finally:
        if session is not None and leave:
            session.close()


def _turn(message: str, reply: ps.Reply, outcome: str) -> TurnResult:
    request, last = reply.request, reply.events[-1] if reply.events else None
    duration = reply.duration
    if request is not None and last is not None and request.created is not None and last.created is not None:
        # By the server's clock: right also for a turn that was read later, or posted by another process.
        duration = (last.created - request.created).total_seconds()
    return TurnResult(
        message=message,
        text=reply.text,
        outcome=outcome,
        duration=round(max(0.0, duration), 6),
        tool_calls=tuple(reply.tool_calls),
        matched_guidelines=reply.matched_guidelines,
        matched_journeys=reply.matched_journeys,
        matched_journey_states=reply.matched_journey_states,
        flagged=request is not None and request.flagged,
        moderation_tags=tuple(request.moderation_tags) if request is not None else (),
    )


_STATUSES: dict[type[ps.ParlantSyncError], str] = {
    ps.TurnTimeout: "timed_out",
    ps.DeliveryUncertain: "uncertain",
    ps.SessionClosed: "closed",
}
_HINTS = {
    ps.TurnTimeout: "a longer timeout may help; a retry waits for this turn again, and if it never ends, asking anew "
    "needs a row with a new id",
    ps.DeliveryUncertain: "a retry looks for the message first, and posts it only if it is not there",
}


def failure(error: Exception, seconds: float, message: str = "") -> Answer:
    """What an error means for its row."""
    if not isinstance(error, ps.ParlantSyncError):
        return Answer("failed", None, f"unexpected {type(error).__name__}: {error}", seconds=seconds)
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), "failed")
    partial = getattr(error, "partial", None)
    turn = _turn(message, partial, status) if partial is not None else None
    # The error alone, without what led to it: that may not pickle, and the text says it.
    error.__cause__ = error.__context__ = None
    return Answer(status, turn, _said(error), error.with_traceback(None), seconds)


def _said(error: ps.ParlantSyncError) -> str:
    """Its text; a hint about a method of the session is replaced by what a user of a batch can do."""
    said, _, last = str(error).rpartition("; ")
    if type(error) not in _HINTS or "session." not in last:
        return str(error)
    return f"{said}; {_HINTS[type(error)]}"


# -- in a worker process

# The clients of batches that run in this process, by its id and the run's name: their tasks, in threads of an executor,
# use them. None: the batch has ended, and a task that its executor begins after that has nothing to do. Not to be used
# by a forked child.
_serving: dict[tuple[int, str], ps.Client | None] = {}


@contextmanager
def serving(run: str, client: ps.Client) -> Iterator[None]:
    """Tasks of this run that are carried out in this process use this client."""
    place = (os.getpid(), run)
    _serving[place] = client
    try:
        yield
    finally:
        _serving[place] = None


def remote(config: Config, task: Task) -> Answer:
    """``ask()`` with the one client of this process. A repetition does no harm: the task's message is posted."""
    assert task.event is not None
    place = (os.getpid(), task.run)
    client = _serving[place] if place in _serving else _client_of_process(os.getpid(), pickle.dumps(config))
    return ask(client, task) if client is not None else Answer("closed")


@functools.cache
def _client_of_process(pid: int, config: bytes) -> ps.Client:
    """Kept for as long as the process lives. (Where two threads make one at a time, one of the two is collected.)"""
    made: Config = pickle.loads(config)
    return made.client()
