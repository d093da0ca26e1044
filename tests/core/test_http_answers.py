"""Bodies: how much of them is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import requests

from parlant_sync import ProtocolError
from parlant_sync._deadline import Deadline
from parlant_sync._http import transport


class Raw:
    """A body without an end, in pieces; counts what was taken."""

    def __init__(self, piece: bytes = b"x" * 100) -> None:
        self.piece = piece
        self.taken = 0

    def read1(self, amount: int, decode_content: bool) -> bytes:
        assert decode_content
        self.taken += len(self.piece)
        return self.piece


def endless(headers: Mapping[str, str], now: Any = None) -> tuple[Any, Raw]:
    response = requests.Response()
    response.url = "http://h/x?secret=1"
    response.headers.update(headers)
    response.raw = raw = Raw()
    return response, raw


def test_no_body_is_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY", 1000)
    response, _ = endless({})
    with pytest.raises(ProtocolError, match=r"more than 1000 bytes came from http://h/x$"):
        transport.read_body(response, Deadline(60))


def test_a_body_that_there_is_no_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    response, raw = endless({})

    def read1(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(raw, "read1", read1)
    with pytest.raises(ProtocolError, match="memory") as caught:
        transport.read_body(response, Deadline(60))
    assert caught.value.__context__ is None


def test_a_body_has_its_time() -> None:
    response, _ = endless({})
    with pytest.raises(requests.exceptions.ReadTimeout):
        transport.read_body(response, Deadline(0))
