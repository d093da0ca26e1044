"""``parlant-sync tail``."""

from __future__ import annotations

import contextlib
import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from parlant_sync import Client, Event, EventReader, Session
from parlant_sync.cli import forward, output, transcript
from parlant_sync.cli.app import App
from parlant_sync.cli.completion import KINDS, SOURCES
from parlant_sync.cli.errors import usage
from parlant_sync.cli.formats import event_lines
from parlant_sync.cli.lookup import known_agent
from parlant_sync.cli.options import Command, Seconds, option, pass_app, seconds, typed
from parlant_sync.cli.output import when_stdout_closes
from parlant_sync.cli.state import Cursor, Cursors
from parlant_sync.cli.target import STATE_DIR, WAIT_LOCK, Target, existing, found
from parlant_sync.cli.terminal import waiting_for
from parlant_sync.cli.watch import Watcher

# A server that does not answer is given this long, in seconds, even if --timeout is shorter.
_PATIENCE = 10.0
_Put = Callable[[str, Event], None]


@click.command(cls=Command, formats=("text", "json", "markdown"))
@option("--session-id", metavar="ID", help="The session.")
@option("--conversation", metavar="NAME", help="The session that send keeps under NAME.")
@option("--all-sessions", is_flag=True, help="All sessions, also new ones; with --agent-id, --label: of those.")
@option("--agent-id", metavar="ID", help="The agent's id or name.")
@option("--label", "labels", multiple=True, metavar="LABEL", help="With --all-sessions: those with this label.")
@option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Begin with the last N events.")
@option("--since", metavar="WHERE", help="beginning, latest, an offset, a time, or 1h ago.  [beginning]")
@option("--kinds", metavar="KIND,...", multiple=True, help="Only these: message, status, tool, custom.")
@option("--sources", metavar="SOURCE,...", multiple=True, help="Only from these: customer, ai_agent, ...")
@option("--text-only", is_flag=True, help="Print the text of messages and nothing else.")
@option("--no-preambles", is_flag=True, help='Leave out "Let me check...".')
@option("--timeout", type=Seconds(), metavar="TIME", help="End if nothing comes for this long; 0: print and end.")
@option("--cursor-file", metavar="FILE", help="Continue where the last run with FILE stopped.")
@option("--exec", "command", metavar="CMD", help="Run CMD for each event, with its JSON on stdin.")
@option("--forward-to", metavar="URL", help="POST each event as JSON to URL.")
@option("--delivery-timeout", type=Seconds(), default=60, metavar="TIME", help="Time limit of one CMD or POST.  [60]")
@option("--retries", type=click.IntRange(min=0), default=5, metavar="N", help="Tries after the first failed one.  [5]")
@option("--dead-letter", metavar="FILE", help="Write events that were not accepted here, and continue.  [stop]")
@option(
    "--polls", type=click.IntRange(1, 64), default=4, metavar="N", help="With --all-sessions: requests at a time.  [4]"
)
@STATE_DIR
@WAIT_LOCK
@pass_app
def tail(
    app: App,
    /,
    all_sessions: bool,
    labels: tuple[str, ...],
    lines: int | None,
    since: str | None,
    kinds: tuple[str, ...],
    sources: tuple[str, ...],
    text_only: bool,
    no_preambles: bool,
    timeout: float | None,
    cursor_file: str | None,
    command: str | None,
    forward_to: str | None,
    delivery_timeout: float | None,
    retries: int,
    dead_letter: str | None,
    polls: int,
    **options: Any,
) -> None:
    """Print or forward a session's events as they come.

    With --cursor-file, a run continues where the last one stopped (-n and
    --since then count for the first run). The cursor moves only after the
    event was printed, or CMD ended with exit code 0, or URL answered 2xx: after
    a run that was killed, no event is lost, and the last ones may come again.

    \b
      parlant-sync tail --session-id ID --kinds message
      parlant-sync tail --conversation nightly --timeout 0 --cursor-file c.json
      parlant-sync tail --all-sessions --cursor-file all.json --exec ./notify
    """
    if command is not None and forward_to is not None:
        raise usage("give --exec or --forward-to, not both")
    if forward_to is not None and not forward_to.startswith(("http://", "https://")):
        raise usage(f"--forward-to {forward_to!r} must begin with http:// or https://")
    passes_on = command is not None or forward_to is not None
    for name in ("delivery_timeout", "retries", "dead_letter"):
        if typed(name) and not passes_on:
            raise usage(f"--{name.replace('_', '-')} goes with --exec or --forward-to")
    for name, shown_as in (("labels", "--label"), ("polls", "--polls")):
        if typed(name) and not all_sessions:
            raise usage(f"{shown_as} goes with --all-sessions")
    if lines is not None and since is not None and typed("lines") == typed("since"):
        raise usage("give -n or --since, not both")
    start = _Start(lines, _since(since))
    shown = _Shown(_names("--kinds", kinds, KINDS), _names("--sources", sources, SOURCES), not no_preambles, text_only)
    put: _Put = _print_text if text_only else _printer(app, all_sessions)
    if passes_on:
        deliver = (
            forward.to_command(command, delivery_timeout)
            if command is not None
            else forward.to_url(str(forward_to), delivery_timeout)
        )
        put = forward.Forwarder(deliver, retries=retries, dead_letters=Path(dead_letter) if dead_letter else None)
    patience = None if timeout is None else max(timeout, _PATIENCE)
    if all_sessions:
        if typed("session_id") or typed("conversation"):
            raise usage("--all-sessions is not for one session; leave out --session-id and --conversation")
        with app.client(patience=patience) as client:
            selection = {"agent_id": known_agent(app, client, options["agent_id"]), "labels": labels or None}
            _watch(client, selection, start, shown, put, timeout, polls, cursor_file, options["wait_lock"])
        return
    wanted = existing(options)
    with app.client(patience=patience) as client, found(app, client, wanted) as session:
        _follow(app, client, session, wanted, start, shown, put, timeout, cursor_file)


