"""What an agent does with each message: turns, written down in a line each, and the agent that goes through them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from . import given

Text = str | Callable[[str], str]
"""A text, or a function that makes it from the customer's message."""

Point = Literal["acknowledge", "start", "preamble", "answer", "chunk", "then", "end", "error"]
"""Where in a turn something may wait: before it is acknowledged; right after; before the preamble; before the answer
(``typing`` has been sent); before each further piece of a streamed text; before each further message; before the last
``ready``; between that and the ``error``."""

Interruption = Literal["auto", "cancel", "finish", "late", "stop"]
"""What a newer customer message does to a turn (WIRE.md has all of them):

- ``cancel``: ``cancelled`` and ``ready`` after the new message, then the new turn; a preamble being made dribbles in
- ``finish``: the turn goes on to its end, the new message's POST waits for that - and those of all other sessions
  (measured on 3.3, too; the message is stored and listed at once)
- ``late``: cancelled only when the answer should be written; the POST waits for that (seen on 3.0 and 3.1)
- ``stop``: it just stops, without a word (seen on 3.0)
- ``auto``: ``cancel`` until a message of the turn is out; then ``finish``, on 3.0 ``stop``
"""


@dataclass
class Script:
    """One turn. Made by the methods of :class:`AgentScript`."""

    kind: Literal["messages", "stream", "silent", "failure", "nothing", "raw"] = "messages"
    texts: list[Text] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    breaks_after: int | None = None
    exception: str | None = None
    fails_at: str | None = None
    preamble: str | None = None
    preamble_always: bool = False
    tools: list[dict[str, Any]] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    waits: dict[str, list[float | str]] = field(default_factory=dict)
    """Per point: seconds to let pass, or the names of gates to wait at."""
    pace: float | None = None
    interrupted: Interruption = "auto"
    dribbles: bool = True

    def answer(self, message: str) -> list[str]:
        """The texts of the answer to that message."""
        return [
            text if isinstance(text, str) else given.text(text(message), "what the function gave")
            for text in self.texts
        ]


