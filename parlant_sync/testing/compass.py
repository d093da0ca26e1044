"""A turn of Parlant 4.0, whose engine is called Compass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .agents import Interruption
from .store import PREAMBLE, Event
from .turns import Turn


class CompassTurn(Turn):
    """A turn of 4.0: one engine for all agents, fewer status events, and a turn that can be cancelled after a step."""

    def _as_it_comes(self) -> Interruption:
        return "late"

    async def _play(self) -> None:
        plan = self._plan
        await self._hold("start")
        if plan.refusal is not None:
            self._status("ready", {"stage": "completed", "cost_control": plan.refusal})
            return
        self._add("status", {"status": "processing", "message": "Thinking"})
        await self._hold("processing")
        await self._reason(plan.reasoning)
        if plan.preamble is not None:
            await self._hold("preamble")
            self._message(plan.preamble, groups=[PREAMBLE])
            self._end_if_cancelled()
        for tool in plan.tools:
            await self._call_tool(**tool)
            self._end_if_cancelled()
        if plan.hook != "stops":
            await self._answer()

    async def _answer(self) -> None:
        plan = self._plan
        if plan.kind == "silent" or (plan.kind == "failure" and not plan.texts):
            await self._hold("answer")
        else:
            await self._typing()
            if self._streams:
                await self._stream()
            elif plan.hook != "drops":
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
        event = self._add("status", data)
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
