"""The servers that the contract cases run against, and clients of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from support.contract_servers import VERSIONS, Fake, Mortal, Real, Server, Watched, fake_version
from support.shared_servers import SharedServers, need_a_server, server_python

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


@pytest.fixture(scope="session")
def mortals() -> Iterator[dict[str, DemoServer]]:
    """The real servers that tests may kill, by their store; they are started when first asked for."""
    stores: tuple[Literal["local", "memory"], ...] = ("local", "memory")
    made = {store: DemoServer(python=server_python(), test_agents=True, store=store) for store in stores}
    yield made
    for server in made.values():
        server.stop()


@pytest.fixture
def servers(
    request: pytest.FixtureRequest, shared_servers: SharedServers, mortals: dict[str, DemoServer]
) -> Iterator[Callable[..., Server]]:
    """Gives servers of the kind that the test runs against.

    ``servers("main")`` and ``servers("production")`` are there for all tests of the run. A test may kill
    ``servers("local")``, which keeps its sessions, and ``servers("memory")``, which does not.
    """
    kind = request.param
    made: list[Any] = []

    def get(name: str) -> Any:
        if kind == "real":
            need_a_server()
            if name in mortals:
                if not mortals[name].running:
                    mortals[name].start()
                found: Server = Mortal(mortals[name])
            else:
                found = Real(shared_servers.get("production" if name == "production" else "development"))
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
    """The server that most cases run against."""
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
