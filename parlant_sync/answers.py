"""What comes back from a server: its body, read within its time, and no longer than it may be."""

from __future__ import annotations

from collections.abc import Mapping

import requests

from parlant_sync import errors
from parlant_sync.deadline import Deadline

# A longer body is refused with ProtocolError: what one response may cost in memory is bounded.
MAX_BODY = 256 * 1024 * 1024
_CHUNK = 1024 * 1024


class Answer:
    """A successful answer: its headers and its body, ``whole`` unless it was longer than was wanted, and left."""

    __slots__ = ("body", "headers", "status", "whole")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, whole: bool = True) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.whole = whole


def told_length(headers: Mapping[str, str]) -> int | None:
    """How many bytes the body has as JSON; None where that is not told."""
    length = headers.get("Content-Length") or ""
    # No body has a length of 20 digits, and int() refuses thousands of them.
    return int(length) if length.isdecimal() and len(length) < 20 and "Content-Encoding" not in headers else None


def read(response: requests.Response, deadline: Deadline, at_most: int | None) -> bytes | None:
    """The body, decoded; within the deadline even where it drips, and never more than MAX_BODY of it.

    None where it is longer than ``at_most``.
    """
    if at_most is not None and (told_length(response.headers) or 0) > at_most:
        return None
    try:
        return _read(response, deadline, at_most)
    except MemoryError:
        pass
    # Here, where nothing holds any more what had been read.
    raise errors.ProtocolError(f"a body came from {_place(response)} that is more than there is memory for")


def _place(response: requests.Response) -> str:
    return response.url.split("?")[0]


def _read(response: requests.Response, deadline: Deadline, at_most: int | None) -> bytes | None:
    read1 = getattr(response.raw, "read1", None)
    chunks: list[bytes] = []
    size = 0
    pieces = iter(lambda: read1(_CHUNK, decode_content=True), b"") if read1 else response.iter_content(_CHUNK)
    for piece in pieces:
        size += len(piece)
        if at_most is not None and size > at_most:
            return None
        if size > MAX_BODY:
            raise errors.ProtocolError(f"a body of more than {MAX_BODY} bytes came from {_place(response)}")
        chunks.append(piece)
        if deadline.expired():
            raise requests.exceptions.ReadTimeout("the body did not come in time")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
