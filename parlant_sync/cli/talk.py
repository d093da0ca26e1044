"""A conversation shown to a person: who speaks, what the agent is doing, its words as they come."""

from __future__ import annotations

import sys

from parlant_sync import Event, Reply, Session, Turn
from parlant_sync.cli import output
from parlant_sync.cli.live import Live
from parlant_sync.cli.paragraphs import Paragraphs
from parlant_sync.cli.visible import one_line


class Talk:
    """Prints the turns of one session to stdout, in indented paragraphs below the speakers' names."""

    def __init__(self, session: Session, agent: str) -> None:
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
        live = Live(self._session, self._agent, self._preamble)
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
                    self.aside("interrupted; the answer begins anew")
                paragraphs.feed(piece)
        finally:
            paragraphs.end()

    def _name(self, who: str) -> None:
        output.write(output.bold(one_line(who), self._colours) + "\n")

    def _print(self, text: str, *, dimmed: bool) -> None:
        paragraphs = Paragraphs(lambda piece: output.write(output.dim(piece, dimmed and self._colours)))
        paragraphs.feed(text)
        paragraphs.end()
