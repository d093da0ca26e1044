"""The pools of ours and of callers' sessions, without a network."""

from __future__ import annotations

import contextlib
import io
import queue
import socket
import ssl
import threading
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.util import Retry

from parlant_sync._http import adapter, callers_session
from parlant_sync._http.adapter import Adapter, CookieJar, FreshPool
from parlant_sync._http.connection import RunningRequest, here

URL = "http://127.0.0.1:9/"


class Other(BaseAdapter):
    """A caller's own kind: talks in a way that nobody knows."""

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        raise AssertionError("nothing is sent here")

    def close(self) -> None: ...


def pool_of(session: requests.Session, **options: Any) -> Any:
    adapter: Any = session.get_adapter(URL)
    return adapter.get_connection_with_tls_context(requests.Request("GET", URL).prepare(), True, **options)


@pytest.mark.parametrize(("place", "wakeable"), [("http://", False), ("https://", True), ("http://other", True)])
def test_the_adapter_for_the_server_decides(place: str, wakeable: bool) -> None:
    with requests.Session() as session:
        session.mount(place, Other())
        assert callers_session.instrument(session, URL) is wakeable


def test_no_adapter_at_all() -> None:
    with requests.Session() as session:
        session.adapters.clear()
        assert callers_session.instrument(session, URL) is False


@pytest.mark.parametrize("proxies", [{}, {"http": "http://127.0.0.1:1"}], ids=["direct", "proxy"])
def test_a_session_that_has_been_used_is_taught(proxies: dict[str, str]) -> None:
    """Its pools from before would never tell what they send, nor could they be woken."""
    with requests.Session() as session:
        assert not isinstance(pool_of(session, proxies=proxies), FreshPool)
        assert callers_session.instrument(session, URL)
        pool = pool_of(session, proxies=proxies)
        assert isinstance(pool, FreshPool)
        assert callers_session.instrument(session, URL)
        assert pool_of(session, proxies=proxies) is pool  # once is enough: idle connections are not thrown away


def test_a_shared_session_is_not_altered() -> None:
    with requests.Session() as session:
        headers, proxies = dict(session.headers), dict(session.proxies)
        for _ in range(3):
            assert callers_session.adopt(session, URL, CookieJar())
        assert (dict(session.headers), dict(session.proxies)) == (headers, proxies)
        moved = requests.Response()
        moved.status_code, moved.headers["location"] = 302, "http://elsewhere.test/"
        assert session.get_redirect_target(moved) == "http://elsewhere.test/"
        with RunningRequest():
            assert session.get_redirect_target(moved) is None


@pytest.mark.parametrize("times", [1, 2])
def test_a_session_that_was_returned_twice_is_left_open(times: int) -> None:
    closed: list[bool] = []

    class Session(requests.Session):
        def close(self) -> None:
            closed.append(True)
            super().close()

    session = Session()
    for _ in range(times):
        callers_session.adopt(session, URL, CookieJar())
    adapter.close(session)
    assert len(closed) == (times == 1)


def test_idle_connections_are_closed_though_an_exception_holds_their_pool() -> None:
    """requests only forgets its pools, and counts on their being collected."""
    session = requests.Session()
    session.mount("http://", Adapter())
    kept: list[Exception] = []

    def fail() -> None:
        pool = pool_of(session)  # in a frame of the traceback
        left, right = socket.socketpair()
        right.close()
        connection = pool._get_conn()
        connection.sock = left
        pool._put_conn(connection)
        raise ConnectionError(left)

    try:
        fail()
    except ConnectionError as error:
        kept.append(error)
    adapter.close(session)
    (left,) = kept[0].args
    assert left.fileno() == -1


@pytest.mark.parametrize("ours", [True, False])
def test_retries_of_an_adapter_do_not_count_for_us(ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Retry] = []

    def urlopen(self: Any, **arguments: Any) -> Any:  # by name, as some instrumentations of OpenTelemetry need it
        given.append(arguments["retries"])
        raise OSError("no further")

    monkeypatch.setattr(urllib3.HTTPConnectionPool, "urlopen", urlopen)
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=Retry(5, allowed_methods=None, status_forcelist=[502])))
        callers_session.instrument(session, URL)
        with RunningRequest() if ours else contextlib.nullcontext(), pytest.raises(requests.ConnectionError):
            session.post(URL)
    assert [(retry.total, retry.read) for retry in given] == [(0, False) if ours else (5, None)]
    assert given[0].is_retry("POST", 502) is not ours


def test_the_idle_ones_have_no_lock_to_lose() -> None:
    with requests.Session() as session:
        callers_session.instrument(session, URL)
        idle = pool_of(session).pool
        assert not isinstance(idle, queue.Queue)
        assert not any(
            isinstance(value, (threading.Condition, type(threading.Lock()))) for value in vars(idle).values()
        )


