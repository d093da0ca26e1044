"""The time that a single call may take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from parlant_sync.answers import Answer
from parlant_sync.api import Api
from parlant_sync.deadline import Deadline
from parlant_sync.retry import LEAST


class FakeTransport:
    """Answers everything with an empty list, and remembers how long it was given."""

    base_url = "http://test"
    settings = SimpleNamespace(request_timeout=30.0)

    def __init__(self) -> None:
        self.limits: list[float] = []

    def request(self, method: str, path: str, *, read_timeout: float, **_: Any) -> Answer:
        self.limits.append(read_timeout)
        return Answer(200, {}, b"[]")


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.mark.parametrize(
    ("left", "given"), [(0.0, LEAST), (0.1, LEAST), (3.0, 3.0), (None, 30.0), (1000.0, 30.0)], ids=str
)
def test_a_list_has_what_is_left_of_its_deadline(transport: FakeTransport, left: float | None, given: float) -> None:
    assert Api(transport).list_events("s", 0, deadline=Deadline(left)) == []  # type: ignore[arg-type]
    assert transport.limits == [pytest.approx(given, abs=0.5 if given == 3.0 else 1e-9)]
