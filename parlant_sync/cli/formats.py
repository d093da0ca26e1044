"""Replies and events in the forms that commands print."""

from __future__ import annotations

from typing import Any

from parlant_sync import Event, Reply
from parlant_sync.cli.output import to_json


def reply_json(session_id: str, reply: Reply) -> dict[str, Any]:
    """The object of ``-o json``. ``next_offset``: where ``tail --since`` goes on behind this answer."""
    offsets = [event.offset for event in (*reply.events, *reply.messages)]
    if reply.request is not None:
        offsets.append(reply.request.offset)
    return {
        "session_id": session_id,
        "outcome": reply.outcome,
        "text": reply.text,
        "messages": [event.message or "" for event in reply.messages],
        "preambles": [event.message or "" for event in reply.preambles],
        "tool_calls": list(reply.tool_calls),
        "trace_id": reply.trace_id,
        "next_offset": max(offsets, default=-1) + 1,
        "duration": round(reply.duration, 3),
        "matched_guidelines": list(reply.matched_guidelines),
        "matched_journeys": list(reply.matched_journeys),
        "matched_journey_states": list(reply.matched_journey_states),
        "flagged": reply.request is not None and reply.request.flagged,
        "moderation_tags": list(reply.request.moderation_tags) if reply.request is not None else [],
    }


def speaker(event: Event, agent: str = "agent") -> str:
    """Who an event is from, in a word or a name."""
    if event.source in ("customer", "customer_ui"):
        return "customer"
    name = event.participant.get("display_name")
    if event.source == "ai_agent":
        return name if isinstance(name, str) and name else agent
    if event.source.startswith("human_agent"):
        return f"{name} (human)" if isinstance(name, str) and name else "human agent"
    return str(event.source) or "server"


# What the agent is doing, in words for people.
_DOING = {"acknowledged": "has read it", "processing": "is thinking", "typing": "is writing"}


def doing(status: str | None, who: str) -> str:
    if status == "ready":  # between two steps of its turn
        return f"waiting for {who}"
    return f"{who} {_DOING.get(status or '') or status or 'has not begun'}"


def event_lines(event: Event) -> str:
    """An event for people: its offset, time and source, and what it says; further lines of a text are indented."""
    when = event.created.astimezone().strftime("%Y-%m-%d %H:%M:%S") if event.created is not None else "-"
    head = f"{event.offset:>4}  {when:<19}  {event.source:<11}"
    return f"{head}  " + _content(event).replace("\n", "\n    ")


def _content(event: Event) -> str:
    if event.kind == "message":
        text = event.message or ""
        return f"({text})" if event.is_preamble else text
    if event.kind == "status":
        stage = f" ({event.stage})" if event.stage else ""
        return f"[{event.status}{stage}]" + (f" {event.error_detail[-300:]}" if event.error_detail else "")
    if event.kind == "tool":
        return "; ".join(f"tool {call.get('tool_id')} {_compact(call.get('arguments'))}" for call in event.tool_calls)
    return f"{event.kind} {_compact(event.data)}"


def _compact(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 300 else text[:297] + "..."
