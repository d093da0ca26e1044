"""One turn of an agent, played as the real server's event list shows it (the recorded traces are the model)."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from .event import Event
from .scripts import Script
from .stage import Stage
from .store import NotFound, Session

COMPLETED = {"stage": "completed", "matched_guidelines": [], "matched_journeys": [], "matched_journey_states": []}
"""What the last `ready` of a turn carries, from 3.2 on."""


class Turn:
    """One turn of one session as it is played."""

    def __init__(self, stage: Stage, session: Session, script: Script, trace: str) -> None:
        self._stage = stage
        self._session = session
        self._script = script
        self._trace = trace
        self._version = stage.store.version
        self._action: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._started = False
        self._preamble: asyncio.Task[None] | None = None
        self._answered = False
        self._cancel_late = False
        self._silently = False

    # --- its life

    def begin(self) -> asyncio.Task[None] | None:
        """Starts it; it is acknowledged at once, unless something is to wait before that. None: there is nothing."""
        if self._script.kind == "nothing":
            return None
        held = "acknowledge" in self._script.waits
        if not held and self._script.kind != "raw":
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
        how = self._script.interrupted
        if how == "auto":
            how = "cancel" if not self._answered else "stop" if self._version.stops else "finish"
        if how == "late" and not self._answered:
            self._cancel_late = True
        elif how in ("cancel", "stop"):
            self._silently = how == "stop"
            task.cancel()
        await asyncio.wait((task,))

    async def _run(self, acknowledge: bool) -> None:
        self._started = True
        try:
            if acknowledge:
                await self._hold("acknowledge")
                self._status("acknowledged")
            try:
                await self._play()
            except asyncio.CancelledError:
                if self._preamble is not None and (self._silently or not self._script.dribbles):
                    self._preamble.cancel()
                # A turn that a stop of the server cuts gets no last word.
                if not self._silently and not self._stage.stopping:
                    self._status("cancelled")
                    self._ready(last=True)
                raise
            except NotFound:
                raise
            except Exception as error:  # of a text function: seen as the engine's own failures are
                self._ready(last=True)
                self._status("error", {"exception": repr(traceback.format_exception(error))})
        except NotFound:
            pass  # the session was deleted meanwhile

    async def _play(self) -> None:
        script = self._script
        if script.kind == "raw":
            await self._emit_raw()
            return
        if script.kind == "failure" and script.fails_at == "preamble":
            await self._hold("start")
            await self._typing()
            await self._fail()
            return
        # Making the preamble is a task of its own: it outlives a turn that is cancelled, and dribbles in.
        skipped = self._session.last_is_preamble() and not script.preamble_always
        preamble = None if skipped else script.preamble
        self._preamble = self._stage.spawn(self._play_preamble(preamble))
        await asyncio.shield(self._preamble)
        for call in script.tools:
            await self._step()
            self._add("tool", {"tool_calls": [call]}, source="system")
        if self._cancel_late:
            self._status("processing", {"stage": "Thinking"})
            raise asyncio.CancelledError
        if script.fails_at == "match":
            await self._fail()
            return
        await self._say()
        # From 3.1 on, failing at the answer is an empty turn, and not a word of what went wrong.
        unspoken = script.fails_at == "answer" and not self._version.prefix_traces
        if (script.kind == "failure" and not unspoken) or script.breaks_after is not None:
            if script.texts:
                self._status("typing")  # it fails over the message that was to follow
            await self._fail()
            return
        await self._hold("end")
        self._ready(last=True)
        self._session.agent_states.append(self._trace)

    async def utter(self, action: str) -> None:
        """The turn that a POST with guidelines starts: no acknowledgement, no preamble."""
        try:
            self._action = action
            await self._say()
            self._ready(last=True)
            if self._script.kind == "failure" and self._version.prefix_traces:
                self._error()
        except NotFound:
            pass

    # --- its parts

    async def _play_preamble(self, text: str | None) -> None:
        try:
            await self._hold("start")
            if text is not None:
                self._status("typing")
                await self._hold("preamble")
                self._message(text, tags=["__preamble__"])
                self._ready()
                await self._step()
                self._status("processing", {"stage": "Interpreting"})
            elif self._version.stages:
                self._status("processing", {"stage": "Interpreting"})
        except NotFound:
            pass

    async def _say(self) -> None:
        script = self._script
        if script.kind == "stream" and self._version.stages:
            await self._typing()
            await self._stream()
            return
        broken = script.kind == "stream" and script.breaks_after is not None
        if script.kind == "silent" or broken or (script.kind == "failure" and not script.texts):
            # An agent that finds no words tries three times.
            once = script.kind != "failure" and self._version.prefix_traces and self._action is None
            for _ in range(1 if once or broken else 3):
                await self._step()
                self._status("typing")
            await self._hold("answer")
            return
        await self._typing()
        # Made only now: a turn that goes on although a newer message came answers that one, too.
        for number, text in enumerate(self._texts()):
            if number:
                self._status("typing")
                await self._hold("then")
            self._message(text)
            self._answered = True
            self._ready()

    def _texts(self) -> list[str]:
        if self._script.kind == "stream":
            return ["".join(self._script.chunks)]
        message = self._action if self._action is not None else self._session.last_message("customer")
        return self._script.answer("(greeting)" if message is None else message)

    async def _stream(self) -> None:
        script = self._script
        data: dict[str, Any] = {"message": "", "participant": self._participant(), "chunks": []}
        event: Event | None = None
        for number, chunk in enumerate(script.chunks):
            if number:
                await self._hold("chunk")
            if number == script.breaks_after:
                break
            data["message"] += chunk
            data["chunks"].append(chunk)
            if event is None:
                event = self._add("message", data)
            else:
                event.touch()
                self._session.changed()
        if event is not None:
            data["chunks"].append(None)
            event.touch()
            self._answered = True
            self._session.changed()
        if script.breaks_after is None:
            self._ready()

    async def _fail(self) -> None:
        await self._hold("end")
        self._ready(last=True)
        await self._hold("error")
        self._error()

    def _error(self) -> None:
        text = self._script.exception or "stream broke"
        trace = ["Traceback (most recent call last):\n", f"RuntimeError: {text}\n"]
        self._status("error", {"exception": repr(trace)})

    async def _emit_raw(self) -> None:
        for event in self._script.raw:
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
        pace = self._script.pace
        await asyncio.sleep(self._stage.pace if pace is None else pace)
        await self._stage.gates.not_paused()

    async def _hold(self, point: str) -> None:
        await self._step()
        for what in self._script.waits.get(point, ()):
            if isinstance(what, str):
                await self._stage.gates.wait(what)
            else:
                await asyncio.sleep(what)

    def _add(
        self, kind: str, data: Any, *, source: str = "ai_agent", trace: str | None = None, metadata: Any = None
    ) -> Event:
        return self._session.add(kind, source, data, trace or self._trace, metadata)

    def _status(self, status: str, data: dict[str, Any] | None = None) -> None:
        self._add("status", {"status": status, "data": data or {}})

    def _ready(self, last: bool = False) -> None:
        self._status("ready", dict(COMPLETED) if last and self._version.stages else {})

    def _participant(self) -> dict[str, Any]:
        agent = self._stage.store.agents[self._session.agent_id]
        return {"id": agent.id, "display_name": agent.name}

    def _message(self, text: str, tags: list[str] | None = None) -> None:
        data: dict[str, Any] = {"message": text, "participant": self._participant()}
        if tags:
            data["tags"] = tags
        self._add("message", data)
