"""Answers that break off: the same offset is asked for again, and nothing is skipped."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from support.fault_backends import Backend, connected, polling, take
from support.fault_orders import split_answer, with_body

from parlant_sync import TransportError, errors

pytestmark = pytest.mark.usefixtures("quick_retries")

Change = Callable[[bytes], tuple[bytes, str]]


def _without_length(answer: bytes) -> bytes:
    """The head, without its end."""
    lines = split_answer(answer)[0].split(b"\r\n")[:-2]
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"content-length"))


def _part(of_head: float, of_body: float, then: str) -> Change:
    def change(answer: bytes) -> tuple[bytes, str]:
        head, body = split_answer(answer)
        return head[: int(len(head) * of_head)] + body[: int(len(body) * of_body)], then

    return change


def _longer_than_said(answer: bytes) -> tuple[bytes, str]:
    body = split_answer(answer)[1]
    return with_body(answer, body[: len(body) // 2]) + body[len(body) // 2 :], "close"


def _gzip(answer: bytes, spoil: Callable[[bytes], bytes]) -> tuple[bytes, str]:
    packed = spoil(gzip.compress(split_answer(answer)[1]))
    return with_body(answer, packed, b"Content-Encoding: gzip"), "keep"


def _no_length(answer: bytes) -> tuple[bytes, str]:
    body = split_answer(answer)[1]
    return _without_length(answer) + b"\r\nConnection: close\r\n\r\n" + body[: len(body) // 2], "close"


def _chunk(answer: bytes, *, cut: bool) -> tuple[bytes, str]:
    """One chunk with half of the body: cut in its middle, or whole, and the last one is missing."""
    body = split_answer(answer)[1]
    start = _without_length(answer) + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    half = body[: len(body) // 2]
    return start + b"%x\r\n" % len(body if cut else half) + half + (b"" if cut else b"\r\n"), "close"


BREAKS: dict[str, Change] = {
    "reset before the headers": _part(0, 0, "reset"),
    "closed before the headers": _part(0, 0, "close"),
    "reset in the middle of the headers": _part(0.5, 0, "reset"),
    "closed in the middle of the headers": _part(0.5, 0, "close"),
    "reset after the headers": _part(1, 0, "reset"),
    "closed after the headers": _part(1, 0, "close"),
    "half a body and a reset": _part(1, 0.5, "reset"),
    "half a body and an end": _part(1, 0.5, "close"),
    "all but the last byte": _part(1, 0.999, "close"),
    "more than its length says": _longer_than_said,
    "gzip cut, with a right length": lambda a: _gzip(a, lambda z: z[: len(z) // 2]),
    "gzip with only its header, and a right length": lambda a: _gzip(a, lambda z: z[:10]),
    "corrupt gzip": lambda a: _gzip(a, lambda z: z[:20] + bytes(b ^ 0xFF for b in z[20:])),
    "no gzip though it says so": lambda a: _gzip(a, lambda z: b"[]" + z),
    "no length and a cut": _no_length,
    "a chunk that is cut": lambda a: _chunk(a, cut=True),
    "chunks without the last": lambda a: _chunk(a, cut=False),
}
breaks = pytest.mark.parametrize("change", [pytest.param(c, id=n.replace(" ", "-")) for n, c in BREAKS.items()])


@breaks
def test_a_poll_is_asked_again_from_the_same_offset(change: Change, backend: Backend) -> None:
    with connected(backend) as (proxy, client):
        session = client.create_session("quick")
        reader = session.iter_events(timeout=20)
        polling(proxy, session)
        order = proxy.change(change, times=2)
        assert session.send("hello", timeout=30).text == "echo: hello"
        for broken in order.wait():
            following = next(e for e in proxy.of("poll") if e.number > broken.number and e.path == broken.path)
            assert following.min_offset == broken.min_offset
        offsets = backend.offsets(session.id)
        assert [event.offset for event in take(session, len(offsets), reader)] == offsets
        assert session.health.state == "polling"
        assert client.stats().failures == 2


@breaks
def test_a_call_says_that_it_had_no_answer(change: Change, fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        fake.custom(session.id, 3)
        # "More than its length says" is a short body that looks whole: no JSON, so a ProtocolError.
        proxy.change(change, "list", times=3)
        with pytest.raises((TransportError, errors.ProtocolError)):
            session.history()
        proxy.clear()
        assert [e.offset for e in session.history()] == [0, 1, 2]


@breaks
def test_a_list_of_a_reader_that_is_behind(change: Change, fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        fake.custom(session.id, 5)
        proxy.change(change, "list", times=2)
        assert [e.offset for e in take(session, 5, session.iter_events(since="beginning", timeout=10))] == list(
            range(5)
        )


def test_many_sessions_through_a_storm_of_breaks(both: Backend) -> None:
    """Every second poll's answer breaks, in each of the ways in turn; all sessions get all events."""
    changes = list(BREAKS.values())
    seen = 0

    def storm(answer: bytes) -> tuple[bytes, str]:
        nonlocal seen
        seen += 1
        return changes[seen // 2 % len(changes)](answer) if seen % 2 else (answer, "keep")

    with connected(both) as (proxy, client):
        sessions = [client.create_session("quick") for _ in range(4)]
        readers = [session.iter_events(timeout=20) for session in sessions]
        proxy.change(storm, times=float("inf"))
        for round_ in range(3):
            for session in sessions:
                assert session.send(f"round {round_}", timeout=60).text == f"echo: round {round_}"
        proxy.clear()
        for session, reader in zip(sessions, readers, strict=True):
            offsets = both.offsets(session.id)
            assert [event.offset for event in take(session, len(offsets), reader)] == offsets
