"""Real nginx before the server: a rolling restart, sticky cookies, a body that is too long, a cache of failures."""

from __future__ import annotations

import grp
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from socket import create_server

import pytest
from support.waiting import wait_until

from parlant_sync import ApiError, Client, Session
from parlant_sync.testing import FakeServer

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")

_CONFIG = """
{user} worker_processes 2; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 8k;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; proxy_cache_path {folder}/c keys_zone=kept:1m;
  split_clients $request_id $any {{ 50% 0; * 1; }}
  map $cookie_route $route {{ "" $any; default $cookie_route; }}
  map $route $place {{ 0 {first}; 1 {last}; }}
  server {{
    listen 127.0.0.1:{port};
    location = /up {{ return 204; }}
    location / {{ {location} }}
  }}
}}
"""
_PASS = """proxy_pass http://$place; proxy_http_version 1.1; proxy_set_header Connection "";
add_header Set-Cookie "route=$route" always;"""

# As a CDN does it, whatever the request says of caching.
_CACHE = (
    _PASS
    + """proxy_cache kept; proxy_cache_valid 500 502 503 504 10s;
add_header X-Cache $upstream_cache_status always;"""
)


class Nginx:
    """In front of one server or two, which it chooses at random for who has no cookie yet."""

    def __init__(self, folder: Path, *servers: FakeServer) -> None:
        self._folder = folder
        self._places = [server.base_url.removeprefix("http://") for server in servers]
        with closing(create_server(("127.0.0.1", 0))) as listener:
            self._port = listener.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self._port}"
        self._write(_PASS)
        self._process = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")])

    def _write(self, location: str) -> None:
        # Started by root, its workers would run as somebody who may not write into the folder.
        user = f"user root {grp.getgrgid(0).gr_name};" if os.geteuid() == 0 else ""
        text = _CONFIG.format(
            user=user,
            folder=self._folder,
            port=self._port,
            first=self._places[0],
            last=self._places[-1],
            location=location,
        )
        (self._folder / "nginx.conf").write_text(text)

    def reload(self, location: str = _PASS) -> None:
        self._write(location)
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def cached(self, path: str) -> str | None:
        """What its cache says of this address (MISS, HIT, ...), asked now; None if it has no cache."""
        try:
            with urllib.request.urlopen(self.base_url + path, timeout=5) as answer:
                return str(answer.headers["X-Cache"]) if "X-Cache" in answer.headers else None
        except urllib.error.HTTPError as error:
            with error:
                return str(error.headers["X-Cache"])

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.base_url}/up", timeout=5) as answer:
                return bool(answer.status == 204)
        except OSError:
            return False


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    with ExitStack() as stack:
        found = [stack.enter_context(FakeServer()) for _ in range(2)]
        for server in found:
            server.agent("quick").echoes()
        yield found


@pytest.fixture
def nginx(tmp_path: Path, servers: list[FakeServer]) -> Iterator[Nginx]:
    made = Nginx(tmp_path, servers[0])
    try:
        wait_until(made.is_up)
        yield made
    finally:
        made.stop()


@pytest.mark.usefixtures("quick_retries")
def test_a_rolling_restart_ends_no_session(nginx: Nginx, servers: list[FakeServer]) -> None:
    with Client(nginx.base_url) as client:
        sessions = [client.create_session("quick") for _ in range(3)]
        for session in sessions:
            assert session.send("before", timeout=20).text == "echo: before"
        # The server is replaced: nginx answers 502, with a page of its own.
        servers[0].stop()
        wait_until(lambda: all("502" in (session.health.last_error or "") for session in sessions))
        # Then, for a moment, a default backend answers for everything.
        nginx.reload("return 404 'default backend - 404';")
        wait_until(lambda: all("404" in (session.health.last_error or "") for session in sessions))
        assert len(client.sessions) == 3
        servers[0].restart(keep=True)
        nginx.reload()
        wait_until(lambda: all(not session.health.consecutive_failures for session in sessions))
        for session in sessions:
            assert session.send("after", timeout=20).text == "echo: after"
            assert [event.offset for event in session.iter_events(timeout=0)] == offsets(session)


def test_sticky_cookies(tmp_path: Path, servers: list[FakeServer]) -> None:
    nginx = Nginx(tmp_path, *servers)
    try:
        wait_until(nginx.is_up)
        for number in range(10):
            with Client(nginx.base_url, request_timeout=5) as client:
                assert (
                    client.create_session("quick").send(f"hello {number}", timeout=20).text == f"echo: hello {number}"
                )
        assert all(server.requests for server in servers)  # both had visitors
    finally:
        nginx.stop()


def test_a_body_that_nginx_refuses(nginx: Nginx, servers: list[FakeServer]) -> None:
    with Client(nginx.base_url) as client:
        session = client.create_session("quick")
        with pytest.raises(ApiError) as caught:
            session.send("x" * 20_000)
        assert (caught.value.status, caught.value.from_parlant) == (413, False)
        assert session.send("short", timeout=20).text == "echo: short"


def test_a_cache_that_keeps_failures_for_ten_seconds(nginx: Nginx, servers: list[FakeServer]) -> None:
    nginx.reload(_CACHE)
    wait_until(lambda: nginx.cached("/agents") is not None)
    server = servers[0]
    with Client(nginx.base_url) as client:
        session = client.create_session("quick")
        assert session.send("before", timeout=20).text == "echo: before"

        server.fail_next("GET /agents", 503, b"busy")
        wait_until(lambda: nginx.cached("/agents") == "HIT")  # the failure
        assert [agent.id for agent in client.agents()] == ["quick"]

        started = time.monotonic()
        server.wait_polls(1)
        server.fail_next("GET /events", 503, b"busy")  # the next poll
        assert session.send("after", timeout=20).text == "echo: after"
        assert "503" in str(session.health.last_error)
        server.fail_next("GET /events", 503, b"busy")
        assert offsets(session) == [event.offset for event in session.iter_events(since="beginning", timeout=0)]
        assert time.monotonic() - started < 8


def offsets(session: Session) -> list[int]:
    return [event.offset for event in session.history()]
