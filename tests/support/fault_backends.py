"""What stands behind the fault proxy: the real server or the stand-in, seen past the SDK."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from parlant_sync import Client, Event, Session
from parlant_sync.testing import FakeServer
from support.fault_proxy import FaultProxy


class Backend:
    """A server at ``base_url`` with the agents ``quick`` (``echo: ...``) and ``streamer``."""

    def __init__(self, base_url: str, fake: FakeServer | None = None) -> None:
        self.base_url = base_url
        self.fake = fake

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.base_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Connection": "close"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """What the server holds, in order."""
        found = self.ask("GET", f"/sessions/{session_id}/events?min_offset=0&wait_for_data=0")
        return sorted(found, key=lambda event: event["offset"])

    def offsets(self, session_id: str) -> list[int]:
        return [event["offset"] for event in self.events(session_id)]

    def messages(self, session_id: str, text: str) -> list[dict[str, Any]]:
        """The customer's messages with this text."""
        return [
            event
            for event in self.events(session_id)
            if event["kind"] == "message" and event["source"] == "customer" and event["data"]["message"] == text
        ]

    def say(self, session_id: str, text: str) -> dict[str, Any]:
        """A customer's message from somewhere else."""
        body = {"kind": "message", "source": "customer", "message": text}
        return self.ask("POST", f"/sessions/{session_id}/events", body)

    def custom(self, session_id: str, count: int = 1) -> None:
        """Events that start no turn."""
        for number in range(count):
            body = {"kind": "custom", "source": "customer_ui", "data": {"n": number}}
            self.ask("POST", f"/sessions/{session_id}/events", body)


def fake_backend(fake: FakeServer) -> Backend:
    fake.agent("quick").echoes()
    return Backend(fake.base_url, fake)


def take(session: Session, count: int, reader: Any = None) -> list[Event]:
    """So many events, by the default reader; fewer where nothing came for 10 s."""
    reader = reader or session.iter_events(timeout=10)
    found: list[Event] = []
    for event in reader:
        found.append(event)
        if len(found) >= count:
            break
    return found


def polling(proxy: FaultProxy, session: Session, count: int = 1) -> None:
    """Wait until so many polls of the session have been asked, and the last has no answer yet."""

    def running() -> bool:
        polls = [e for e in proxy.of("poll") if session.id in e.path]
        return len(polls) >= count and polls[-1].status is None

    proxy.wait(running, what=f"poll {count} of {session.id} running")


@contextmanager
def connected(backend: Backend, **options: Any) -> Iterator[tuple[FaultProxy, Client]]:
    """A proxy in front of the server, and a client at the proxy."""
    with FaultProxy(backend.base_url) as proxy, Client(proxy.base_url, **options) as client:
        yield proxy, client
