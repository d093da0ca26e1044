"""What a user would write today: the alternatives, each with the same small face. For workers."""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.rows import LIMIT, OFFICIAL, THREAD

Event = dict[str, Any]


class Raw:
    """The limit: one http.client connection for lists, one for posts, and json.loads."""

    def __init__(self, url: str) -> None:
        host = url.split("//")[1]
        self._lists = http.client.HTTPConnection(host)
        self._posts = http.client.HTTPConnection(host)

    def list(self, session: str, offset: int, wait: int) -> list[Event]:
        self._lists.request("GET", f"/sessions/{session}/events?min_offset={offset}&wait_for_data={wait}")
        response = self._lists.getresponse()
        body = response.read()
        return json.loads(body) if response.status == 200 else []

    def create(self, agent: str) -> str:
        return str(self._post("/sessions", {"agent_id": agent})["id"])

    def post(self, session: str, text: str) -> int:
        body = {"kind": "message", "source": "customer", "message": text}
        return int(self._post(f"/sessions/{session}/events", body)["offset"])

    def _post(self, path: str, value: Any) -> Any:
        self._posts.request("POST", path, json.dumps(value), {"Content-Type": "application/json"})
        return json.loads(self._posts.getresponse().read())

    def follow(self, session: str, offset: int) -> Iterator[Event]:
        while True:
            for event in self.list(session, offset, 60):
                offset = event["offset"] + 1
                yield event


class Official:
    """parlant-client, with the loop that Parlant's documentation recommends."""

    def __init__(self, url: str) -> None:
        import httpx
        from parlant.client import ParlantClient

        self._client = ParlantClient(base_url=url, httpx_client=httpx.Client(timeout=70))

    def list(self, session: str, offset: int, wait: int) -> list[Any]:
        found: list[Any] = self._client.sessions.list_events(session, min_offset=offset, wait_for_data=wait)
        return found

    def create(self, agent: str) -> str:
        return str(self._client.sessions.create(agent_id=agent).id)

    def post(self, session: str, text: str) -> int:
        event = self._client.sessions.create_event(session, kind="message", source="customer", message=text)
        return int(event.offset)

    def follow(self, session: str, offset: int) -> Iterator[Event]:
        from parlant.client.core.api_error import ApiError

        while True:
            try:
                events = self.list(session, offset, 60)
            except ApiError as error:
                if error.status_code != 504:
                    raise
                continue
            for event in events:
                offset = event.offset + 1
                yield {"offset": event.offset, "kind": event.kind, "data": event.data, "metadata": event.metadata}


class Thread:
    """What one writes by hand: requests in a thread, a queue, a flag, and a join."""

    def __init__(self, url: str, *, wait: int = 60) -> None:
        import requests

        self._url = url
        self._wait = wait
        self._lists = requests.Session()
        self._posts = requests.Session()
        self._stop = False
        self.events: queue.Queue[Event] = queue.Queue()
        self._thread: threading.Thread | None = None

    def start(self, session: str, offset: int) -> None:
        self._thread = threading.Thread(target=self._run, args=(session, offset), daemon=True)
        self._thread.start()

    def _run(self, session: str, offset: int) -> None:
        while not self._stop:
            for event in self.list(session, offset, self._wait):
                offset = event["offset"] + 1
                self.events.put(event)

    def list(self, session: str, offset: int, wait: int) -> list[Event]:
        response = self._lists.get(
            f"{self._url}/sessions/{session}/events",
            params={"min_offset": offset, "wait_for_data": wait},
            timeout=wait + 10,
        )
        return [] if response.status_code == 504 else response.json()

    def create(self, agent: str) -> str:
        return str(self._posts.post(f"{self._url}/sessions", json={"agent_id": agent}).json()["id"])

    def post(self, session: str, text: str) -> int:
        body = {"kind": "message", "source": "customer", "message": text}
        return int(self._posts.post(f"{self._url}/sessions/{session}/events", json=body).json()["offset"])

    def follow(self, session: str, offset: int) -> Iterator[Event]:
        self.start(session, offset)
        while True:
            yield self.events.get()

    def close(self) -> None:
        """Waits for the answer of the poll that runs."""
        self._stop = True
        if self._thread is not None:
            self._thread.join()


def alternative(name: str, url: str) -> Raw | Official | Thread:
    makers: dict[str, Callable[[str], Raw | Official | Thread]] = {LIMIT: Raw, OFFICIAL: Official, THREAD: Thread}
    return makers[name](url)


def is_end(event: Event) -> bool:
    """Whether this is the last event of a turn: only the hand-written ones need to know."""
    data = event.get("data")
    return event["kind"] == "status" and isinstance(data, dict) and data.get("data", {}).get("stage") == "completed"