# -- what is printed


@dataclass(frozen=True)
class _Shown:
    """Which events are printed."""

    kinds: frozenset[str] | None
    sources: frozenset[str] | None
    preambles: bool
    text_only: bool

    def wants(self, event: Event) -> bool:
        return (
            (not self.text_only or event.message is not None)
            and (self.kinds is None or event.kind in self.kinds)
            and (self.sources is None or event.source in self.sources)
            and (self.preambles or not event.is_preamble)
        )


def _is_passed_on(put: _Put) -> bool:
    """Whether events go to a command or a URL. Then the cursor is saved after each: a repetition is felt there."""
    return isinstance(put, forward.Forwarder)


def _print_text(_: str, event: Event) -> None:
    output.answer(event.message or "")


def _printer(app: App, with_session: bool) -> _Put:
    def put(session_id: str, event: Event) -> None:
        if app.json:
            output.answer_json({"session_id": session_id, **event.raw} if with_session else event.raw)
        elif app.output == "markdown":
            if event.kind == "message":
                output.write(transcript.markdown(event, "agent"))
        else:
            output.answer((f"{session_id}  " if with_session else "") + event_lines(event))

    return put


# -- where reading begins


@dataclass(frozen=True)
class _Start:
    """``lines``: the last so many events that are shown. ``since``: a word, an offset, or a time."""

    lines: int | None
    since: str | int | datetime

    @property
    def needs_history(self) -> bool:
        return self.lines is not None or isinstance(self.since, datetime)

    def offset(self, events: Sequence[Event], shown: _Shown) -> int:
        """The offset to begin at, for a session with these events."""
        end = events[-1].offset + 1 if events else 0
        if self.lines is not None:
            wanted = [event.offset for event in events if shown.wants(event)]
            return wanted[-self.lines] if 0 < self.lines <= len(wanted) else (0 if self.lines else end)
        if isinstance(self.since, datetime):
            return next((each.offset for each in events if each.created and each.created >= self.since), end)
        return end if self.since == "latest" else int(self.since) if isinstance(self.since, int) else 0


