"""What an agent does with each message: turns, written down in a line each, and the agent that goes through them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, TypeVar, get_args

from .given import check_json, check_seconds, check_text, one_of

Text = str | Callable[[str], str]
"""A text, or a function that makes it from the customer's message."""

CompositionMode = Literal["fluid", "canned_fluid", "strict", "composited"]
"""How an agent finds its words. It decides which status events a turn has (WIRE.md, "One turn")."""

EngineName = Literal["alpha", "compass"]
"""What runs the agent's turns: "compass" exists from Parlant 4.0 on."""

API_MODES: dict[str, CompositionMode] = {
    "fluid": "fluid",
    "canned_fluid": "canned_fluid",
    "strict_canned": "strict",
    "composited_canned": "composited",
}
"""The API's names of the composition modes."""

Point = Literal["acknowledge", "start", "preamble", "processing", "answer", "chunk", "then", "end", "error"]
"""Where in a turn something may wait: before it is acknowledged; right after; before the preamble; before (with
Compass: after) ``processing``; before the answer (``typing`` has been sent, but not by Compass); before each further
piece of a streamed text; before each further message; before the last ``ready``; between that and the ``error``."""

Interruption = Literal["auto", "cancel", "finish", "late", "stop"]
"""What a newer customer message does to a turn (WIRE.md has all of them):

- ``cancel``: ``cancelled`` and ``ready`` after the new message, then the new turn. A preamble that is being made still
  comes.
- ``finish``: the turn goes on to its end. The new message is stored and listed at once, but its POST, and those of all
  other sessions, wait for that.
- ``late``: cancelled only when the answer should be written; the POST waits for that (seen on 3.0 and 3.1)
- ``stop``: it just stops, without a word (seen on 3.0)
- ``auto``: ``cancel`` until a message of the turn is out; then ``finish``, on 3.0 ``stop``
"""

DEFAULT_PREAMBLE = "Hmm..."


@dataclass
class Plan:
    """What happens in one turn. Made by the methods of ``AgentScript``."""

    kind: Literal["messages", "stream", "silent", "failure", "nothing", "raw"] = "messages"
    texts: list[Text] = field(default_factory=list)
    chunks: list[str] = field(default_factory=list)
    breaks_after: int | None = None
    exception: str | None = None
    fails_at: str | None = None
    preamble: str | None = None
    preamble_always: bool = False
    hook_message: str | None = None
    hook: Literal["answers", "stops", "drops"] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    matches: dict[str, list[str]] = field(default_factory=dict)
    refusal: dict[str, Any] | None = None
    reasoning: list[str] = field(default_factory=list)
    summary: str | None = None
    raw: list[dict[str, Any]] = field(default_factory=list)
    waits: dict[str, list[float | str]] = field(default_factory=dict)
    """Per point: seconds to let pass, or the names of gates to wait at."""
    pace: float | None = None
    interrupted: Interruption = "auto"
    dribbles: bool = True

    def answer(self, message: str) -> list[str]:
        """The texts of the answer to that message."""
        return [t if isinstance(t, str) else check_text(t(message), "what the function gave") for t in self.texts]


S = TypeVar("S", bound="Script")


