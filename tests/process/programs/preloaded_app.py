"""A WSGI application whose client is made at import time, before gunicorn forks its workers."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from parlant_sync import Client

client = Client(os.environ["SERVER"])
made_in = os.getpid()
# Used before the fork, too: a session with its poller, and connections in the pool.
inherited = client.create_session("quick")
first = inherited.send("from the master").text
sessions: dict[str, Any] = {}
lock = threading.Lock()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    query = parse_qs(environ["QUERY_STRING"])
    session_id = query.get("session", [""])[0]
    session = client.session(session_id) if session_id else client.create_session("quick")
    reply = session.send(query["say"][0], timeout=20)
    answer = {"pid": os.getpid(), "master": made_in, "session": session.id, "text": reply.text, "first": first}
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
