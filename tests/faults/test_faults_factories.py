"""Sessions of the caller's own making: never two copies of a message there either, and a close that is at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from support.fault_backends import Backend, connected
from support.fault_sends import manual_session
from urllib3.util import Retry

from parlant_sync import Client, DeliveryUncertain, TransportError


class Wrapping(BaseAdapter):
    """Around another, as those that sign or measure are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = HTTPAdapter()

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        return self.inner.send(*args, **kwargs)

    def close(self) -> None:
        self.inner.close()


def plain(url: str) -> requests.Session:
    return requests.Session()


def wrapped(url: str) -> requests.Session:
    session = requests.Session()
    session.mount("http://", Wrapping())
    return session


def used_before(url: str) -> requests.Session:
    session = requests.Session()
    session.get(f"{url}/healthz", timeout=5)
    return session


def blocking(url: str) -> requests.Session:
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=1, pool_block=True))
    return session


def retrying(url: str) -> requests.Session:
    """The usual recipe of a "resilient session", for posts as well."""
    session = requests.Session()
    retries = Retry(total=3, backoff_factor=0.01, allowed_methods=None, status_forcelist=[502, 503, 504])
    session.mount("http://", HTTPAdapter(max_retries=retries))
    return session


KINDS = [plain, wrapped, used_before, blocking, retrying]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.usefixtures("quick_retries", "quick_looks")
def test_a_post_without_an_answer_is_made_once(make: Callable[[str], requests.Session], fake: Backend) -> None:
    with connected(fake, session_factory=lambda: make(fake.base_url), request_timeout=1) as (proxy, client):
        session = manual_session(fake, client)
        # Stored, and nobody may look whether it is.
        proxy.cut_answer(0, lambda e: e.kind == "post", times=float("inf"))
        proxy.cut_answer(0, lambda e: e.kind == "list", times=float("inf"))
        with pytest.raises(DeliveryUncertain):
            session.post("pay 100")
        assert len(fake.messages(session.id, "pay 100")) == 1


@pytest.mark.usefixtures("quick_retries")
def test_a_gateway_error_is_not_repeated_below_us(fake: Backend) -> None:
    assert fake.fake is not None
    with Client(fake.base_url, session_factory=lambda: retrying(fake.base_url)) as client:
        session = client.create_session("quick")
        fake.fake.fail_next("POST /events", 502, stored=True)
        assert session.send("pay 100", timeout=20).text == "echo: pay 100"
        assert len(fake.messages(session.id, "pay 100")) == 1


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.usefixtures("quick_retries")
def test_a_post_that_found_no_server_is_made_again(make: Callable[[str], requests.Session], fake: Backend) -> None:
    """As certain as with sessions of ours: there was no connection for a byte to go over."""
    with connected(fake, session_factory=lambda: make(fake.base_url), request_timeout=2) as (proxy, client):
        session = manual_session(fake, client)
        proxy.down()
        with pytest.raises(TransportError):
            session.post("first")
        proxy.up()
        session.post("second")
        assert [len(fake.messages(session.id, text)) for text in ("first", "second")] == [0, 1]


@pytest.mark.parametrize("make", [plain, used_before, blocking])
def test_their_polls_are_woken(make: Callable[[str], requests.Session], fake: Backend) -> None:
    assert fake.fake is not None
    with Client(fake.base_url, session_factory=lambda: make(fake.base_url)) as client:
        session = client.create_session("quick")
        fake.fake.wait_polls(1)
        started = time.monotonic()
        session.close()
        assert time.monotonic() - started < 1


def test_one_session_for_everything(fake: Backend) -> None:
    """Returned again and again: it works, and stays as it was."""
    shared = requests.Session()
    shared.mount("http://", HTTPAdapter(pool_maxsize=10))
    before = dict(shared.headers)
    with Client(fake.base_url, session_factory=lambda: shared) as client:
        for number in range(5):
            with client.create_session("quick") as session:
                assert session.send(f"{number}").text == f"echo: {number}"
    assert dict(shared.headers) == before
    assert shared.get(f"{fake.base_url}/healthz", timeout=5).ok
    shared.close()
