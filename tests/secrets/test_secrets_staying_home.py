"""Redirects are refused, netrc is not read, TLS is verified, ids are quoted, base_url is checked."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from support.secret_tls import Authority

from parlant_sync import ApiError, Client, ConfigurationError, NotFoundError, TransportError
from parlant_sync.testing import FakeServer, Response


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_refused(status: int, server: FakeServer) -> None:
    with FakeServer() as thief:
        thief.agent("quick").echoes()

        def away(_: Response) -> Response:
            return Response(status, b"", {"location": f"{thief.base_url}/sessions"})

        with Client(server.base_url, token="secret-token", request_timeout=1) as client:
            session = client.session(server.create_session("quick"))
            session.iter_events().close()  # it polls from here on
            server.alter_next("/", away, times=None)
            calls: list[Any] = [client.agents, lambda: session.send("x", timeout=2), session.history, session.refresh]
            calls += [lambda: client.create_session("quick"), lambda: session.update(title="x")]
            for call in calls:
                with pytest.raises(ApiError, match="redirects are refused") as caught:
                    call()
                assert caught.value.status == status
            server.cut_connections()
            server.wait_requests(lambda r: r.waits, 2)
        assert thief.requests == []


@pytest.mark.parametrize("factory", [None, requests.Session], ids=["ours", "a-session-factory"])
def test_netrc_is_not_read(factory: Any, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login thief password hunter2\ndefault login thief password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth(server.base_url), "requests would not read it: this tests nothing"
    with Client(server.base_url, session_factory=factory) as client:
        assert client.create_session("quick").send("hello", timeout=20).text == "echo: hello"
        server.wait_polls(1)
    assert len(server.requests) >= 3
    assert not any("authorization" in request.headers for request in server.requests)


# -- TLS


def test_an_unknown_authority_is_refused(tls: Authority) -> None:
    with FakeServer(ssl_context=tls.context()) as server:
        server.agent("quick").echoes()
        with Client(server.base_url, token="secret") as client:
            with pytest.raises(TransportError, match=r"(?i)certificate"):
                client.agents()
        assert server.requests == []


def test_another_host_s_certificate_is_refused(tls: Authority) -> None:
    with FakeServer(ssl_context=tls.context("other.example")) as server:
        with Client(server.base_url, token="secret", verify=tls.bundle) as client:
            with pytest.raises(TransportError, match=r"(?i)certificate|match"):
                client.agents()
        assert server.requests == []


@pytest.mark.parametrize("by", ["verify", "environment"])
def test_a_given_authority_is_trusted(by: str, tls: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    with FakeServer(ssl_context=tls.context()) as server:
        server.agent("quick").echoes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Client(server.base_url, verify=tls.bundle if by == "verify" else True) as client:
                session = client.create_session("quick")
                assert session.send("hello", timeout=20).text == "echo: hello"
                server.wait_polls(1)
                started = time.monotonic()
                client.close()
                assert time.monotonic() - started < 0.5  # a poll over TLS is woken, too


@pytest.mark.parametrize("factory", [None, requests.Session], ids=["ours", "a-session-factory"])
def test_verify_false_works_and_warns(factory: Any, tls: Authority) -> None:
    with FakeServer(ssl_context=tls.context("other.example")) as server:
        server.agent("quick").echoes()
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            with Client(server.base_url, verify=False, session_factory=factory) as client:
                assert client.create_session("quick").send("hello", timeout=20).text == "echo: hello"


def test_a_server_that_speaks_no_tls(server: FakeServer) -> None:
    with Client(
        server.base_url.replace("http:", "https:"), token="secret", connect_timeout=1, request_timeout=1
    ) as client:
        with pytest.raises(TransportError):
            client.agents()
    assert server.requests == []


@pytest.mark.parametrize("verify", ["/no/such/bundle.pem", __file__])
def test_a_bundle_that_is_none(verify: str) -> None:
    with pytest.raises(ConfigurationError, match="verify"):
        Client("https://127.0.0.1:9", verify=verify)


# -- paths

HOSTILE = ["../agents", "a/b", "x?min_offset=7", "x#y", "a b", "a\nb", "a\r\nHost: evil", "%2e%2e", "..%2f", "é"]
HOSTILE += ["\\..\\", ";a=b", "a\x00b", "😀", "//evil.example/x", "@evil", "..."]


@pytest.mark.parametrize("name", HOSTILE)
def test_ids_are_quoted_into_paths(name: str, server: FakeServer) -> None:
    with Client(server.base_url) as client:
        for call in (client.session, client.agent, client.delete_session):
            with pytest.raises(NotFoundError):
                call(name)
        with pytest.raises(NotFoundError):
            client.create_session(name)
    for request in server.requests:
        parts = request.target.split("?")[0].split("/")
        assert len(parts) <= 3, request.target  # ["", "sessions", id]
        assert request.path in (f"/sessions/{name}", f"/agents/{name}", "/sessions")
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert not request.query or request.path == "/sessions"


@pytest.mark.parametrize("name", ["", ".", "..", None, 7, b"x", "\ud800"])
def test_ids_that_are_none(name: Any, server: FakeServer) -> None:
    with Client(server.base_url) as client:
        for call in (client.session, client.agent, client.delete_session, client.create_session):
            with pytest.raises(ConfigurationError):
                call(name)
    assert server.requests == []


GOOD_URLS = {
    "http://h": "http://h",
    "https://h:8443/": "https://h:8443",
    "http://[::1]:8800": "http://[::1]:8800",
    "http://h/a/b/": "http://h/a/b",
    "HTTPS://h:1/Path": "https://h:1/Path",
    "HTTP://h": None,
}
BAD_URLS: list[Any] = [
    "h",
    "h:8800",
    "//h",
    "ftp://h",
    "file:///etc/passwd",
    "http://",
    "http:///x",
    "http://u@h",
    "http://u:p@h",
    "http://:p@h",
]
BAD_URLS += [
    "http://h?x",
    "http://h?",
    "http://h#f",
    "http://h#",
    "http://h:0",
    "http://h:99999",
    "http://h:x",
    "http://h/../x",
]
BAD_URLS += [
    "http://h/./x",
    "http://h\n",
    "http://h\r\nX: y",
    "http://h\t",
    " http://h",
    "http://h ",
    "http://h\x00",
    "http://h\\x",
]
BAD_URLS += ["http://h/\x7f", "http://[::1", 7, b"http://h", "http://h/a b", "http://h\\@evil"]
BAD_URLS += ["http://h/\u0085", "http://h/\u2028", "http://h/\u200b"]
BAD_URLS += ["http://user:pa55word@h", "http://admin:pa55word/x@host", "http://admin:pa55#word@host:8800"]
BAD_URLS += ["http://us:pa55word@ho\u2100st/", "http://pa55word:pa55word", b"http://admin:pa55word@host"]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_base_urls_that_are_taken(url: str) -> None:
    with Client(url) as client:
        assert client.base_url == (GOOD_URLS[url] or client.base_url)


@pytest.mark.parametrize("url", BAD_URLS)
def test_base_urls_that_are_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError, match="base_url") as error:
        Client(url)
    assert "pa55" not in str(error.value)


def test_a_path_prefix_is_kept() -> None:
    with FakeServer(prefix="/parlant") as server:
        server.agent("quick").echoes()
        with Client(server.base_url + "/") as client:
            assert client.create_session("quick").send("hello").text == "echo: hello"