class Script:
    """What is said, turn by turn. All methods give the script back, so that they chain.

    Each of the methods that say what happens adds a turn. Turns are used up in that order, and the last one is repeated
    for ever. The other methods shape the turn that was added last; if none was added yet, they shape all turns to come.
    Every session goes through the turns from the first one on, however many sessions there are.
    """

    def __init__(self) -> None:
        self.shared = False
        self.forget()

    # --- turns

    def replies(self: S, *texts: Text, then: Text | Iterable[Text] = ()) -> S:
        """Answers with a message - or with several: more texts, or those of `then`."""
        more = [then] if isinstance(then, str) or callable(then) else list(then)
        if not texts:
            raise ValueError("replies() needs a text; for a turn without one there is stays_silent()")
        for each in (*texts, *more):
            _check(each, "a reply")
        return self._add(Plan(texts=[*texts, *more]))

    def echoes(self: S, prefix: str = "echo: ") -> S:
        """Answers with the customer's message."""
        check_text(prefix, "the prefix")
        return self._add(Plan(texts=[lambda message: prefix + message]))

    def stays_silent(self: S) -> S:
        """A turn without a message."""
        return self._add(Plan("silent"))

    # --- which messages

    def when(self: S, condition: str | re.Pattern[str] | Callable[[str], object]) -> S:
        """A script of its own for messages that contain this text, that match this pattern, or for which this is true.

        Upper and lower case are the same in a text. The first condition that holds decides. A message for which none
        holds gets the next turn of this script. What was set for all turns to come holds there, too.
        """
        rule = copy.copy(self)
        rule._turns, rule._rules, rule._used = [], [], {}
        rule._default = copy.copy(self._default)
        self._rules.append((_condition(condition), rule))
        return rule

    # --- how the last turn (or all to come) goes

    def after(self: S, seconds: float, at: Point = "answer") -> S:
        """Lets so many seconds pass before it answers, or at another point of the turn."""
        return self._wait(at, check_seconds(seconds, "the time"))

    def waits(self: S, gate: str, at: Point = "answer") -> S:
        """Waits at a gate until ``server.release(gate)``, before it answers or at another point of the turn."""
        return self._wait(at, gate)

    def paced(self: S, seconds: float) -> S:
        """The time between any two events of the turn, instead of the server's `pace`."""
        self._last.pace = check_seconds(seconds, "the pace")
        return self

    def forget(self: S) -> S:
        """Drops all turns and conditions, for all sessions."""
        self._turns: list[Plan] = []
        self._rules: list[tuple[Callable[[str], object], Script]] = []
        self._used: dict[str, int] = {}  # how many turns each session has had
        self._default = Plan(texts=[_echo])
        return self

    # --- for the engine

    def next(self, session_id: str, message: str | None) -> Plan:
        """The plan of a session's next turn. `message` is what it answers; None: nobody has said anything yet."""
        for holds, rule in self._rules:
            if message is not None and holds(message):
                return rule.next(session_id, message)
        if not self._turns:
            return self._default
        key = "" if self.shared else session_id
        number = min(self._used.get(key, 0), len(self._turns) - 1)
        self._used[key] = number + 1
        return self._turns[number]

    @property
    def _last(self) -> Plan:
        return self._turns[-1] if self._turns else self._default

    def _wait(self: S, at: str, what: float | str) -> S:
        one_of(at, get_args(Point), "at")
        waits = self._last.waits
        self._last.waits = {**waits, at: [*waits.get(at, []), what]}
        return self

    def _add(self: S, plan: Plan) -> S:
        default = self._default
        for name in ("preamble", "preamble_always", "tools", "matches", "pace", "interrupted", "dribbles"):
            setattr(plan, name, getattr(default, name))
        for name in ("hook_message", "reasoning", "summary"):
            setattr(plan, name, getattr(plan, name) or getattr(default, name))
        plan.waits = {**default.waits, **plan.waits}
        self._turns.append(plan)
        return self


class HumanScript(Script):
    """A human agent, who answers customers in manual mode. One who has no turns echoes, as agents do."""

    def __init__(self, name: str, on_behalf: bool) -> None:
        super().__init__()
        self.name = name
        self.on_behalf = on_behalf

    def __repr__(self) -> str:
        return f"<human {self.name!r} with {len(self._turns)} scripted turns>"


