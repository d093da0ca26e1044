"""The process of one run, and what it measures with.

``python -m benchmarks.worker MODULE.FUNCTION OPTIONS`` prints what the function returns.
"""

from __future__ import annotations

import gc
import http.client
import importlib
import json
import os
import sys
from typing import Any


class Desk:
    """A connection to the answering server that asks what it has seen."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"))

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def report(self) -> Any:
        self._connection.request("GET", "/bench")
        return json.loads(self._connection.getresponse().read())

    def forget(self) -> None:
        self._connection.request("DELETE", "/bench")
        self._connection.getresponse().read()

    def wait_until_held(self, count: int) -> None:
        """Until so many polls wait at the server. Asks without a pause: the last one is what is timed."""
        while self.report()["held"] < count:
            pass


def rss() -> int:
    """Resident memory of this process in KiB."""
    with open("/proc/self/statm", encoding="ascii") as line:
        return int(line.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def collected_rss() -> int:
    """The same without what only waits for the garbage collector."""
    gc.collect()
    return rss()


def main() -> None:
    module, _, function = sys.argv[1].partition(".")
    job = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    print(json.dumps(job(**json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()
