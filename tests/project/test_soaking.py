"""The ledger of ``scripts/soak.py``: what it says of an outcome that the server's list contradicts."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from support.fault_backends import fake_backend
from support.fault_proxy import FaultProxy
from support.raw_server import answer
from support.waiting import wait_until

from parlant_sync import Client
from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.slow


@pytest.fixture
def soaking(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "scripts"))
    world = importlib.import_module("soaking.world")
    logger = logging.getLogger(importlib.import_module("soaking.evidence").Looks.LOGGER)
    handlers, level = list(logger.handlers), logger.level
    yield world
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_a_false_outcome_shows_the_status_the_body_and_what_the_last_look_said(soaking: Any) -> None:
    with FakeServer() as server, FaultProxy(server.base_url) as proxy, Client(proxy.base_url) as client:
        backend = fake_backend(server)
        server.agent("quick").echoes()
        server.agent("streamer").echoes()
        told = functools.partial(importlib.import_module("soaking.evidence").of_exchanges, proxy)
        world = soaking.World(client, told, server.base_url, sessions=1, workers=1, seed=1)
        (life,) = world.lives
        proxy.answer(answer(b"no such teapot", b"418 I'm a teapot"), "post")
        world._turn(life.session, "1-1-", random.Random(1))
        backend.say(life.session.id, "1-1-")  # so that the outcome becomes a false one
        world.end()
    (false,) = world.ledger.findings["false"]
    assert "not sent: ApiError, but stored is True" in false
    assert "status 418, body 'no such teapot'" in false
    assert "is not in the list (look 5)" in false
    assert "post 418 answered by the proxy" in false


def test_a_session_that_was_compared_is_deleted_and_forgotten(soaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soaking, "_SETTLE", 1)
    with FakeServer() as server, Client(server.base_url) as client:
        server.agent("quick").echoes()
        server.agent("streamer").replies(lambda message: f"streamed echo of: {message}")
        world = soaking.World(client, lambda *_: "", server.base_url, sessions=3, workers=1, seed=1)
        for life in world.lives:
            world._turn(life.session, "1-1-", random.Random(1))
        first, second, third = world.lives
        world.ledger.posted[second.session.id]["1-2"] = "reply", ""
        third.offsets.pop(0)  # as if its reader had missed an event
        world.end()
        assert list(client.list_sessions()) == []
    assert world.ledger.posted == {}
    assert [found.split(":")[0] for found in world.ledger.findings["false"]] == [second.session.id]
    assert [found.split(" ")[0] for found in world.ledger.findings["missed"]] == [third.session.id]
    assert not first.reader.is_alive()


def test_a_fault_counts_once_and_when_it_has_met_a_request(soaking: Any) -> None:
    strikes = importlib.import_module("soaking.strikes")
    with FakeServer() as server, strikes.Strikes(server.base_url, 1, share=1, all_every=999) as faults:
        server.agent("quick").echoes()
        faults._faults.strike(strikes.LIMIT)
        assert faults.counts() == {}
        with Client(server.base_url) as client:
            session = client.create_session("quick")
            session.send("hello")
        for _ in range(2):  # whichever kind of request it waits for
            for method, query in [("GET", "wait_for_data=0"), ("GET", "wait_for_data=9"), ("POST", "")]:
                requests.request(method, f"{faults.base_url}/sessions/{session.id}/events?{query}", timeout=10)
        assert faults.counts() == {strikes.LIMIT: 1}


def test_the_proxy_ends_with_a_soak_that_is_killed(soaking: Any) -> None:
    code = """if __name__ == "__main__":
    from soaking.strikes import Strikes
    print(Strikes("http://127.0.0.1:9", 1, share=1, all_every=9).base_url, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(soaking.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        process.kill()

    def refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((url.hostname, url.port)) != 0

    wait_until(refused)
