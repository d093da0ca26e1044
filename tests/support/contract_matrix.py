"""Every kind of agent and everything that may happen in its turn: the cells of the matrix, on either server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from parlant_sync import AgentError, Client, Event, Reply, Session, TurnTimeout

from .contract_servers import BOOM, Server
from .contract_steps import is_writing, list_of, stored, wait_for
from .waiting import Background

# How each agent is made, its policy (Parlant's own, which wants preambles, or no preamble and no delays), its output.
KINDS = tuple(
    map(
        "-".join, itertools.product(("rest", "sdk", "strict", "composited"), ("natural", "prompt"), ("block", "stream"))
    )
)
CALLS = ("send", "stream")
# Seconds from the turn's last event to the caller, on a busy machine: a look at the store, a look for a late error.
PROMPTLY = 3.0


@dataclass(frozen=True)
class Behaviour:
    """What happens in a turn. ``{}`` in ``text`` is the answer that the agent gives by itself."""

    directive: str  # for the real server
    script: Callable[[Any], Any]  # for the stand-in's agent
    text: str = "{}"  # of the reply
    outcome: str = "answered"
    quiet: float = 0.0  # seconds without an event that prove the end, if no event does
    quiet_unstaged: float = 0.0  # the same, on servers before 3.2 only


BEHAVIOURS = {
    "answers": Behaviour("", lambda agent: agent),
    "silent": Behaviour("[silent]", lambda agent: agent.stays_silent(), text="", outcome="empty", quiet_unstaged=3),
    "fails": Behaviour(
        "[fail=hook]", lambda agent: agent.fails(BOOM, at="match"), text="", outcome="error", quiet_unstaged=3
    ),
    "tool-ready": Behaviour("[tool=ready]", lambda agent: agent.with_tool("t", emits=[{"status": "ready"}])),
    "tool-error": Behaviour("[tool=error]", lambda agent: agent.with_tool("t", emits=[{"status": "error"}])),
    "tool-message": Behaviour(
        "[tool=message]",
        lambda agent: agent.with_tool("t", emits=[{"message": "the tool speaks"}]),
        text="the tool speaks\n\n{}",
    ),
    "hook-answers": Behaviour(
        "[hook=answers]", lambda agent: agent.hook_answers("the hook answers"), text="the hook answers", quiet=10
    ),
    "hook-greets": Behaviour(
        "[hook=greets]", lambda agent: agent.with_hook_message("the hook greets"), text="the hook greets\n\n{}"
    ),
    "hook-drops": Behaviour(
        "[hook=drops]", lambda agent: agent.hook_drops(), text="", outcome="empty", quiet_unstaged=3
    ),
}
HANDS_OVER = Behaviour("[tool=manual]", lambda agent: agent.with_tool("t", control={"mode": "manual"}))
INTERRUPTIONS = {"interrupted-early": "match", "interrupted-late": "answer"}  # the gate where the turn waits
CELLS = (*BEHAVIOURS, *INTERRUPTIONS, "second-turn")


def applies(server: Server, kind: str, cell: str) -> bool:
    """The engine does not ask a hook before it sends a message of a fluid agent, or one that is streamed.

    On 4.0, only agents that the SDK makes have turns that can go well (docs/compatibility.md).
    """
    if server.compass:
        return kind.startswith("sdk") and cell != "hook-drops"
    streams = kind.startswith("sdk") and kind.endswith("stream") and server.streams
    return cell != "hook-drops" or not (kind.startswith("rest") or streams)


def is_answer(event: Event) -> bool:
    return event.kind == "message" and event.source == "ai_agent" and not event.is_preamble


class Run:
    """One cell: a session of an agent of that kind, and what it was like."""

    def __init__(self, server: Server, make_client: Callable[..., Client], kind: str, cell: str, call: str) -> None:
        self._server = server
        self._kind = kind
        self._cell = cell
        self._call = call
        self._client = make_client(server)
        self._make_client = make_client

    def check(self) -> None:
        if self._cell in INTERRUPTIONS:
            self._interrupted(INTERRUPTIONS[self._cell])
        elif self._cell == "second-turn":
            session = self._open({"one": {}, "two": {}})
            first, second = (self._take(session, text) for text in ("one", "two"))
            assert (first.text, second.text) == ("echo: one", "echo: two"), list_of(session.history())
            assert first.trace_id != second.trace_id
        else:
            self._behaves(BEHAVIOURS[self._cell])

    def _behaves(self, expected: Behaviour) -> None:
        session = self._open({"hello": {"behaviour": expected}, "again": {}})
        began = time.monotonic()
        try:
            reply, outcome = self._take(session, "hello", expected.directive), ""
        except AgentError as error:
            reply, outcome = error.partial, "error" if BOOM in error.detail or self._server.compass else error.detail
        elapsed = time.monotonic() - began
        history = list_of(session.history())
        assert (outcome or reply.outcome) == expected.outcome, history
        assert reply.text == expected.text.format("echo: hello"), history
        quiet = expected.quiet or (0.0 if self._server.streams else expected.quiet_unstaged)
        assert elapsed - reply.duration < quiet + PROMPTLY, f"{elapsed:.1f} s for {reply.duration:.1f} s: {history}"
        assert self._take(session, "again").text == "echo: again", list_of(session.history())

    def _interrupted(self, gate_at: str) -> None:
        """Another client posts meanwhile. Which turn answers depends on the server; the replies must fit its events."""
        gate = self._server.gate()
        session = self._open({"first": {"gate": (gate, gate_at)}, "second": {}})
        other = self._make_client(self._server).session(session.id)
        first = Background(self._take, session, "first", f"[{'gatematch' if gate_at == 'match' else 'gate'}={gate}]")
        if gate_at == "match":
            wait_for(other, lambda event: event.status == "acknowledged")
        else:
            preamble = self._kind.startswith(("sdk-natural", "composited-natural")) and self._server.splits
            since = wait_for(other, lambda event: event.is_preamble).offset if preamble else 0
            wait_for(other, lambda event: is_writing(event) or event.stage == "Articulating", since=since)
        posting = Background(other.post, "second")  # before 3.2, its POST may wait for the first turn
        stored(other, "second")
        self._server.release(gate)
        second, reply = other.reply_to(posting.result()), first.result()
        history = session.history()
        turns = list(dict.fromkeys(event.trace_id for event in history if event.status == "acknowledged"))
        cancelled = {event.trace_id for event in history if event.status == "cancelled"}
        said = {turn: [e.message for e in history if e.trace_id == turn and is_answer(e)] for turn in turns}
        # An older turn that goes on may see the newer message, and answer that (seen up to 3.1).
        assert ["echo: second"] in said.values(), list_of(history)
        for found, may_be in ((second, turns[-1:]), (reply, [turn for turn in turns if turn not in cancelled])):
            assert found.trace_id in may_be, list_of(history)
            assert found.text == "\n\n".join(map(str, said[found.trace_id])), list_of(history)

    def _open(self, messages: dict[str, dict[str, Any]]) -> Session:
        return self._client.create_session(self._server.matrix_agent(self._kind, messages))

    def _take(self, session: Session, text: str, directive: str = "") -> Reply:
        message = f"{directive} {text}" if directive and self._server.kind == "real" else text
        try:
            if self._call == "send":
                return session.send(message)
            with session.stream(message) as turn:
                pieces = "".join(turn.text)
                reply = turn.reply()
        except TurnTimeout as error:
            raise AssertionError(f"{error}: {list_of(session.history())}") from error
        assert turn.restarts or pieces == reply.text
        return reply
