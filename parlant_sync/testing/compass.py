"""A turn of Compass, the second engine of Parlant 4.0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .agents import Interruption
from .store import Event
from .turns import Turn


class CompassTurn(Turn):
    """Fewer status events than other engines send, and a turn that can be cancelled: at once, or after a step."""

    _in_step = False  # the language model is asked for the next step, which is never cut

    def _as_it_comes(self) -> Interruption:
        return "late" if self._in_step else "cancel"

    async def _play(self) -> None:
        plan = self._plan
        await self._hold("start")
        if plan.refusal is not None:
            self._status("ready", {"cost_control": plan.refusal})
            return
        self._thinks("Thinking")
        await self._hold("processing")
        if self._agent.composition_mode in ("strict", "composited"):
            self._error(["ValueError: Unsupported composition mode\n"])
            return
        if plan.hook == "stops":
            return
        self._in_step = True
        await self._reason(plan.reasoning)
        if plan.preamble is not None and plan.tools:  # what it says before it calls a tool has no mark
            await self._hold("preamble")
            self._message(plan.preamble)
        for tool in plan.tools:
            self._thinks("Evaluating tools")
            self._thinks("Running tools")
            await self._call_tool(**tool)
            self._end_if_cancelled()
        await self._answer()

    def _thinks(self, what: str) -> None:
        self._add("status", {"status": "processing", "message": what})

    async def _answer(self) -> None:
        plan = self._plan
        await self._hold("answer")
        if plan.kind != "silent" and (plan.kind != "failure" or plan.texts):
            self._status("typing")  # comes with the first words
            if self._streams:
                await self._stream()
            else:
                await self._send_messages()
        self._end_if_cancelled()
        if plan.kind == "failure" or self._breaks:
            await self._hold("error")
            self._error(self._failure())
            return
        await self._hold("end")
        self._end_if_cancelled()
        self._last_ready(plan.matches)
        if plan.summary is not None:
            await self._step()
            who = {"id": None, "display_name": "System"}
            self._add("message", {"message": plan.summary, "participant": who}, source="system")

    @property
    def _streams(self) -> bool:
        wanted = self._plan.kind == "messages" and self._agent.output_mode == "stream"
        return wanted or self._plan.kind == "stream"

    def _stream_ends(self, event: Event, data: dict[str, Any]) -> None:
        if not self._breaks:
            data["chunks"].append(None)
            event.touch()

    def _tool_called(self, call: dict[str, Any]) -> None:
        origin = {"provider": "fake", "model": "fake"}
        data = {"tool_calls": [{**call, "rationale": "Not provided."}]}
        self._add("tool", data, source="system", metadata={"__provider_data__": origin})

    async def _send_messages(self) -> None:
        for number, text in enumerate(self._texts()):
            if number:
                self._end_if_cancelled()
                self._status("typing")
                await self._hold("then")
            self._message(text)
            self._answered = True

    async def _reason(self, chunks: list[str]) -> None:
        """Thoughts are a status event that grows, as a streamed message does."""
        if not chunks:
            return
        data: dict[str, Any] = {"status": "processing", "message": "", "chunks": []}
        event = self._add("status", data, metadata={"reasoning": True})
        for chunk in [*chunks, None]:
            await self._step()
            data["message"] += chunk or ""
            data["chunks"].append(chunk)
            event.touch()
            self._session.changed()

    def _status(self, status: str, data: dict[str, Any] | None = None) -> Event:
        if status == "cancelled":
            data = {}
        return self._add("status", {"status": status, **({} if data is None else {"data": data})})

    def _last_ready(self, matches: Mapping[str, Sequence[str]] | None = None) -> None:
        found = {name: [{"id": each} for each in ids] for name, ids in (matches or {}).items()}
        self._status("ready", {"stage": "completed", **found})

    def _error_at_the_end(self, lines: list[str]) -> None:
        self._error(lines)

    def _error(self, lines: list[str]) -> None:
        self._status("error")
