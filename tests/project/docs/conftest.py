"""What the blocks of the pages are run with: a stand-in server, a folder, and an end to all that they leave open."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.docs_runner import Runner

import parlant_sync
from parlant_sync.testing import FakeServer


@pytest.fixture
def server(parlant_server: FakeServer) -> FakeServer:
    """What the pages in a browser talk to."""
    return parlant_server


@pytest.fixture
def docs_server() -> Iterator[FakeServer]:
    """The agents that the pages talk with."""
    with FakeServer() as server:
        server.agent("research", "Research").streams("Long polling holds a request until there is news.").with_preamble(
            "Let me check..."
        )
        server.agent("welfare", "Welfare").replies("You may be entitled to housing benefit.")
        server.agent("support", "Support").replies("Hello.", then="How can I help?")
        yield server


@pytest.fixture
def runner(docs_server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setenv("PARLANT_SERVER", docs_server.base_url)
    monkeypatch.delenv("PARLANT_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[parlant_sync.Client] = []

    class Client(parlant_sync.Client):
        """As ever, but closed after the test: a page may leave one to the end of the process."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(parlant_sync, "Client", Client)
    modules = set(sys.modules)
    logger = logging.getLogger("parlant_sync")
    level = logger.level
    yield Runner(docs_server, tmp_path)
    for client in made:
        client.close()
    logger.setLevel(level)
    for name in set(sys.modules) - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(tmp_path):
            del sys.modules[name]  # the next page may have a file of the same name
