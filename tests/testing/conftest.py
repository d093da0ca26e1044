"""What the tests of the stand-in share: servers, raw clients of them, and a check for leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.raw_api import Api

from parlant_sync.testing import FakeServer


@pytest.fixture
def serve() -> Iterator[Callable[..., Api]]:
    """Makes servers, and clients for them: `serve("3.1", token="x")`."""
    made: list[Api] = []

    def make(*arguments: Any, **options: Any) -> Api:
        api = Api(FakeServer(*arguments, **options).start())
        made.append(api)
        return api

    yield make
    for api in made:
        api.http.close()
        api.server.stop()


@pytest.fixture
def api(serve: Callable[..., Api]) -> Api:
    """A client of a server as it comes."""
    return serve()