class AgentScript(Script):
    """An agent of the stand-in: what it says, turn by turn.

    ::

        agent = server.agent("support").replies("Hello").replies("Anything else?")
        agent.when("refund").fails("no such order")

    An agent without turns echoes: ``echo: <message>``. See ``Script`` for the order of turns.
    """

    def __init__(
        self,
        id: str,
        name: str,
        description: str | None = None,
        *,
        composition_mode: CompositionMode = "canned_fluid",
        wants_preamble: bool | None = None,
        output_mode: Literal["block", "stream"] = "block",
        engine: EngineName = "alpha",
    ) -> None:
        one_of(engine, get_args(EngineName), "engine")
        one_of(composition_mode, get_args(CompositionMode), "composition_mode")
        self.id = id
        self.name = name
        self.description = description
        self.composition_mode = composition_mode
        self.output_mode = output_mode
        self.engine = engine
        self.max_engine_iterations = 3
        self._wants_preamble = wants_preamble
        super().__init__()

    def __repr__(self) -> str:
        return f"<agent {self.id!r} with {len(self._turns)} scripted turns>"

    # --- turns

    def streams(
        self, text: str | Iterable[str], *, every: float | None = None, breaks_after: int | None = None
    ) -> AgentScript:
        """Writes one message piece by piece: a list of pieces, or a text that is cut into words.

        `every`: seconds between two pieces. `breaks_after`: the engine fails after so many pieces. Servers before 3.2
        cannot stream, and only ``canned_fluid`` agents can: elsewhere the text comes whole.
        """
        chunks = words(text) if isinstance(text, str) else list(text)
        for chunk in chunks:
            check_text(chunk, "a piece")
        if breaks_after is not None and breaks_after < 0:
            raise ValueError(f"breaks_after is a number of pieces, not {breaks_after!r}")
        plan = Plan("stream", chunks=chunks, breaks_after=breaks_after)
        if every is not None:
            plan.waits["chunk"] = [check_seconds(every, "every")]
        return self._add(plan)

    def fails(
        self,
        exception: str = "boom",
        *,
        at: Literal["preamble", "match", "answer"] = "preamble",
        saying: Text | None = None,
    ) -> AgentScript:
        """The engine fails: ``ready``, then ``error`` with the exception's text.

        `at`: where it fails. An agent that makes no preamble fails at the answer instead. At the ``answer``, from 3.1
        on, it is an empty turn without an ``error``, except for ``fluid`` agents. `saying`: it fails after this
        message.
        """
        check_text(exception, "the exception")
        one_of(at, ("preamble", "match", "answer"), "at")
        if saying is not None:
            _check(saying, "saying")
        texts = [] if saying is None else [saying]
        return self._add(Plan("failure", texts=texts, exception=exception, fails_at=at if saying is None else None))

    def ignores(self) -> AgentScript:
        """Nothing comes at all, not even ``acknowledged``: as for a customer unknown to the server."""
        return self._add(Plan("nothing"))

    def emits(self, *events: Mapping[str, Any]) -> AgentScript:
        """Just these events, on the turn's trace: ``{"kind": "status", "data": {...}}``; `source` is ``ai_agent``."""
        for event in events:
            check_json(dict(event), "an event")
        return self._add(Plan("raw", raw=[dict(event) for event in events]))

    def hook_answers(self, text: str) -> AgentScript:
        """A hook of the server says this and stops the engine: ``acknowledged``, the message, then nothing, ever."""
        return self._add(Plan(hook="answers", hook_message=check_text(text, "the hook's message")))

    def hook_stops(self) -> AgentScript:
        """A hook stops the engine before it answers: ``processing``, then nothing, ever."""
        return self._add(Plan(hook="stops"))

    def hook_drops(self) -> AgentScript:
        """A hook drops the message: the turn ends as usual, but empty. Fluid agents and Compass do not let it."""
        if self.composition_mode == "fluid":
            raise ValueError("a fluid agent asks no hook before it sends its message, so none can drop it")
        return self._add(Plan(hook="drops", texts=[lambda message: f"echo: {message}"]))

    def refuses(
        self, retry_after: float = 60.0, *, scope: str = "agent", reason: str = "the budget is used up"
    ) -> AgentScript:
        """Cost control refuses the turn (4.0): another try is worth it after so many seconds."""
        at = datetime.now(timezone.utc) + timedelta(seconds=check_seconds(retry_after, "retry_after"))
        refusal = {"circuit_breaker": "open", "scope": scope, "reason": reason, "retry_after_utc": at.isoformat()}
        check_json(refusal, "the refusal")
        return self._add(Plan(refusal=refusal))

    # --- how the last turn (or all to come) goes

    def with_reasoning(self, text: str | Iterable[str]) -> AgentScript:
        """Thinks aloud before it answers (4.0): a status event that grows."""
        self._last.reasoning = words(text) if isinstance(text, str) else list(text)
        check_json(self._last.reasoning, "the reasoning")
        return self

    def with_summary(self, text: str) -> AgentScript:
        """After the turn, a message of source ``system`` sums up the session (4.0)."""
        self._last.summary = check_text(text, "the summary")
        return self

    def with_preamble(self, text: str = DEFAULT_PREAMBLE, *, always: bool = False) -> AgentScript:
        """Says this first, as a preamble. If the agent's last message was one, it says it only with `always`."""
        if self.composition_mode == "fluid":
            raise ValueError("a fluid agent says no preamble; it only sends the `ready` of one")
        self._last.preamble = check_text(text, "the preamble")
        self._last.preamble_always = always
        return self

    def with_hook_message(self, text: str) -> AgentScript:
        """A hook says this right after ``acknowledged``; then the turn goes on as usual."""
        self._last.hook_message = check_text(text, "the hook's message")
        return self

    def with_tool(
        self,
        tool_id: str,
        arguments: Mapping[str, Any] | None = None,
        result: Any = None,
        *,
        emits: Sequence[Mapping[str, Any]] = (),
        control: Mapping[str, Any] | None = None,
    ) -> AgentScript:
        """Calls a tool before it answers: a ``tool`` event.

        `emits`: what the tool sends before it ends: ``{"status": "ready", "data": {...}}``, ``{"message": "..."}`` or
        ``{"custom": {...}}``. `control`: with ``{"mode": "manual"}``, the session is handed over to a human.
        """
        call = {
            "tool_id": tool_id,
            "arguments": dict(arguments or {}),
            "result": {"data": result, "metadata": {}, "control": dict(control or {})},
        }
        check_json([call, [dict(each) for each in emits]], "the call")
        for each in emits:
            if len({"status", "message", "custom"} & set(each)) != 1:
                raise ValueError(f'a tool emits a "status", a "message" or a "custom" event, not {dict(each)!r}')
        self._last.tools = [*self._last.tools, {"call": call, "emits": [dict(each) for each in emits]}]
        return self

    def with_matches(
        self, *, guidelines: Sequence[str] = (), journeys: Sequence[str] = (), journey_states: Sequence[str] = ()
    ) -> AgentScript:
        """The ids that the turn's last ``ready`` names, from 3.2 on."""
        matches = {"guidelines": guidelines, "journeys": journeys, "journey_states": journey_states}
        self._last.matches = {f"matched_{what}": list(ids) for what, ids in matches.items()}
        check_json(self._last.matches, "the matches")
        return self

    def when_interrupted(self, how: Interruption, *, dribbles: bool = True) -> AgentScript:
        """What a newer customer message does to the turn; `dribbles`: a preamble that is being made still comes.

        ``cancel``, ``finish``, ``late``, ``stop``, or ``auto``. With ``finish`` and ``late`` the POST of the newer
        message (and any other of the server, as in Parlant) is answered when the old turn is over. So if that waits at
        a gate, post from a thread, and release the gate meanwhile.
        """
        one_of(how, get_args(Interruption), "how")
        self._last.interrupted = how
        self._last.dribbles = dribbles
        return self

    def forget(self) -> AgentScript:
        """Drops all turns and conditions: the agent echoes again."""
        super().forget()
        if self._wants_preamble and self.composition_mode in ("canned_fluid", "composited"):
            self._default.preamble = DEFAULT_PREAMBLE
        return self

    # --- for the engine

    @property
    def wants_preamble(self) -> bool:
        """Whether this agent's policy asks for a preamble even if there is no text for one: a bare ``ready``."""
        if self._wants_preamble is None:
            return self.composition_mode in ("fluid", "strict")
        return self._wants_preamble


def words(text: str) -> list[str]:
    """A text cut into words, each with the blanks after it."""
    return re.findall(r"\S+\s*|\s+", text)


def _condition(given: str | re.Pattern[str] | Callable[[str], object]) -> Callable[[str], object]:
    if isinstance(given, str):
        text = check_text(given, "the condition").casefold()
        return lambda message: text in message.casefold()
    if isinstance(given, re.Pattern):
        return given.search
    if not callable(given):
        raise TypeError(f"a condition is a text, a pattern or a function, not {type(given).__name__}")
    return given


def _echo(message: str) -> str:
    return f"echo: {message}"


def _check(text: Text, what: str) -> None:
    if not callable(text):
        check_text(text, what)
