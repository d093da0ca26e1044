"""The send that may or may not have arrived: never two copies, and the outcome agrees with what the server holds."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.fault_backends import Backend, connected
from support.fault_sends import SEED, check, cuts, lengths, manual_session, one_cut, outcome_of, text_of

from parlant_sync import DeliveryUncertain, TransportError


@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_cut_at_a_sample_of_bytes(both: Backend) -> None:
    chance = random.Random(SEED)
    with connected(both) as (proxy, client):
        session = manual_session(both, client)
        request, answer = lengths(proxy, session)
        edges = [("request", at, True) for at in (0, 1, request - 1, request)]
        edges += [("answer", at, False) for at in (0, 1, answer - 1)]
        sample = chance.sample(list(cuts(request, answer)), 25)
        outcomes = {one_cut(both, proxy, session, cut) for cut in [*edges, *sample]}
    assert outcomes >= {"stored", "uncertain"}


@pytest.mark.full
@pytest.mark.real
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_cut_at_every_byte(real: Backend) -> None:
    with connected(real) as (proxy, client):
        sessions = [manual_session(real, client) for _ in range(12)]
        every = list(cuts(*lengths(proxy, sessions[0])))
        counts: dict[str, int] = {}
        lock = threading.Lock()

        def worker(number: int) -> None:
            for cut in every[number :: len(sessions)]:
                outcome = one_cut(real, proxy, sessions[number], cut)
                with lock:
                    counts[f"{cut[0]}: {outcome}"] = counts.get(f"{cut[0]}: {outcome}", 0) + 1

        with ThreadPoolExecutor(len(sessions)) as pool:
            for done in [pool.submit(worker, number) for number in range(len(sessions))]:
                done.result()
        assert sum(counts.values()) == len(every) > 1500
        assert counts.get("answer: uncertain", 0) == 0
        print(counts)


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("at", [0, 100])
def test_a_send_whose_answer_is_cut_has_its_reply(at: int, backend: Backend) -> None:
    with connected(backend) as (proxy, client):
        session = client.create_session("quick")
        proxy.cut_answer(at)
        assert session.send("once", timeout=30).text == "echo: once"
        assert len(backend.messages(session.id, "once")) == 1


@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_uncertain_says_how_to_find_out(backend: Backend) -> None:
    with connected(backend) as (proxy, client):
        session = client.create_session("quick")
        proxy.cut_request(300)
        with pytest.raises(DeliveryUncertain) as caught:
            session.send("lost", timeout=10, key="my-key")
        assert caught.value.key == "my-key"
        assert "my-key" in str(caught.value)
        assert session.find("my-key") is None
        assert session.send("next", timeout=30).text == "echo: next"


@pytest.mark.usefixtures("quick_retries")
def test_the_look_itself_is_cut(backend: Backend) -> None:
    """The trouble that hid the answer hides the list as well, for a while."""
    with connected(backend) as (proxy, client):
        session = manual_session(backend, client)
        proxy.cut_answer(0)
        looks = proxy.cut_answer(10, "list", times=3)
        text = text_of("hidden")
        assert outcome_of(session, text) == "stored"
        assert len(looks.wait()) == 3
        assert len(backend.messages(session.id, text)) == 1


@pytest.mark.usefixtures("quick_retries")
def test_the_server_is_gone_after_it_stored(backend: Backend) -> None:
    """Gone until long after the time is up: uncertain, and ``find()`` tells later."""
    with connected(backend, request_timeout=1) as (proxy, client):
        session = manual_session(backend, client)
        text = text_of("gone")

        def go_down(exchange: Any) -> bool:
            return exchange.kind == "post"

        order = proxy.change(lambda _: (b"", "reset"), go_down)
        proxy.answer(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "list", times=float("inf"))
        with pytest.raises(DeliveryUncertain) as caught:
            session.post(text)
        order.wait()
        proxy.clear()
        found = session.find(caught.value.key)
        assert found is not None
        assert found.message == text
        assert len(backend.messages(session.id, text)) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_a_proxy_s_gateway_errors(status: int, stored: bool, backend: Backend) -> None:
    answer = b"HTTP/1.1 %d Bad\r\nContent-Length: 0\r\n\r\n" % status
    with connected(backend) as (proxy, client):
        session = manual_session(backend, client)
        if stored:
            proxy.change(lambda _: (answer, "keep"), "post")
        else:
            proxy.answer(answer, "post")
        text = text_of("gateway")
        outcome = outcome_of(session, text)
        assert outcome == ("stored" if stored else "uncertain")
        check(backend, session, text, outcome, f"{status} stored={stored}")


@pytest.mark.usefixtures("quick_retries")
def test_stored_and_never_answered(both: Backend) -> None:
    """WIRE.md: the POST times out, the event is stored."""
    with connected(both, request_timeout=1) as (proxy, client):
        session = client.create_session("quick")
        proxy.swallow()
        assert session.send("no answer", timeout=30).text == "echo: no answer"
        assert len(both.messages(session.id, "no answer")) == 1
        proxy.swallow()
        event = session.post("none again")
        assert event.message == "none again"


@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_never_stored_and_never_answered(fake: Backend) -> None:
    with connected(fake, request_timeout=0.5) as (proxy, client):
        session = client.create_session("quick")
        proxy.answer(b"", "post", then="hang")
        started = time.monotonic()
        with pytest.raises(DeliveryUncertain):
            session.send("nowhere", timeout=20)
        assert time.monotonic() - started < 5
        assert fake.messages(session.id, "nowhere") == []


@pytest.mark.usefixtures("quick_retries")
def test_no_connection_is_no_uncertainty(fake: Backend) -> None:
    """Nothing was sent: tried again within the time, and a TransportError at its end."""
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        proxy.down()
        with pytest.raises(TransportError):
            session.send("no way", timeout=0.5)
        threading.Thread(target=proxy.up).start()
        assert session.send("a way", timeout=30).text == "echo: a way"
        assert fake.messages(session.id, "no way") == []


@pytest.mark.usefixtures("quick_retries")
def test_two_that_are_alike_are_told_apart_by_their_keys(backend: Backend) -> None:
    with connected(backend) as (proxy, client):
        session = manual_session(backend, client)
        first = session.post("same", key="k1")
        proxy.cut_answer(0)
        second = session.post("same", key="k2")
        assert second.offset > first.offset
        assert len(backend.messages(session.id, "same")) == 2
