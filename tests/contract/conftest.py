"""The servers that the contract cases run against, and clients of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.contract_servers import VERSIONS, Fake, Real, Server, Watched, fake_version, server_python

from parlant_sync import Client
from parlant_sync.demo.launcher import DemoServer

# "fake" imitates the version that "real" is; the others are run with scripts/test.py --full.
FAKES = {"fake": fake_version(), **{f"fake-{v}": v for v in VERSIONS if v != fake_version()}}
KINDS = [
    pytest.param("real", marks=pytest.mark.real),
    *(pytest.param(kind, marks=() if kind == "fake" else pytest.mark.full) for kind in FAKES),
]
# A case takes seconds; one that hangs is shown with all its stacks, and costs a minute.
TIMEOUT = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "contract" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


class Processes:
    """The real servers of this test run: each is started when first asked for, and once."""

    def __init__(self) -> None:
        self._running: dict[str, Real] = {}
        self._missing: str | None = None

    def get(self, name: str, **options: Any) -> Real:
        python = server_python() or sys.executable
        if python == sys.executable and importlib.util.find_spec("parlant") is None:
            pytest.skip("the real server is not installed here: pip install 'parlant-sync[demo]'")
        if name not in self._running:
            self._running[name] = Real(DemoServer(python=python, test_agents=True, **options))
        real = self._running[name]
        if not real.demo.running:
            real.restart()  # a test killed it
        return real

    def stop(self) -> None:
        for real in self._running.values():
            real.stop()


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    found = Processes()
    yield found
    found.stop()


@pytest.fixture
def servers(request: pytest.FixtureRequest, processes: Processes) -> Iterator[Callable[..., Server]]:
    """Gives servers of the kind that the test runs against: ``servers("main")``, ``servers("local")``, ..."""
    kind = request.param
    made: list[Any] = []

    def get(name: str) -> Any:
        if kind == "real":
            options = {"local": {"store": "local"}, "production": {"policy": "production"}}.get(name, {})
            found: Server = processes.get(name, **options)
        else:
            policy = "production" if name == "production" else "development"
            found = Fake(FAKES[kind], keep=name == "local", policy=policy)
        made.append(Watched(found))
        return made[-1]

    yield get
    for server in made:
        server.finish()
        if kind != "real":
            server.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "servers" in metafunc.fixturenames:
        metafunc.parametrize("servers", KINDS, indirect=True)


@pytest.fixture
def server(servers: Callable[[str], Any]) -> Any:
    """The server that most cases run against: a real one is shared by all of them."""
    return servers("main")


@pytest.fixture
def make_client() -> Iterator[Callable[..., Client]]:
    """Makes clients: ``make_client(server, poll_wait=1)``; they are closed in the end."""
    made: list[Client] = []

    def make(server: Any, **options: Any) -> Client:
        options = {"turn_timeout": 30, "poll_wait": 20, **options}
        made.append(Client(server.base_url, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(server: Any, make_client: Callable[..., Client]) -> Client:
    return make_client(server)
