"""A turn shown to a person while it happens: what the agent is doing, its preambles, its text as it writes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from parlant_sync import Client, Event, ParlantSyncError, Reply, Session, Turn
from parlant_sync.cli import output
from parlant_sync.cli.formats import doing
from parlant_sync.cli.output import one_line
from parlant_sync.cli.terminal import Paragraphs, Waiting, limited_for

# How long the text waits for a preamble that came before it to be shown: both come by the same poll.
_ORDER = 1.0


class Live:
    """Watches a session beside a turn that the main thread drives. Enter it before the message is posted.

    ``on_preamble`` is called by a thread of its own, with the waiting line out of the way.
    """

    def __init__(
        self, client: Client, session: Session, who: str, on_preamble: Callable[[str], None] | None = None
    ) -> None:
        self._session = session
        self._who = who
        self._on_preamble = on_preamble
        self._status: str | None = None
        self._trace = ""
        self._answering = threading.Event()
        self.waiting = Waiting(lambda: f"{doing(self._status, self._who)} ...", limited_for(client))
        self._reader = session.iter_events(since="latest", partial=True)
        # Daemon: it sits in a read; leaving closes that.
        self._thread = threading.Thread(target=self._watch, name="parlant-sync-live", daemon=True)

    def __enter__(self) -> Live:
        self.waiting.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._reader.close()
            self._thread.join()
        finally:  # also where a second Ctrl-C falls in here: the line would go on counting under the next prompt
            self.waiting.__exit__()

    def before_text(self) -> None:
        """The first piece of text is about to be printed: what came before it goes first."""
        self._answering.wait(_ORDER)
        self.waiting.hide()

    def _watch(self) -> None:
        try:
            for event in self._reader:
                self._see(event)
        except ParlantSyncError:
            pass  # the turn meets the same trouble, and tells it
        finally:
            self._answering.set()

    def _see(self, event: Event) -> None:
        if event.status is not None:
            self._status = event.status
            if event.status == "acknowledged":
                # A new turn: preambles of an older one may still dribble in (WIRE.md).
                self._trace = event.trace_id
        elif event.is_preamble:
            if event.trace_id == self._trace and self._on_preamble is not None:
                with self.waiting.above():
                    self._on_preamble(event.message or "")
        elif event.kind == "message" and event.source not in ("customer", "customer_ui"):
            self._answering.set()


# -- A conversation shown to a person: who speaks, what the agent is doing, its words as they come.


class Talk:
    """Prints the turns of one session to stdout, in indented paragraphs below the speakers' names."""

    def __init__(self, client: Client, session: Session, agent: str) -> None:
        self._client = client
        self._session = session
        self._agent = agent
        self._colours = output.has_colours(sys.stdout)
        self.request: Event | None = None  # the message posted last

    def say(self, who: str, text: str) -> None:
        """Something that was said."""
        self._name(who)
        self._print(text, dimmed=False)

    def _preamble(self, text: str) -> None:
        self._print(text if self._colours else f"({text})", dimmed=True)

    def aside(self, text: str) -> None:
        """Something about the conversation, dimmed."""
        output.write(output.dim(f"    ({one_line(text)})", self._colours) + "\n")

    def turn(self, message: str) -> Reply:
        """Send the message and print the agent's turn as it happens. Raises as ``Session.stream()`` and its turn."""
        self._name(self._agent)
        live = Live(self._client, self._session, self._agent, self._preamble)
        with live, self._session.stream(message) as turn:
            self.request = turn.request
            self._print_text(turn, live)
            reply = turn.reply()
        if reply.outcome == "empty":
            self.aside("no answer in this turn")
        elif reply.outcome == "human":
            self.aside("a human agent answered")
        return reply

    def _print_text(self, turn: Turn, live: Live) -> None:
        restarts = 0
        paragraphs = Paragraphs(output.write)
        try:
            for number, piece in enumerate(turn.text):
                if number == 0:
                    live.before_text()
                if restarts != turn.restarts:
                    restarts = turn.restarts
                    paragraphs.end()
                    self.aside("interrupted; a new answer begins")
                paragraphs.feed(piece)
        finally:
            paragraphs.end()

    def _name(self, who: str) -> None:
        output.write(output.bold(one_line(who), self._colours) + "\n")

    def _print(self, text: str, *, dimmed: bool) -> None:
        paragraphs = Paragraphs(lambda piece: output.write(output.dim(piece, dimmed and self._colours)))
        paragraphs.feed(text)
        paragraphs.end()
