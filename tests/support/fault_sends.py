"""Posts whose connection is cut at a given byte, and what must be true afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from parlant_sync import Client, DeliveryUncertain, Session, TransportError
from support.fault_backends import Backend
from support.fault_proxy import FaultProxy

_numbers = itertools.count(1)
SEED = 20261


def outcome_of(session: Session, text: str) -> str:
    try:
        session.post(text)
    except DeliveryUncertain as error:
        return "uncertain" if error.key and error.session_id == session.id else "uncertain of what?"
    except TransportError:
        return "no answer"
    return "stored"


def check(backend: Backend, session: Session, text: str, outcome: str, what: str) -> None:
    """Never two copies; a result where it was stored; TransportError only where it was not."""
    held = len(backend.messages(session.id, text))
    assert held <= 1, f"{what}: {held} copies"
    if outcome == "stored":
        assert held == 1, f"{what}: a result, but the server holds nothing"
    else:
        assert held == 0, f"{what}: {outcome}, but the server holds it"


def manual_session(backend: Backend, client: Client) -> Session:
    """No turns: what is tested is the post alone, and a post never waits behind a turn."""
    session = client.create_session("quick")
    session.update(mode="manual")
    return session


def lengths(proxy: FaultProxy, session: Session) -> tuple[int, int]:
    """Of the request and of the answer of a post."""
    session.post(text_of("x"))
    last = proxy.of("post")[-1]
    return len(last.request), len(last.answer)


def text_of(what: str) -> str:
    return f"{what:.<40}{next(_numbers):08d}"


def cuts(request: int, answer: int) -> Iterator[tuple[str, int, bool]]:
    for reset in (True, False):
        yield from (("request", at, reset) for at in range(request + 1))
        yield from (("answer", at, reset) for at in range(answer))


def one_cut(backend: Backend, proxy: FaultProxy, session: Session, cut: tuple[str, int, bool]) -> str:
    side, at, reset = cut
    text = text_of(f"{side} {at} {'reset' if reset else 'end'}")

    def ours(exchange: Any) -> bool:
        return exchange.kind == "post" and session.id in exchange.path

    order = (proxy.cut_request if side == "request" else proxy.cut_answer)(at, ours, reset=reset)
    outcome = outcome_of(session, text)
    order.wait()
    check(backend, session, text, outcome, f"{side} cut at {at}, reset={reset}")
    return outcome
