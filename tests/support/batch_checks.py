"""Runs of a batch, what a server really holds after one, and what its results say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import requests

from parlant_sync.batch import Batch, Result, run
from parlant_sync.testing import FakeServer

ROWS = [{"id": f"r{n}", "message": f"question {n}"} for n in range(12)]


def ask(server: FakeServer, rows: Any = ROWS, **options: Any) -> Batch:
    return run(rows, **{"agent_id": "a", "base_url": server.base_url, "timeout": 20.0, **options})


def statuses(results: list[Result]) -> Counter[str]:
    return Counter(result.status for result in results)


def results_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def posted(base_url: str, marker: str = "") -> Counter[str]:
    """The customers' messages in all sessions of the server, by its own list; those with the marker."""
    found: Counter[str] = Counter()
    with requests.Session() as http:
        cursor: str | None = None
        while True:
            params = {"limit": 100, **({"cursor": cursor} if cursor else {})}
            page = http.get(f"{base_url}/sessions", params=params, timeout=30).json()
            items = page["items"] if isinstance(page, dict) else page
            for session in items:
                found.update(messages_of(http, base_url, session["id"]))
            cursor = page.get("next_cursor") if isinstance(page, dict) and page.get("has_more") else None
            if cursor is None:
                return Counter({text: count for text, count in found.items() if marker in text})


def messages_of(http: requests.Session, base_url: str, session_id: str) -> list[str]:
    params: dict[str, Any] = {"min_offset": 0, "wait_for_data": 0, "kinds": "message", "source": "customer"}
    events = http.get(f"{base_url}/sessions/{session_id}/events", params=params, timeout=30).json()
    return [e["data"]["message"] for e in events if e["source"] == "customer" and e["kind"] == "message"]
