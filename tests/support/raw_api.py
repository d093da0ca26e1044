"""Raw calls of a server's API, for the tests of the stand-in: nothing but `requests`."""

from __future__ import annotations

from typing import Any

import requests

from parlant_sync.testing import FakeServer
from support.waiting import Background

in_background = Background  # a call, in the words of the tests of the core and the stand-in
VERSIONS = ("3.0", "3.1", "3.2", "3.3")


class Api:
    """Raw calls of the API of one server."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.http = requests.Session()

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", 20)
        return self.http.request(method, self.server.base_url + path, **options)

    def session(self, agent: str = "support", **fields: Any) -> str:
        if agent not in {a["id"] for a in self.call("GET", "/agents").json()}:
            self.server.agent(agent)
        answer = self.call("POST", "/sessions", json={"agent_id": agent, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def post(self, session: str, **fields: Any) -> requests.Response:
        return self.call("POST", f"/sessions/{session}/events", json=fields)

    def send(self, session: str, message: str, **fields: Any) -> dict[str, Any]:
        answer = self.post(session, kind="message", source="customer", message=message, **fields)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def list(self, session: str, min_offset: int = 0, wait: object = 0, **query: Any) -> Any:
        query = {"min_offset": min_offset, "wait_for_data": wait, **query}
        return self.call("GET", f"/sessions/{session}/events", params=query)

    def events(self, session: str, min_offset: int = 0) -> list[dict[str, Any]]:
        answer = self.list(session, min_offset)
        assert answer.status_code == 200, answer.text
        return list(answer.json())

    def turn(self, session: str, message: str, **fields: Any) -> list[dict[str, Any]]:
        """Sends a message and gives all events from it on, when the turn is over."""
        event = self.send(session, message, **fields)
        self.server.wait_idle()
        return self.events(session, event["offset"])

    def begin(self, gate: str, message: str = "hi") -> str:
        """A session whose turn, which answers this message, waits at the gate."""
        session = self.session()
        self.send(session, message)
        self.server.reached(gate)
        return session

    def finish(self, gate: str) -> None:
        """Opens the gate, and waits until all turns are over."""
        self.server.release(gate)
        self.server.wait_idle()


def brief(event: dict[str, Any]) -> str:
    """An event in a word or two."""
    data = event["data"]
    if event["kind"] == "status":
        stage = (data.get("data") or {}).get("stage") or data.get("message")
        return f"{data['status']}({stage})" if stage else str(data["status"])
    if event["kind"] == "message":
        preamble = "preamble:" if "__preamble__" in (data.get("tags") or data.get("groups") or ()) else ""
        return f"{'' if event['source'] == 'ai_agent' else event['source'] + ':'}{preamble}{data['message']}"
    return str(event["kind"])
