"""Sees what a client asks of its server: a ``session_factory`` that counts."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests


class Traffic:
    """The requests of a client, as they leave it. Thread-safe. Give it as ``session_factory``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.most_polls: Counter[str] = Counter()  # by path: how many there were at once
        self._polls: Counter[str] = Counter()

    def __call__(self) -> requests.Session:
        traffic = self

        class Counting(requests.Session):
            def send(self, request: Any, **options: Any) -> Any:
                path, query = traffic.begin(request)
                try:
                    return super().send(request, **options)
                finally:
                    traffic.end(path, query)

        return Counting()

    def begin(self, request: Any) -> tuple[str, dict[str, str]]:
        parts = urlsplit(request.url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            self.requests.append((request.method, parts.path, query))
            if _is_poll(query):
                self._polls[parts.path] += 1
                self.most_polls[parts.path] = max(self.most_polls[parts.path], self._polls[parts.path])
        return parts.path, query

    def end(self, path: str, query: dict[str, str]) -> None:
        with self._lock:
            if _is_poll(query):
                self._polls[path] -= 1

    @property
    def polls(self) -> list[int]:
        """Where each long poll began, in the order in which they were sent."""
        with self._lock:
            return [int(query["min_offset"]) for _, _, query in self.requests if _is_poll(query)]

    def count(self, method: str, end: str = "") -> int:
        with self._lock:
            return sum(1 for found, path, _ in self.requests if found == method and path.endswith(end))


def _is_poll(query: dict[str, str]) -> bool:
    return int(query.get("wait_for_data", "0")) > 0
