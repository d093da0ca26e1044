"""``parlant-sync tail``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from parlant_sync import Client, Event, Session
from parlant_sync.cli import output
from parlant_sync.cli.errors import usage
from parlant_sync.cli.formats import event_lines
from parlant_sync.cli.options import App, Command, Seconds, option, pass_app, typed
from parlant_sync.cli.output import when_stdout_closes
from parlant_sync.cli.target import STATE_DIR, WAIT_LOCK, Target, kept, missing, target
from parlant_sync.cli.terminal import waiting_for
from parlant_sync.events import Since

if TYPE_CHECKING:
    from parlant_sync.cli.state import Cursor

# A server that does not answer is given so long, in seconds, also where nothing is to be waited for.
_PATIENCE = 10.0
_KINDS = ("message", "status", "tool", "custom")
_SOURCES = ("customer", "customer_ui", "ai_agent", "human_agent", "human_agent_on_behalf_of_ai_agent", "system")


@click.command(cls=Command)
@option("--session-id", metavar="ID", help="The session.")
@option("--conversation", metavar="NAME", help="The session that send keeps under NAME.")
@option("--agent-id", metavar="ID", help="The agent of that conversation, if several are.")
@option("--since", metavar="WHERE", help="beginning, latest or an offset.  [beginning]")
@option("--kinds", metavar="KIND,...", multiple=True, help="Only these: message, status, tool, custom.")
@option("--sources", metavar="SOURCE,...", multiple=True, help="Only from these: customer, ai_agent, ...")
@option("--no-preambles", is_flag=True, help='Leave out "let me see...".')
@option("--timeout", type=Seconds(), metavar="SECONDS", help="End when nothing came for so long; 0: print and end.")
@option("--cursor-file", metavar="FILE", help="Go on where the last run with FILE stopped.")
@STATE_DIR
@WAIT_LOCK
@pass_app
def tail(
    app: App,
    /,
    since: str | None,
    kinds: tuple[str, ...],
    sources: tuple[str, ...],
    no_preambles: bool,
    timeout: float | None,
    cursor_file: str | None,
    **options: Any,
) -> None:
    """Print a session's events as they come.

    With --cursor-file a run goes on where the last one stopped. The file moves
    on only after the output was written: a run that is killed repeats an event
    rather than losing one. --since then counts for the first run.

    \b
      parlant-sync tail --session-id ID --kinds message
      parlant-sync tail --conversation nightly --timeout 0 --cursor-file c.json
    """
    wanted = target(options)
    if wanted.session_id is None and wanted.conversation is None:
        raise usage("say which session with --session-id or --conversation; parlant-sync sessions list lists them")
    start = _since(since)
    shown = _Shown(_names("--kinds", kinds, _KINDS), _names("--sources", sources, _SOURCES), not no_preambles)
    with app.client(patience=None if timeout is None else max(timeout, _PATIENCE)) as client:
        session_id = _kept(client, wanted) if wanted.session_id is None else wanted.session_id
        renew = f"{app.again('send', '--conversation', wanted.conversation or '', '--renew')} begins a new one"
        with missing(app, client, session_id, wanted.conversation, renew):
            if cursor_file is None:
                _follow(app, _attach(client, session_id, start), shown, timeout, None)
            else:
                from parlant_sync.cli.state import Cursor

                lock, changing = options["wait_lock"], wanted.session_id is None
                with Cursor(cursor_file, client.base_url, session_id, lock, may_change=changing) as cursor:
                    _follow(app, _resume(app, client, session_id, start, cursor), shown, timeout, cursor)


@dataclass(frozen=True)
class _Shown:
    """Which events are printed."""

    kinds: frozenset[str] | None
    sources: frozenset[str] | None
    preambles: bool

    def wants(self, event: Event) -> bool:
        return (
            (self.kinds is None or event.kind in self.kinds)
            and (self.sources is None or event.source in self.sources)
            and (self.preambles or not event.is_preamble)
        )


def _kept(client: Client, wanted: Target) -> str:
    from parlant_sync.cli.conversations import find_session_id

    return find_session_id(client, kept(wanted))


def _attach(client: Client, session_id: str, since: Since | None) -> Session:
    with waiting_for(client.base_url):
        return client.session(session_id, since=since)


def _resume(app: App, client: Client, session_id: str, start: Since, cursor: Cursor) -> Session:
    stored = cursor.load()
    if stored is None:
        session = _attach(client, session_id, start)
    else:
        if typed("since"):
            app.info("--since counts for the first run only: the cursor file goes before it")
        session = _attach(client, session_id, stored)
        checked = cursor.check(session)
        if checked != stored:
            session.close()
            session = _attach(client, session_id, checked)
    return session


def _follow(
    app: App,
    session: Session,
    shown: _Shown,
    timeout: float | None,
    cursor: Cursor | None,
) -> None:
    reader = session.iter_events(timeout=timeout)
    if cursor is not None:
        cursor.begin(reader.cursor)
    with reader, when_stdout_closes(reader.close):
        for event in reader:
            # Filtered here, not by the reader: the cursor passes what is not wanted, too.
            if shown.wants(event):
                _print(app, event)
            if cursor is not None:
                cursor.passed(event, pausing=session.health.next_offset <= event.offset + 1)


def _print(app: App, event: Event) -> None:
    if app.json:
        output.answer_json(event.raw)
    else:
        output.answer(event_lines(event))


def _since(text: str | None) -> Since:
    if text is None or text == "beginning":
        return "beginning"
    if text == "latest":
        return "latest"
    if not (text.isascii() and text.isdigit()):
        raise usage(f"--since is beginning, latest, or an offset such as 12, not {text!r}")
    return int(text)


def _names(option: str, given: tuple[str, ...], known: tuple[str, ...]) -> frozenset[str] | None:
    """Raises CommandError for what looks like a slip of the pen; other unknown names a newer server may have."""
    names = frozenset(name.strip() for text in given for name in text.split(",") if name.strip())
    for name in sorted(names.difference(known)):
        near = difflib.get_close_matches(name.lower(), known, 1)
        if near:
            raise usage(f"{option} {name}: did you mean {near[0]}? Known are {', '.join(known)}")
        output.note(f"{option} {name} is not known here; looking for it all the same. Known are {', '.join(known)}")
    return names or None