class AgentScript:
    """An agent of the stand-in: what it says, turn by turn. All methods give the agent back, so that they chain.

    Each of :meth:`replies`, :meth:`streams`, :meth:`fails`, :meth:`stays_silent`, :meth:`ignores`, :meth:`emits` and
    :meth:`echoes` adds a turn; turns are used up in that order, the last one is repeated for ever. An agent without any
    echoes: ``echo: <message>``. The other methods shape the turn that was added last - or, called before any was added,
    all turns to come. Scripts are meant to be written before the messages they answer are sent.
    """

    def __init__(self, id: str, name: str, description: str | None) -> None:
        self.id = id
        self.name = name
        self.description = description
        self._default = Script(texts=[_echo])
        self._turns: list[Script] = []

    def __repr__(self) -> str:
        return f"<agent {self.id!r} with {len(self._turns)} scripted turns>"

    # --- turns

    def replies(self, *texts: Text, then: Text | Iterable[Text] = ()) -> AgentScript:
        """Answers with a message - or with several: more texts, or those of `then`."""
        more = [then] if isinstance(then, str) or callable(then) else list(then)
        if not texts:
            raise ValueError("replies() needs a text; for a turn without one there is stays_silent()")
        for each in (*texts, *more):
            _check(each, "a reply")
        return self._add(Script(texts=[*texts, *more]))

    def echoes(self, prefix: str = "echo: ") -> AgentScript:
        """Answers with the customer's message."""
        given.text(prefix, "the prefix")
        return self._add(Script(texts=[lambda message: prefix + message]))

    def streams(
        self, text: str | Iterable[str], *, every: float | None = None, breaks_after: int | None = None
    ) -> AgentScript:
        """Writes one message piece by piece: a list of pieces, or a text that is cut into words.

        `every`: seconds between two pieces. `breaks_after`: the engine fails after so many pieces. Servers before 3.2
        cannot stream: there the text comes whole.
        """
        chunks = re.findall(r"\S+\s*|\s+", text) if isinstance(text, str) else list(text)
        for chunk in chunks:
            given.text(chunk, "a piece")
        if breaks_after is not None and breaks_after < 0:
            raise ValueError(f"breaks_after is a number of pieces, not {breaks_after!r}")
        script = Script("stream", chunks=chunks, breaks_after=breaks_after)
        if every is not None:
            script.waits["chunk"] = [given.seconds(every, "every")]
        return self._add(script)

    def fails(
        self,
        exception: str = "boom",
        *,
        at: Literal["preamble", "match", "answer"] = "preamble",
        saying: Text | None = None,
    ) -> AgentScript:
        """The engine fails: ``ready``, then ``error`` with the exception's text.

        `at`: where it fails; at the ``answer``, from 3.1 on, it is an empty turn without an ``error``. `saying`: it
        fails after this message.
        """
        given.text(exception, "the exception")
        given.one_of(at, ("preamble", "match", "answer"), "at")
        if saying is not None:
            _check(saying, "saying")
        texts = [] if saying is None else [saying]
        return self._add(Script("failure", texts=texts, exception=exception, fails_at=at if saying is None else None))

    def stays_silent(self) -> AgentScript:
        """A turn that ends without a message."""
        return self._add(Script("silent"))

    def ignores(self) -> AgentScript:
        """Nothing comes at all, not even ``acknowledged``: as for a customer unknown to the server."""
        return self._add(Script("nothing"))

    def emits(self, *events: Mapping[str, Any]) -> AgentScript:
        """Just these events, on the turn's trace: ``{"kind": "status", "data": {...}}``; `source` is ``ai_agent``."""
        for event in events:
            given.sendable(dict(event), "an event")
        return self._add(Script("raw", raw=[dict(event) for event in events]))

    # --- how the last turn (or all to come) goes

    def with_preamble(self, text: str = "Hmm...", *, always: bool = False) -> AgentScript:
        """Says this first, as a preamble; where the agent's last message was one, only with `always`."""
        self._last.preamble = given.text(text, "the preamble")
        self._last.preamble_always = always
        return self

    def with_tool(self, tool_id: str, arguments: Mapping[str, Any] | None = None, result: Any = None) -> AgentScript:
        """Calls a tool before it answers: a ``tool`` event."""
        extras: dict[str, Any] = {"metadata": {}, "control": {}, "canned_responses": [], "canned_response_fields": {}}
        call = {"tool_id": tool_id, "arguments": dict(arguments or {}), "result": {"data": result, **extras}}
        given.sendable(call, "the call")
        self._last.tools = [*self._last.tools, call]
        return self

    def after(self, seconds: float, at: Point = "answer") -> AgentScript:
        """Lets so many seconds pass before it answers, or at another point of the turn."""
        return self._wait(at, given.seconds(seconds, "the time"))

    def waits(self, gate: str, at: Point = "answer") -> AgentScript:
        """Waits at a gate until ``server.release(gate)``, before it answers or at another point of the turn."""
        return self._wait(at, gate)

    def paced(self, seconds: float) -> AgentScript:
        """The time between any two events of the turn, instead of the server's `pace`."""
        self._last.pace = given.seconds(seconds, "the pace")
        return self

    def when_interrupted(self, how: Interruption, *, dribbles: bool = True) -> AgentScript:
        """What a newer customer message does to the turn; `dribbles`: a preamble being made comes in after all.

        ``cancel``, ``finish``, ``late``, ``stop``, or ``auto``: as it comes. With ``finish`` and ``late`` the POST of
        the newer message (and any other of the server, as in Parlant) is answered when the old turn is over. So where
        that waits at a gate, post from a thread, and release the gate meanwhile.
        """
        given.one_of(how, get_args(Interruption), "how")
        self._last.interrupted = how
        self._last.dribbles = dribbles
        return self

    def forget(self) -> AgentScript:
        """Drops all turns not yet used: the agent echoes again."""
        self._turns.clear()
        self._default = Script(texts=[_echo])
        return self

    # --- for the engine

    def next(self) -> Script:
        """The next turn's script; the last one stays."""
        if not self._turns:
            return self._default
        return self._turns.pop(0) if len(self._turns) > 1 else self._turns[0]

    @property
    def _last(self) -> Script:
        return self._turns[-1] if self._turns else self._default

    def _wait(self, at: str, what: float | str) -> AgentScript:
        given.one_of(at, get_args(Point), "at")
        waits = self._last.waits
        self._last.waits = {**waits, at: [*waits.get(at, []), what]}
        return self

    def _add(self, script: Script) -> AgentScript:
        default = self._default
        script.preamble, script.preamble_always = default.preamble, default.preamble_always
        script.tools = default.tools
        script.pace = default.pace
        script.interrupted, script.dribbles = default.interrupted, default.dribbles
        script.waits = {**default.waits, **script.waits}
        self._turns.append(script)
        return self


def _check(given_text: Text, what: str) -> None:
    if not callable(given_text):
        given.text(given_text, what)


def _echo(message: str) -> str:
    return f"echo: {message}"
