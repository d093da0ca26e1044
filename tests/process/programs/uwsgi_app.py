"""A WSGI application for uWSGI that makes requests when it is imported, which is before uWSGI forks its workers.

Each request opens a session of its own, names it, and answers what it got: a worker that shares a connection with
another one gets the other's.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from parlant_sync import Client, ForkedProcessError

client = Client(os.environ["SERVER"])
made_in = os.getpid()
# A session with its poller, whose connection is in use at the fork, and an idle connection for calls.
inherited = client.create_session("quick")
first = inherited.send("from the master", timeout=20).text


def work(say: str) -> dict[str, Any]:
    forked = False
    if os.getpid() != made_in:
        try:
            inherited.send("from a worker")
        except ForkedProcessError:
            forked = True
    session = client.create_session("quick", title=say)
    reply = session.send(say, timeout=20)
    return {
        "pid": os.getpid(),
        "imported": made_in,
        "forked": forked,
        "first": first,
        "id": session.id,
        "title": session.title,
        "read": client.session(session.id).refresh().title,
        "text": reply.text,
        "texts": [event.message for event in session.history(kinds="message")],
        "threads": sum(thread.name.startswith("parlant-sync") for thread in threading.enumerate()),
        "sessions": len(client.sessions),
    }


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = json.dumps(work(parse_qs(environ["QUERY_STRING"])["say"][0])).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
