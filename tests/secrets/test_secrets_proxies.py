"""Proxies that are spoken to over TLS: whom they are trusted by, and that what goes through them can be ended."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from support.secret_proxy import TlsProxy
from support.secret_tls import Authority, authority
from support.waiting import Background

from parlant_sync import Client, SessionClosed, TransportError
from parlant_sync.testing import FakeServer


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return authority(tmp_path)


@pytest.mark.parametrize("by", ["verify", "environment"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_one_authority_is_good_for_both(scheme: str, by: str, tls: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "environment":
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.bundle)
    secure = tls.context() if scheme == "https" else None
    with FakeServer(ssl_context=secure) as server, TlsProxy(tls.context()) as proxy:
        server.agent("quick").echoes()
        verify: bool | str = tls.bundle if by == "verify" else True
        with Client(server.base_url, verify=verify, proxies={scheme: proxy.url}) as client:
            session = client.create_session("quick")
            assert session.send("hello", timeout=20).text == "echo: hello"
            server.wait_polls(1)
            started = time.monotonic()
            session.close()
            assert time.monotonic() - started < 1  # TLS inside of TLS is woken, too
        assert set(proxy.tunnels) == {server.base_url.partition("://")[2]}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_of_an_unknown_authority_is_refused(scheme: str, tls: Authority, other: Authority) -> None:
    with FakeServer(ssl_context=tls.context() if scheme == "https" else None) as server:
        with TlsProxy(other.context()) as proxy:
            with Client(server.base_url, verify=tls.bundle, proxies={scheme: proxy.url}) as client:
                started = time.monotonic()
                with pytest.raises(TransportError, match=f"certificate.*check the proxy {proxy.url}"):
                    client.agents()
                assert time.monotonic() - started < 5
            assert proxy.tunnels == []


def test_a_certificate_is_not_tried_again(tls: Authority, other: Authority) -> None:
    """Nothing heals it."""
    with FakeServer(ssl_context=other.context()) as server:
        with Client(server.base_url, verify=tls.bundle) as client:
            started = time.monotonic()
            with pytest.raises(TransportError, match="verify="):
                client.create_session("quick")
            assert time.monotonic() - started < 0.25  # less than the shortest pause


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_with_tls_inside_of_tls(tls: Authority) -> None:
    with FakeServer(ssl_context=tls.context()) as server, TlsProxy(tls.context()) as proxy:
        server.agent("quick").echoes()
        with Client(server.base_url, verify=tls.bundle, proxies={"https": proxy.url}) as client:
            session = client.create_session("quick")
            session.send("hello", timeout=20)
            server.wait_polls(1)
            pid = os.fork()
            if pid == 0:
                os._exit(7 if client.sessions else 0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert session.send("again", timeout=20).text == "echo: again"


def test_a_handshake_inside_of_tls_is_ended(tls: Authority) -> None:
    """The proxy has answered, the server says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as deaf, TlsProxy(tls.context()) as proxy:
        url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        client = Client(url, verify=tls.bundle, proxies={"https": proxy.url}, connect_timeout=60, request_timeout=60)
        asking = Background(client.agents)
        conn, _ = deaf.accept()
        assert conn.recv(1) == b"\x16"  # a handshake has begun
        client.close()
        assert isinstance(asking.error(5), SessionClosed)
        conn.close()
