"""Servers that drop a message's metadata (3.0), and its key with it: text, source and offset must serve."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from support.fault_backends import Backend, connected, fake_backend
from support.fault_sends import SEED, cuts, lengths, manual_session, one_cut

from parlant_sync import DeliveryUncertain
from parlant_sync.testing import FakeServer


@pytest.fixture
def old() -> Iterator[Backend]:
    with FakeServer("3.0") as server:
        yield fake_backend(server)


@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_cut_at_a_sample_of_bytes_without_metadata(old: Backend) -> None:
    chance = random.Random(SEED + 1)
    with connected(old) as (proxy, client):
        session = manual_session(old, client)
        request, answer = lengths(proxy, session)
        for cut in chance.sample(list(cuts(request, answer)), 40):
            one_cut(old, proxy, session, cut)


@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_the_same_text_as_before_without_metadata(old: Backend) -> None:
    """An older message with the same text is not taken for the lost one; a stored one is found."""
    with connected(old) as (proxy, client):
        session = manual_session(old, client)
        for _ in range(2):
            session.post("yes")
        proxy.cut_request(250)
        with pytest.raises(DeliveryUncertain):
            session.post("yes")
        assert len(old.messages(session.id, "yes")) == 2
        proxy.cut_answer(0)
        event = session.post("yes")
        held = old.messages(session.id, "yes")
        assert len(held) == 3
        assert event.offset == held[-1]["offset"]


@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_the_same_text_not_yet_polled_without_metadata(old: Backend) -> None:
    """The poller is behind: the place it knows is below an older message of the same text."""
    with connected(old) as (proxy, client):
        session = manual_session(old, client)
        proxy.swallow("poll", times=float("inf"))  # the poller learns nothing
        proxy.cut_all()
        session.post("yes")
        proxy.cut_request(250)
        with pytest.raises(DeliveryUncertain):
            session.post("yes")
        assert len(old.messages(session.id, "yes")) == 1


@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_somebody_else_s_same_text_without_metadata(old: Backend) -> None:
    """Nobody can tell these apart; but never two copies, and never a third."""
    with connected(old) as (proxy, client):
        session = manual_session(old, client)
        old.say(session.id, "yes")
        proxy.cut_answer(0)
        session.post("yes")
        assert len(old.messages(session.id, "yes")) == 2
