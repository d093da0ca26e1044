"""A success whose body is not what it must be: ProtocolError or tolerance, never a dead thread or a skipped batch."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from support.fault_backends import Backend, connected, polling, take
from support.raw_server import answer

from parlant_sync import ProtocolError, TransportError, errors
from parlant_sync._api import posting
from parlant_sync._http import transport

pytestmark = pytest.mark.usefixtures("quick_retries")


def _event(offset: Any = 0, **changes: Any) -> dict[str, Any]:
    event: dict[str, Any] = {
        "id": "e1",
        "source": "customer_ui",
        "kind": "custom",
        "offset": offset,
        "creation_utc": "2026-01-01T00:00:00Z",
        "trace_id": "<main>",
        "data": {},
    }
    event.update(changes)
    return {name: value for name, value in event.items() if value is not None}


NONSENSE: dict[str, bytes] = {
    "an HTML page": b"<!doctype html><html><body>Please log in to the Wi-Fi</body></html>",
    "nothing": b"",
    "null": b"null",
    "an object": b'{"items": []}',
    "a string": b'"ok"',
    "a list of numbers": b"[1, 2, 3]",
    "a list of lists": b"[[]]",
    "an event without an offset": json.dumps([_event(None)]).encode(),
    "an offset as text": json.dumps([_event("7")]).encode(),
    "an offset that is true": json.dumps([_event(True)]).encode(),
    "an offset that is a float": json.dumps([_event(7.5)]).encode(),
    "an offset of 5,000 digits": b'[{"offset": ' + b"9" * 5000 + b"}]",
    "one good and one bad event": json.dumps([_event(0), {"kind": "message"}]).encode(),
    "nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "objects nested 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "no UTF-8": b'[{"offset": 0, "data": "\xff\xfe"}]',
    "half a JSON": b'[{"offset": 0, "da',
    "two JSONs": b"[][]",
    "UTF-16": "[]".encode("utf-16"),
}
nonsense = pytest.mark.parametrize("body", [pytest.param(b, id=n.replace(" ", "-")) for n, b in NONSENSE.items()])


@nonsense
def test_a_poll_survives_it_with_its_offset(body: bytes, fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        reader = session.iter_events(timeout=20)
        fake.custom(session.id, 2)
        assert [event.offset for event in take(session, 2, reader)] == [0, 1]
        polling(proxy, session)
        order = proxy.answer(answer(body), "poll", times=3)
        proxy.cut_all()
        bad = order.wait()
        assert [exchange.min_offset for exchange in bad] == [2, 2, 2]
        assert session.send("still alive", timeout=30).text == "echo: still alive"
        offsets = fake.offsets(session.id)
        assert [event.offset for event in take(session, len(offsets) - 2, reader)] == offsets[2:]
        assert session.health.reconnects >= 1


@nonsense
def test_a_call_tells_it(body: bytes, fake: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "LOOKS", (0.0, 0.01))
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        for kind, call in (("list", session.history), ("other", session.refresh), ("post", lambda: session.post("x"))):
            proxy.answer(answer(body), kind, times=float("inf"))
            # An empty body may be complete the next time: it counts as a failure of the network.
            kinds = (ProtocolError if body else TransportError, errors.DeliveryUncertain)
            with pytest.raises(kinds) as caught:
                call()
            assert len(str(caught.value)) < 1000
            proxy.clear()


def test_a_post_whose_answer_is_nonsense_is_found(fake: Backend) -> None:
    """The server did store it: no error, no second copy."""
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        proxy.change(lambda _: (answer(b"<html>who knows</html>"), "keep"), "post")
        assert session.send("stored", timeout=30).text == "echo: stored"
        assert len(fake.messages(session.id, "stored")) == 1


KEPT: dict[str, dict[str, Any]] = {
    "an unknown kind": _event(kind="hologram", source="customer_ui"),
    "an unknown source": _event(source="martian"),
    "no kind": _event(kind=None),
    "no data": _event(data=None),
    "data that is a list": _event(kind="message", data=[1, 2]),
    "no id": _event(id=None),
    "no trace": _event(trace_id=None),
    "a time that is none": _event(creation_utc="yesterday"),
    "chunks that are no list": _event(kind="message", source="ai_agent", data={"message": "x", "chunks": 7}),
    "metadata that is a string": _event(metadata="m"),
    "a number of 5,000 digits": _event(data={"n": "BIG"}),
    "lone surrogates": _event(data={"text": "\ud800 and \udfff"}),
    "NaN and Infinity": _event(data={"n": float("nan"), "m": float("inf")}),
}


@pytest.mark.parametrize("event", [pytest.param(e, id=n.replace(" ", "-")) for n, e in KEPT.items()])
def test_an_odd_event_is_kept(event: dict[str, Any], fake: Backend) -> None:
    body = json.dumps([event, _event(1, id="e2")]).replace('"BIG"', "9" * 5000).encode()
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
        proxy.answer(answer(body), "poll", times=1)
        proxy.cut_all()
        reader = session.iter_events(timeout=10)
        first, second = take(session, 2, reader)
        assert (first.offset, second.offset) == (0, 1)
        # Every reading of it answers, whatever is in it.
        for each in (first, second):
            repr(each)
            for name in ("kind", "source", "message", "status", "stage", "participant", "is_preamble", "is_partial"):
                getattr(each, name)
            json.dumps(each.raw)


def test_raw_surrogates_in_utf_8(fake: Backend) -> None:
    """As bytes, not escaped: no valid UTF-8, but what a sloppy server writes."""
    body = json.dumps([_event(data={"text": "X"})]).encode().replace(b"X", "\ud800".encode("utf-8", "surrogatepass"))
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
        proxy.answer(answer(body), "poll")
        proxy.cut_all()
        event = take(session, 1)[0]
        assert event.data == {"text": "\ud800"}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_body_beyond_the_limit(packed: bool, fake: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY", 1_000_000)
    body = b"[" + b" " * 3_000_000 + b"]"
    sent = answer(gzip.compress(body), b"200 OK", b"Content-Encoding: gzip") if packed else answer(body)
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        polling(proxy, session)
        order = proxy.answer(sent, "poll", times=2)
        proxy.cut_all()
        assert [exchange.min_offset for exchange in order.wait()] == [0, 0]
        proxy.answer(sent, "list", times=1)
        with pytest.raises(ProtocolError, match="more than 1000000 bytes"):
            session.history()
        assert session.send("still alive", timeout=30).text == "echo: still alive"


_HUGE = """
    import resource, sys
    from parlant_sync import Client, ProtocolError
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Client(sys.argv[1], request_timeout=60) as client:
        try:
            client.agents()
        except ProtocolError as error:
            assert "more than" in str(error), error
        else:
            raise SystemExit("no error")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.full
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_300_megabytes(packed: bool, fake: Backend) -> None:
    """In a process of its own, whose memory is measured: the limit of 256 MB, and a little."""
    body = b"[" + b" " * 300_000_000 + b"]"
    sent = answer(gzip.compress(body, 1), b"200 OK", b"Content-Encoding: gzip") if packed else answer(body)
    with connected(fake) as (proxy, _):
        proxy.answer(sent, "any", times=float("inf"))
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_HUGE), proxy.base_url],
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 350_000  # kB


def test_the_whole_of_it_at_random(fake: Backend) -> None:
    """All of the above one after another before one session, and it still has every event once."""
    bodies = list(NONSENSE.values())
    seen = 0

    def change(whole: bytes) -> tuple[bytes, str]:
        nonlocal seen
        seen += 1
        return (whole, "keep") if seen % 3 == 0 else (answer(bodies[seen % len(bodies)]), "keep")

    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        reader = session.iter_events(timeout=30)
        proxy.change(change, times=float("inf"))
        for number in range(8):
            assert session.send(f"m{number}", timeout=60).text == f"echo: m{number}"
        offsets = fake.offsets(session.id)
        assert [event.offset for event in take(session, len(offsets), reader)] == offsets