def test_a_pool_that_blocks_waits_for_a_connection() -> None:
    """A caller's adapter with ``pool_block=True`` keeps urllib3's own queue."""
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(pool_block=True, pool_maxsize=1))
        callers_session.instrument(session, URL)
        pool = pool_of(session)
        taken = pool._get_conn()
        with pytest.raises(urllib3.exceptions.EmptyPoolError):
            pool._get_conn(timeout=0.01)
        pool._put_conn(taken)
        assert pool._get_conn(timeout=5) is taken


# -- cookies


def cookie(name: str, value: str = "v") -> Any:
    return requests.cookies.create_cookie(name, value, domain="h.test")


def test_cookies_are_bounded() -> None:
    jar = CookieJar()
    for number in range(10_000):
        jar.set_cookie(cookie(f"c{number}"))
    jar.set_cookie(cookie("large", "x" * 10_000))
    assert 0 < len(jar) <= adapter.MAX_COOKIES
    assert "c9999" in jar
    assert "large" not in jar


def test_cookies_are_for_many_threads() -> None:
    """requests reads the whole jar for each request, without its lock."""
    jar, failed, done = CookieJar(), list[BaseException](), threading.Event()

    def change() -> None:
        number = 0
        while not done.is_set():
            jar.set_cookie(cookie(f"c{number % 90}"))
            number += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            requests.cookies.merge_cookies(requests.cookies.RequestsCookieJar(), jar)
    except RuntimeError as error:
        failed.append(error)
    done.set()
    thread.join()
    assert not failed


def test_one_tls_context_for_all() -> None:
    server, proxy = ssl.create_default_context(), ssl.create_default_context()
    adapter = Adapter(server, proxy)
    request = requests.Request("GET", "https://h/").prepare()
    direct = adapter.get_connection_with_tls_context(request, True)._new_conn()
    adapter.close()
    through: Any = adapter.get_connection_with_tls_context(request, True, proxies={"https": "https://p:1"})._new_conn()
    for connection in (direct, through):
        assert connection.ssl_context is server
        assert connection.ca_certs is None
    assert through.proxy_config.ssl_context is proxy  # for its own handshake
    adapter.close()


def test_no_proxy_context_for_socks() -> None:
    """Only where one is given: other kinds of proxies do not know it."""
    adapter = Adapter(ssl.create_default_context())
    request = requests.Request("GET", "https://h/").prepare()
    pool: Any = adapter.get_connection_with_tls_context(request, True, proxies={"https": "http://p:1"})
    assert pool.proxy_config.ssl_context is None
    adapter.close()


def test_ours_are_taught_from_the_start() -> None:
    adapter = Adapter()
    request = requests.Request("GET", URL).prepare()
    for proxies in ({}, {"http": "http://127.0.0.1:1"}):
        assert isinstance(adapter.get_connection_with_tls_context(request, True, proxies=proxies), FreshPool)
        adapter.close()
    assert here.slot is None


@pytest.mark.parametrize(
    "more", [{}, {"Set-Cookie": "a=b"}, {"Content-Type": "text/plain"}], ids=["json", "cookie", "text"]
)
def test_an_answer_is_what_requests_makes_of_it(more: dict[str, str]) -> None:
    """Hooks and instrumentations see it. Only a JSON answer without cookies is made in the short way."""
    request = requests.Request("GET", URL).prepare()

    def answer(maker: HTTPAdapter) -> requests.Response:
        headers = {"Content-Type": "application/json", "X-Name": "x", **more}
        raw = urllib3.HTTPResponse(io.BytesIO(b'{"a": "\xc3\xa9"}'), headers, 200, reason="OK", preload_content=False)
        return maker.build_response(request, raw)

    ours, theirs = answer(Adapter()), answer(HTTPAdapter())
    assert (type(ours) is requests.Response) is bool(more)
    if not more:
        theirs.encoding = "utf-8"  # that of JSON; requests guesses
    for name in {*vars(theirs), "cookies", "ok", "content", "text", "links", "apparent_encoding"} - {
        "raw",
        "connection",
    }:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.json() == theirs.json()
    assert ours.headers["x-NAME"] == "x"


@pytest.mark.parametrize("params", [{"min_offset": 0, "wait_for_data": 60}, {"a": "ä &", "n": True}, {"l": ["x", 1]}])
def test_parameters_stand_in_the_address_as_requests_writes_them(params: dict[str, Any]) -> None:
    assert f"{URL}?{adapter._query(params)}" == requests.Request("GET", URL, params=params).prepare().url
