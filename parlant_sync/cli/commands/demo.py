"""``parlant-sync demo``: a real Parlant server on this machine, and a conversation with its two agents."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time

import click

from parlant_sync import Client, Reply, Session
from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import UNEXPECTED, CommandError
from parlant_sync.cli.formats import reply_json
from parlant_sync.cli.options import Command, Option, option, pass_app
from parlant_sync.cli.terminal import Waiting, terminal_width, width
from parlant_sync.cli.turn_view import Talk
from parlant_sync.demo.launcher import DemoServer, DemoServerError

# The second question of each makes sense only after the first.
_CONVERSATION = {
    "research": ("What is retrieval-augmented generation?", "Who uses it?"),
    "welfare": ("What is long-term care insurance?", "And how do I apply for it?"),
}
_NEXT = "What does it cost?"
_TURN_TIMEOUT = 90.0


@click.command(cls=Command)
@option("--keep", is_flag=True, help="Leave the server running until Ctrl-C.")
@option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the server.  [any free one]")
@click.option(
    "--server-python",
    cls=Option,
    envvar=["PARLANT_SERVER_PYTHON", "PARLANT_SYNC_SERVER_PYTHON"],
    metavar="FILE",
    help="Interpreter that has parlant.  [this one]",
)
@pass_app
def demo(app: App, /, keep: bool, port: int, server_python: str | None) -> None:
    """Start a real Parlant server on this machine and hold a conversation.

    Needs no account and no key: it comes with a small language model and
    two agents, one for research papers and one for medical welfare. It
    needs parlant itself: pip install "parlant-sync[demo]".
    """
    server = DemoServer(python=server_python or sys.executable, port=port)
    try:
        _start(server)
        app.take("server", server.base_url)
        last = _converse(app, server)
        if keep:
            _keep(app, server, last)
    except DemoServerError as error:
        raise CommandError(UNEXPECTED, str(error)) from error
    except BaseException:
        server.kill()  # nothing in it is worth keeping
        raise
    finally:
        server.stop()


def _start(server: DemoServer) -> None:
    started = time.monotonic()
    output.note("starting a Parlant server on this machine; this takes some seconds ...")
    with Waiting(lambda: "starting ..."):
        server.start()
    output.note(f"Parlant {server.version} at {server.base_url}, after {time.monotonic() - started:.1f} s")


def _converse(app: App, server: DemoServer) -> str:
    """The conversation; the id of its last session."""
    last = ""
    # No token of the user's goes to this server.
    with Client(server.base_url, token="demo", turn_timeout=_TURN_TIMEOUT) as client:
        names = {agent.id: agent.name for agent in client.agents()}
        for role, questions in _CONVERSATION.items():
            agent_id = server.agents[role]
            session = client.create_session(agent_id, title=f"demo: {names[agent_id]}")
            _headline(app, f"{names[agent_id]}", "streams its answers" if _streams(server, role) else "")
            for question in questions:
                _turn(app, client, session, names[agent_id], question)
            last = session.id
    return last


def _streams(server: DemoServer, role: str) -> bool:
    return role == "welfare" and server.streaming


def _headline(app: App, name: str, remark: str) -> None:
    if not app.json:
        text = f"---- {name}{f' ({remark})' if remark else ''} "
        output.answer("\n" + text + "-" * (terminal_width() - 1 - width(text)))


def _turn(app: App, client: Client, session: Session, name: str, question: str) -> Reply:
    if app.json:
        reply = session.send(question)
        output.answer_json(reply_json(session.id, reply))
        return reply
    talk = Talk(client, session, name)
    talk.say("You", question)
    return talk.turn(question)


def _keep(app: App, server: DemoServer, session_id: str) -> None:
    output.note("")
    output.note("The server stays up until Ctrl-C. In another terminal, try:")
    output.note_raw("  " + app.again("send", "--session-id", session_id, "--stream", _NEXT) + "\n")
    _wait_for_end(server)


def _wait_for_end(server: DemoServer) -> None:
    """Until a signal comes, or the server ends by itself."""
    ended = threading.Event()

    def watch() -> None:
        pid = server.pid
        if pid is not None and hasattr(os, "waitid"):
            # Looks without taking the exit status away, which the launcher wants. After a signal it may have it.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            ended.set()

    # Daemon: a signal ends the command while this still waits for the server.
    threading.Thread(target=watch, name="parlant-sync-demo", daemon=True).start()
    ended.wait()
    raise CommandError(UNEXPECTED, "the demo server ended by itself; its log may tell why:\n" + server.log[-500:])
