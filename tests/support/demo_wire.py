"""Raw HTTP to a demo server, without the SDK under test, and event sequences in short."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from parlant_sync.demo.launcher import DemoServer
from support.shared_servers import SharedServer

Event = dict[str, Any]

PATIENCE = 30.0


class Wire:
    """What a test says to the server, and what it gets back."""

    def __init__(self, server: DemoServer | SharedServer) -> None:
        self.server = server
        # "3.2" of "3.2.2"; old servers have no stages, and fewer events for the same.
        self.minor = ".".join(server.version.split(".")[:2])
        self.has_stages = server.streaming

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.server.base_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def session(self, agent: str, *, greeting: bool = False) -> Talk:
        query = "?allow_greeting=true" if greeting else "?allow_greeting=false"
        status, session = self.request("POST", f"/sessions{query}", {"agent_id": self.server.agents[agent]})
        assert status == 201, session
        return Talk(self, session["id"], fluid=agent.startswith("rest-"))


class Talk:
    """One session."""

    def __init__(self, wire: Wire, session_id: str, *, fluid: bool) -> None:
        self.wire = wire
        self.id = session_id
        self._fluid = fluid

    def over(self, events: Sequence[Event]) -> bool:
        return over(events, has_stages=self.wire.has_stages, fluid=self._fluid)

    def post(self, message: str) -> Event:
        body = {"kind": "message", "source": "customer", "message": message}
        status, event = self.wire.request("POST", f"/sessions/{self.id}/events", body)
        assert status == 201, event
        return dict(event)

    def trigger(self, *actions: str) -> tuple[int, Any]:
        guidelines = [{"action": action, "rationale": "unspecified"} for action in actions]
        body = {"kind": "message", "source": "ai_agent", **({"guidelines": guidelines} if actions else {})}
        return self.wire.request("POST", f"/sessions/{self.id}/events", body)

    def events(self, since: int = 0, wait: int = 0) -> list[Event]:
        status, events = self.wire.request("GET", f"/sessions/{self.id}/events?min_offset={since}&wait_for_data={wait}")
        assert status in (200, 504), events
        return sorted(events, key=lambda event: event["offset"]) if status == 200 else []

    def until(self, enough: Callable[[list[Event]], bool], since: int = 0) -> list[Event]:
        """The events from *since* on, as soon as there are *enough*."""
        deadline = time.monotonic() + PATIENCE
        seen: list[Event] = []
        while not enough(seen):
            assert time.monotonic() < deadline, shapes(seen)
            seen += self.events(seen[-1]["offset"] + 1 if seen else since, wait=1)
        return seen

    def turn(self, message: str) -> list[Event]:
        """Post *message* and return the events from it to the end of the turn, an error included."""
        since = self.post(message)["offset"]
        self.until(self.over, since)
        # Streamed messages have grown since, and an error comes just after the end.
        if "[fail" in message or "[break" in message:
            self.until(lambda events: "error" in shapes(events), since)
        return self.events(since)

    def answer(self, message: str) -> str:
        """What the agent answers to *message*, its messages joined by blank lines."""
        return "\n\n".join(texts(self.turn(message)))


def over(events: Sequence[Event], *, has_stages: bool, fluid: bool = False) -> bool:
    """Whether a turn among *events* has ended, by the rule of the server's version and the agent's composition mode."""
    begun = spoken = False
    for event in events:
        status = event["data"].get("status") if event["kind"] == "status" else None
        if status == "error" and "exception" in (event["data"].get("data") or {}):
            return True
        if has_stages:
            if status == "ready" and (event["data"].get("data") or {}).get("stage") == "completed":
                return True
        elif event["kind"] == "message" and event["source"] == "ai_agent":
            begun, spoken = not is_preamble(event), True
        elif status in ("typing", "processing"):
            begun = True
        elif status == "ready":
            if begun and (fluid or not spoken):
                return True
            spoken = False
    return False


def is_preamble(event: Event) -> bool:
    return "__preamble__" in (event["data"].get("tags") or [])


def texts(events: Sequence[Event]) -> list[str]:
    """What the agent said in *events*, without preambles."""
    return [
        event["data"]["message"]
        for event in events
        if event["kind"] == "message" and event["source"] == "ai_agent" and not is_preamble(event)
    ]


def shapes(events: Sequence[Event]) -> list[str]:
    """*events* in short: the status, or who spoke."""
    return [_shape(event) for event in events]


def _shape(event: Event) -> str:
    if event["kind"] == "message":
        if event["source"] != "ai_agent":
            return str(event["source"])
        return "preamble" if is_preamble(event) else "message"
    if event["kind"] != "status":
        return str(event["kind"])
    status = str(event["data"]["status"])
    return "completed" if (event["data"].get("data") or {}).get("stage") == "completed" else status


def plot(events: Sequence[Event], *, has_stages: bool) -> list[str]:
    """The shapes that all versions have in common.

    Without ``processing``, which comes with the preamble only before 3.2; the last ``ready`` is
    ``completed`` on all.
    """
    found = [shape for shape in shapes(events) if shape != "processing"]
    if not has_stages:
        spoken = False
        for index, shape in enumerate(found):
            if shape == "ready" and not spoken:
                found[index] = "completed"
            spoken = shape in ("message", "preamble") or (spoken and shape != "ready")
    return found