def _since(text: str | None) -> str | int | datetime:
    if text is None or text in ("beginning", "latest"):
        return text or "beginning"
    if text.isascii() and text.isdigit():
        return int(text)
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.fromtimestamp(time.time() - seconds(text), timezone.utc)
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    raise usage(
        f"--since is beginning, latest, an offset such as 12, a time such as 2026-11-30T08:00, or 1h; not {text!r}"
    )


def _names(option: str, given: tuple[str, ...], known: tuple[str, ...]) -> frozenset[str] | None:
    """Raises CommandError for what looks like a typo; other unknown names may be those of a newer server."""
    names = frozenset(name.strip() for text in given for name in text.split(",") if name.strip())
    for name in sorted(names.difference(known)):
        near = difflib.get_close_matches(name.lower(), known, 1)
        if near:
            raise usage(f"{option} {name}: did you mean {near[0]}? Known are {', '.join(known)}")
        output.note(f"{option} {name} is not known here; looking for it all the same. Known are {', '.join(known)}")
    return names or None


# -- one session


def _follow(
    app: App,
    client: Client,
    session: Session,
    wanted: Target,
    start: _Start,
    shown: _Shown,
    put: _Put,
    timeout: float | None,
    cursor_file: str | None,
) -> None:
    with contextlib.ExitStack() as stack:
        cursor, since = None, None
        if cursor_file is not None:
            lock, may_change = wanted.options["wait_lock"], wanted.session_id is None
            cursor = stack.enter_context(Cursor(cursor_file, client.base_url, session.id, lock, may_change=may_change))
            since = cursor.load(session)
            if since is not None and (typed("since") or typed("lines")):
                app.info("--since and -n count for the first run only: this one continues from the cursor file")
        reader = stack.enter_context(_reader(client, session, start, shown, timeout, since))
        if cursor is not None:
            cursor.begin(reader.cursor)
        stack.enter_context(when_stdout_closes(reader.close))
        for event in reader:
            # Filtered here, not by the reader: the cursor passes what is not wanted, too.
            if shown.wants(event):
                put(session.id, event)
            if cursor is not None:
                cursor.passed(event, pausing=_is_passed_on(put) or session.health.next_offset <= event.offset + 1)


def _reader(
    client: Client, session: Session, start: _Start, shown: _Shown, timeout: float | None, since: int | None
) -> EventReader:
    if since is None:
        if start.needs_history:
            with waiting_for(client.base_url, client):
                since = start.offset(session.history(), shown)
        else:
            where = start.since
            assert not isinstance(where, datetime)
            return session.iter_events(timeout=timeout, since=where)  # type: ignore[arg-type]
    return session.iter_events(timeout=timeout, since=since)


# -- all sessions


def _watch(
    client: Client,
    selection: dict[str, Any],
    start: _Start,
    shown: _Shown,
    put: _Put,
    timeout: float | None,
    polls: int,
    cursor_file: str | None,
    wait_lock: float | None,
) -> None:
    first = True

    def begin(session_id: str) -> int:
        """A session that is new since the first look is read from its start."""
        if not first or (start.since == "beginning" and not start.needs_history):
            return 0
        return start.offset(client.history(session_id), shown)

    def pass_on(session_id: str, event: Event) -> None:
        if shown.wants(event):
            put(session_id, event)

    with contextlib.ExitStack() as stack:
        cursors = None
        known: dict[str, int] = {}
        if cursor_file is not None:
            cursors = stack.enter_context(Cursors(cursor_file, client.base_url, wait_lock))
            loaded = cursors.load()
            known, first = loaded or {}, loaded is None

        def listed(ids: set[str]) -> None:
            nonlocal first
            if cursors is not None:
                cursors.keep(ids)
                for session_id in watcher.offsets:
                    cursors.note(session_id, watcher.offsets[session_id])
                cursors.save()
            first = False

        def saved(session_id: str, next_offset: int) -> None:
            if cursors is not None:
                cursors.passed(session_id, next_offset, save=_is_passed_on(put))

        watcher = Watcher(
            client, selection, polls=polls, known=known, start=begin, passed_on=pass_on, saved=saved, listed=listed
        )
        watcher.run(timeout)
