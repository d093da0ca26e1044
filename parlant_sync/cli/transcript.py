"""A session as a transcript that people read: text for a terminal, Markdown, or one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from parlant_sync import Event, Session, SessionInfo
from parlant_sync.cli import output
from parlant_sync.cli.formats import speaker
from parlant_sync.cli.output import one_line
from parlant_sync.cli.terminal import Paragraphs

FORMATS = ("text", "json", "markdown", "html")


def write(session: Session, events: Sequence[Event], form: str, put: Callable[[str], object] = output.write) -> None:
    """Write the session with these events in this form."""
    if form == "json":
        put(output.to_json({**info_json(session), "events": [event.raw for event in events]}) + "\n")
        return
    facts = {
        "session": session.id,
        "agent": session.agent_id,
        "customer": session.customer_id,
        "created": when(session),
        "title": session.title or "",
        "mode": session.mode,
        "labels": ", ".join(session.labels),
        "metadata": output.to_json(session.metadata) if session.metadata else "",
        "events": str(len(events)),
    }
    facts = {name: one_line(value) for name, value in facts.items() if value}
    said = [event for event in events if event.kind == "message"]
    _WRITERS[form](session, facts, said, put)


def _text(session: Session, facts: dict[str, str], said: list[Event], put: Callable[[str], object]) -> None:
    put("".join(f"{name:<9} {value}\n" for name, value in facts.items()))
    for event in said:
        put(f"\n{_who(session, event)}  {_time(event)}\n".replace("  \n", "\n"))
        paragraphs = Paragraphs(put)
        paragraphs.feed(event.message or "")
        paragraphs.end()


def _markdown(session: Session, facts: dict[str, str], said: list[Event], put: Callable[[str], object]) -> None:
    put(f"# {facts.get('title') or facts['session']}\n\n")
    put("".join(f"- {name}: {value}\n" for name, value in facts.items()))
    for event in said:
        put(markdown(event, session.agent_id))


def markdown(event: Event, agent: str) -> str:
    """A message as Markdown; its text is Markdown already."""
    who = speaker(event, agent) + (" (preamble)" if event.is_preamble else "")
    return f"\n**{one_line(who)}** {_time(event)}\n\n{output.visible(event.message or '')}\n".replace("** \n", "**\n")


def _html(session: Session, facts: dict[str, str], said: list[Event], put: Callable[[str], object]) -> None:
    import html  # its table of entities takes a millisecond of every start

    title = html.escape(facts.get("title") or facts["session"])
    rows = "".join(f"<tr><th>{name}<td>{html.escape(value)}" for name, value in facts.items())
    put(f"{_HEAD}<title>{title}</title>\n<h1>{title}</h1>\n<table>{rows}</table>\n")
    for event in said:
        kind = "customer" if event.source in ("customer", "customer_ui") else "agent"
        who, text = html.escape(_who(session, event)), html.escape(output.visible(event.message or ""))
        put(f'<section class="{kind}"><h2>{who} <time>{_time(event)}</time></h2><p>{text}</p></section>\n')


_HEAD = """<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.3em } h2 { font-size: .9em; margin: 0 } th { text-align: left; padding-right: 1em }
section { margin: 1em 0; padding: .6em 1em; border-radius: .5em; background: #eef3fb }
section.customer { background: #f3f3f3 } p { margin: .3em 0 0; white-space: pre-wrap; overflow-wrap: anywhere }
time { font-weight: normal; color: #666 }
</style>
"""
_WRITERS = {"text": _text, "markdown": _markdown, "html": _html}


def _who(session: Session, event: Event) -> str:
    return one_line(speaker(event, session.agent_id)) + (" (preamble)" if event.is_preamble else "")


def _time(event: Event) -> str:
    return event.created.astimezone().strftime("%Y-%m-%d %H:%M:%S") if event.created is not None else ""


def when(info: SessionInfo | Session) -> str:
    """When the session was created, in local time."""
    return info.created.astimezone().strftime("%Y-%m-%d %H:%M:%S") if info.created is not None else ""


def info_json(info: SessionInfo | Session) -> dict[str, Any]:
    """What a server says about a session, without its events."""
    return {
        "session_id": info.id,
        "agent_id": info.agent_id,
        "customer_id": info.customer_id,
        "title": info.title,
        "mode": info.mode,
        "created": info.created.isoformat() if info.created is not None else None,
        "labels": list(info.labels),
        "metadata": dict(info.metadata),
    }
