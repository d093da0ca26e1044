"""A chat page for a Parlant agent: one visitor, one session; answers appear while the agent writes them.

``create_app()`` is the application factory. Run it with ``python3 run.py``, which also starts a demo server if
PARLANT_SERVER is not set.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

from flask import Flask, Response, jsonify, render_template, request
from flask import session as visitor

from parlant_sync import Client, NotFoundError, ParlantSyncError, Session, Turn, as_sse
from parlant_sync.errors import InvalidRequestError

# Every proxy between the browser and the agent must wait at least this long. Seconds.
TURN_TIMEOUT = 120


def create_app(client: Client | None = None, agent_id: str | None = None) -> Flask:
    app = Flask(__name__)
    # Signs the cookie. Set CHAT_SECRET_KEY to the same value in all processes, so that a restart keeps the visitors.
    app.secret_key = os.environ.get("CHAT_SECRET_KEY") or secrets.token_hex()
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    parlant = client or Client()  # one for the process; sends nothing until it is used
    agent = agent_id or os.environ.get("PARLANT_AGENT_ID", "research")

    def conversation() -> Session:
        """The visitor's session. Its id is in the signed cookie, so nobody can read the session of somebody else."""
        if "parlant" in visitor:
            return parlant.session(visitor["parlant"])
        made = parlant.create_session(agent)
        visitor["parlant"] = made.id
        return made

    def post(text: str, key: str) -> Turn:
        return conversation().stream(text, key=key, once=True, interrupt=True, timeout=TURN_TIMEOUT)

    @app.get("/")
    def page() -> str:
        return render_template("chat.html")

    @app.get("/messages")
    def messages() -> Response:
        """What was said so far, for a page that is loaded again. Preambles are no answers, so they are left out."""
        if "parlant" not in visitor:
            return jsonify([])
        try:
            events = parlant.history(visitor["parlant"], kinds="message")
        except NotFoundError:
            return jsonify([])
        said = [event for event in events if event.source != "system" and not event.is_preamble]
        return jsonify([{"who": event.source, "text": event.message} for event in said])

    @app.post("/messages")
    def ask() -> Response | tuple[Response, int]:
        """Post the visitor's message and stream the turn that answers it.

        The page makes up the key. If it repeats the request after a failure, the same key finds the message that was
        posted before, so the agent gets it once.
        """
        body = request.get_json()
        try:
            turn = post(body["text"], body["key"])
        except NotFoundError:  # the server has forgotten the session (sessions in memory, a restart): begin again
            visitor.pop("parlant", None)
            turn = post(body["text"], body["key"])

        def lines() -> Iterator[str]:
            yield ": begin\n\n"  # sends the headers at once, and with them the cookie
            with turn:  # a visitor who leaves ends the wait, not the session
                yield from as_sse(turn)

        return Response(lines(), mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})

    @app.errorhandler(ParlantSyncError)
    def failed(error: ParlantSyncError) -> tuple[Response, int]:
        app.logger.warning("%s", error)
        # 502: repeating will not help; 503: the page may repeat the request with the same key.
        permanent = isinstance(error, (InvalidRequestError, NotFoundError, ValueError))
        return jsonify(problem="The agent cannot be reached."), 502 if permanent else 503

    return app
