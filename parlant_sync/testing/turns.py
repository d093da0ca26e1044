"""One turn of an agent, played as the real server's event list shows it.

The recorded traces are the model (tests/traces), and the sources of 3.0.4 to 3.3.2.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from .agents import AgentScript, Interruption, Plan, words
from .gates import Gates
from .store import PREAMBLE, Event, NotFound, Session, Store


class Stage:
    """What turns run on: the store they write to, their tasks, and the time between their events."""

    def __init__(self, store: Store, gates: Gates, pace: float) -> None:
        self.store = store
        self.gates = gates
        self.pace = pace
        self.stopping = False
        self.running: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a turn, or a part of one, in the background."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.running.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen: nobody waits for a turn that could not even fail properly
        self.store.changed()

    async def step(self, plan: Plan) -> None:
        """Lets the time between two events pass, and waits while the turns are paused."""
        await asyncio.sleep(self.pace if plan.pace is None else plan.pace)
        await self.gates.not_paused()

    async def wait_at(self, point: str, plan: Plan) -> None:
        """Waits for what the plan names at this point of the turn: seconds and gates."""
        await self.step(plan)
        for what in plan.waits.get(point, ()):
            if isinstance(what, str):
                await self.gates.wait(what)
            else:
                await asyncio.sleep(what)


class Turn:
    """One turn of one session as it is played."""

    def __init__(self, stage: Stage, session: Session, agent: AgentScript, plan: Plan, trace: str) -> None:
        self._stage = stage
        self._session = session
        self._agent = agent
        self._plan = plan
        self._trace = trace
        self._version = stage.store.version
        self._fluid = agent.composition_mode == "fluid"
        self._strict = agent.composition_mode == "strict"
        self._action: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._preamble: asyncio.Task[None] | None = None
        self._answered = False
        self._silently = False
        self.cancel_late = False
        self.cancelled: Event | None = None

    # --- its life

    def begin(self) -> asyncio.Task[None] | None:
        """Starts it. It is acknowledged at once, unless something is to wait before that. None: nothing happens."""
        if self._plan.kind == "nothing":
            return None
        held = "acknowledge" in self._plan.waits
        if not held and self._plan.kind != "raw":
            self._status("acknowledged")
        self._task = self._stage.spawn(self._run(held))
        return self._task

    async def interrupt(self) -> None:
        """A newer message came: cancels it or lets it finish; returns when it is over."""
        task = self._task
        if task is None or task.done():
            return
        # A task that is cancelled before its first step would never say `cancelled`.
        while not self._started and not task.done():
            await asyncio.sleep(0)
        self.stop(self._as_it_comes() if self._plan.interrupted == "auto" else self._plan.interrupted)
        await asyncio.wait((task,))

    def stop(self, how: Interruption | None = None) -> None:
        """Cancels it: by default, as a request to cancel it does."""
        how = how or self._as_it_comes()
        if how == "late":
            self.cancel_late = True
        elif how in ("cancel", "stop") and self._task is not None:
            self._silently = how == "stop"
            self._task.cancel()

    def _as_it_comes(self) -> Interruption:
        if not self._answered:
            return "cancel"
        return "stop" if self._version.stops else "finish"

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._task is not None and self._task.done()

    async def _run(self, acknowledge: bool) -> None:
        self._started = True
        try:
            if acknowledge:
                await self._hold("acknowledge")
                self._status("acknowledged")
            try:
                await self._perform()
            except asyncio.CancelledError:
                if self._preamble is not None and (self._silently or not self._plan.dribbles):
                    self._preamble.cancel()
                # A turn that a stop of the server cuts gets no last word.
                if not self._silently and not self._stage.stopping:
                    self.cancelled = self._status("cancelled")
                    self._last_ready()
                raise
            except NotFound:
                raise
            except Exception as error:  # of a text function: shown as the engine's own failures are
                self._error_at_the_end(traceback.format_exception(error))
        except NotFound:
            pass  # the session was deleted meanwhile

    async def _perform(self) -> None:
        plan = self._plan
        if plan.kind == "raw":
            await self._emit_raw()
            return
        if plan.hook_message is not None:
            await self._step()
            self._message(plan.hook_message)
        if plan.hook != "answers":
            await self._play()

    async def _play(self) -> None:
        plan = self._plan
        if plan.refusal is not None:
            raise RuntimeError("refuses() is cost control, which only Compass has, an engine of Parlant 4.0")
        if plan.fails_at == "preamble" and self._makes_preamble:
            await self._hold("start")
            await self._typing()
            await self._fail()
            return
        # Making the preamble is a task of its own: if the turn is cancelled, it goes on, and its events still come.
        self._preamble = self._stage.spawn(self._play_preamble(self._preamble_text()))
        await asyncio.shield(self._preamble)
        for tool in plan.tools:
            await self._step()
            self._status("processing", {"stage": self._version.tool_stage})
            await self._call_tool(**tool)
            if self._version.stages:
                self._status("processing", {"stage": "Interpreting"})
        if self.cancel_late:
            self._status("processing", {"stage": "Thinking"})
            self._end_if_cancelled()
        if plan.fails_at == "match":
            await self._fail()
        elif plan.hook != "stops":
            await self._answer()

    def _end_if_cancelled(self) -> None:
        if self.cancel_late:
            raise asyncio.CancelledError

    async def _answer(self) -> None:
        plan = self._plan
        await self._say()
        if (plan.kind == "failure" and not self._fails_without_error) or self._breaks:
            if plan.texts:
                self._status("typing")  # it fails over the message that was to follow
            await self._fail()
            return
        await self._hold("end")
        self._last_ready(plan.matches)
        self._session.agent_states.append(self._trace)

    async def utter(self, action: str) -> None:
        """The turn that a POST with guidelines starts: no acknowledgement, no preamble."""
        try:
            self._action = action
            await self._say()
            self._last_ready({"matched_guidelines": ["<canrep-request-1>"]})
            if self._plan.kind == "failure" and (self._version.prefix_traces or self._fluid):
                self._error(self._failure())
        except NotFound:
            pass

    # --- its parts

    @property
    def _makes_preamble(self) -> bool:
        """Whether a failing engine already fails over the preamble: strict and fluid agents make none up."""
        return self._plan.preamble is not None or self._agent.composition_mode in ("canned_fluid", "composited")

    @property
    def _fails_without_error(self) -> bool:
        """From 3.1 on, an agent that fails at its answer ends the turn empty, and no `error` says why."""
        at_answer = self._plan.fails_at == "answer" or (self._plan.fails_at == "preamble" and not self._makes_preamble)
        return at_answer and not self._fluid and not self._version.prefix_traces

    @property
    def _breaks(self) -> bool:
        return self._plan.kind == "stream" and self._plan.breaks_after is not None

    def _preamble_text(self) -> str | None:
        skipped = self._session.last_is_preamble() and not self._plan.preamble_always
        return None if skipped else self._plan.preamble

    async def _play_preamble(self, text: str | None) -> None:
        try:
            await self._hold("start")
            if text is not None:
                self._status("typing")
                await self._hold("preamble")
                self._message(text, **{self._version.tags: [PREAMBLE]})
            if text is not None or self._agent.wants_preamble:
                self._status("ready")
                await self._hold("processing")
                self._status("processing", {"stage": "Interpreting"})
            elif self._version.stages:
                self._status("processing", {"stage": "Interpreting"})
        except NotFound:
            pass

    async def _call_tool(self, call: dict[str, Any], emits: list[dict[str, Any]]) -> None:
        for each in emits:
            await self._step()
            if "status" in each:
                self._add("status", {"status": each["status"], "data": each.get("data")})
            elif "message" in each:
                self._message(each["message"])
            else:
                self._add("custom", each["custom"])
        await self._step()
        extras: dict[str, Any] = {"canned_responses": [], "canned_response_fields": {}}
        if self._version.tool_guidelines:
            extras["rules" if self._version.compass else "guidelines"] = []
        self._tool_called({**call, "result": {**call["result"], **extras}})

    def _tool_called(self, call: dict[str, Any]) -> None:
        self._add("tool", {"tool_calls": [call]})
        self._session.mode = call["result"]["control"].get("mode", self._session.mode)

    async def _say(self) -> None:
        plan = self._plan
        if plan.kind == "silent" or (plan.kind == "failure" and not plan.texts) or (self._breaks and not self._streams):
            await self._find_no_words()
            return
        await self._begin_answer()
        if plan.hook == "drops":
            self._status("ready")
        elif self._streams:
            await self._stream()
        else:
            await self._send_messages()

    @property
    def _streams(self) -> bool:
        wanted = self._plan.kind == "stream" or (self._plan.kind == "messages" and self._agent.output_mode == "stream")
        return wanted and self._version.stages and self._agent.composition_mode == "canned_fluid"

    async def _find_no_words(self) -> None:
        # An agent that finds no words tries three times; a fluid one, and 3.0 after an answer that is empty, once.
        once = self._plan.kind != "failure" and self._version.prefix_traces and self._action is None
        for _ in range(1 if once or self._fluid or self._breaks else 3):
            await self._step()
            if self._strict:
                self._status("processing", {"stage": "Articulating"})
            else:
                self._status("typing")
        await self._hold("answer")

    async def _begin_answer(self) -> None:
        if self._strict:
            await self._step()
            self._status("processing", {"stage": "Articulating"})
        await self._typing()

    async def _send_messages(self) -> None:
        # Made only now: a turn that goes on although a newer message came answers that one, too.
        for number, text in enumerate(self._texts()):
            if number:
                self._status("typing")
                await self._hold("then")
            canned: dict[str, Any] = (
                {"draft": text, "canned_responses": [["<transient>", text]]} if self._strict else {}
            )
            self._message(text, **canned)
            self._answered = True
            if not self._fluid:
                self._status("ready")

    def _texts(self) -> list[str]:
        if self._plan.kind == "stream":
            return ["".join(self._plan.chunks)]
        message = self._action if self._action is not None else self._session.last_message("customer")
        return self._plan.answer("(greeting)" if message is None else message)

    async def _stream(self) -> None:
        chunks = self._plan.chunks if self._plan.kind == "stream" else words("\n\n".join(self._texts()))
        data: dict[str, Any] = {"message": "", "participant": self._participant(), "chunks": []}
        event: Event | None = None
        for number, chunk in enumerate(chunks):
            if number:
                await self._hold("chunk")
            if number == self._plan.breaks_after:
                break
            data["message"] += chunk
            data["chunks"].append(chunk)
            if event is None:
                event = self._add("message", data)
            else:
                event.touch()
                self._session.changed()
        if event is not None:
            self._answered = True
            self._stream_ends(event, data)
            self._session.changed()

    def _stream_ends(self, event: Event, data: dict[str, Any]) -> None:
        data["chunks"].append(None)
        event.touch()
        if not self._breaks:
            self._status("ready")

    async def _fail(self) -> None:
        await self._hold("end")
        self._last_ready()
        await self._hold("error")
        self._error(self._failure())

    def _error_at_the_end(self, lines: list[str]) -> None:
        self._last_ready()
        self._error(lines)

    def _error(self, lines: list[str]) -> None:
        self._status("error", {"exception": repr(lines)})

    def _failure(self) -> list[str]:
        text = self._plan.exception or "stream broke"
        return ["Traceback (most recent call last):\n", f"RuntimeError: {text}\n"]

    async def _emit_raw(self) -> None:
        for event in self._plan.raw:
            await self._step()
            self._add(
                event.get("kind", "status"),
                event.get("data", {}),
                source=event.get("source", "ai_agent"),
                trace=event.get("trace"),
                metadata=event.get("metadata"),
            )

    # --- the smallest steps

    async def _typing(self) -> None:
        await self._step()
        self._status("typing")
        await self._hold("answer")

    async def _step(self) -> None:
        await self._stage.step(self._plan)

    async def _hold(self, point: str) -> None:
        await self._stage.wait_at(point, self._plan)

    def _add(
        self, kind: str, data: Any, *, source: str = "ai_agent", trace: str | None = None, metadata: Any = None
    ) -> Event:
        return self._session.add(kind, source, data, trace or self._trace, metadata)

    def _status(self, status: str, data: dict[str, Any] | None = None) -> Event:
        return self._add("status", {"status": status, "data": data or {}})

    def _last_ready(self, matches: Mapping[str, Sequence[str]] | None = None) -> None:
        if not self._version.stages:
            self._status("ready")
            return
        names = ("matched_guidelines", "matched_journeys", "matched_journey_states")
        found = {name: [{"id": each} for each in (matches or {}).get(name, ())] for name in names}
        self._status("ready", {"stage": "completed", **found})

    def _participant(self) -> dict[str, Any]:
        return {"id": self._agent.id, "display_name": self._agent.name}

    def _message(self, text: str, **more: Any) -> None:
        self._add("message", {"message": text, "participant": self._participant(), **more})
