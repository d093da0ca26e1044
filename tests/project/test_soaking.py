"""The ledger of ``scripts/soak.py``: what it says of an outcome that the server's list contradicts."""

from __future__ import annotations

import functools
import importlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fault_backends import fake_backend
from support.fault_proxy import FaultProxy
from support.raw_server import answer

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
    (false,) = world.ledger.false
    assert "not sent: ApiError, but stored is True" in false
    assert "status 418, body 'no such teapot'" in false
    assert "is not in the list (look 5)" in false
    assert "post 418 answered by the proxy" in false
