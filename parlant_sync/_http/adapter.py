"""Our own ``requests`` session, its adapter and its connection pools. ``callers_session.py`` prepares a caller's."""

from __future__ import annotations

import datetime
import functools
import os
import queue
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar, get_cookie_header
from requests.models import PreparedRequest
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPHeaderDict

from parlant_sync._http.connection import PublishingConnection, here, publishing

MAX_COOKIES = 100
MAX_COOKIE = 4096
# Servers close idle connections after 4 to 5 s (WIRE.md); a request on one of those is lost without an answer.
REUSE_WITHIN = 2.0


class CookieJar(RequestsCookieJar):
    """The one jar of a client: a load balancer must send its polls and its posts to the same server. Thread-safe.

    Bounded, because a server may set as many cookies as it likes.
    """

    def set_cookie(self, cookie: Any, *args: Any, **kwargs: Any) -> None:
        if len(cookie.name) + len(cookie.value or "") > MAX_COOKIE:
            return
        if len(self) >= MAX_COOKIES:
            self.clear()
        super().set_cookie(cookie, *args, **kwargs)

    def extract_cookies(self, response: Any, request: Any) -> None:
        # To look for cookies where none is set is a twentieth of the work of a request.
        if response.info().get("Set-Cookie") is not None:
            super().extract_cookies(response, request)

    def __iter__(self) -> Iterator[Any]:
        with self._cookies_lock:
            return iter(list(super().__iter__()))


class Common:
    """What all sessions of our own share. Apart from the cookies not changed once the first request was made."""

    __slots__ = ("base_url", "cookies", "headers", "prepared", "proxies", "tls")

    def __init__(self, base_url: str, proxies: dict[str, str], tls: dict[str, Any]) -> None:
        self.base_url = base_url
        self.proxies = proxies
        self.tls = tls
        self.cookies = CookieJar()
        self.headers = requests.utils.default_headers()
        # By whichever session is first; a second that is as fast makes the same.
        self.prepared: PreparedRequest | None = None


class OwnSession(requests.Session):
    """A session of our own. All its requests go to one server, so most of each request is prepared only once.

    An idle session makes the same poll every minute. Preparing it is most of what that costs (docs/performance.md).
    """

    def __init__(self, adapter: Adapter, common: Common) -> None:
        super().__init__()
        # What the environment says of proxies and authorities has been read; netrc is never used.
        self.trust_env = False
        self.adapters.clear()
        self.mount(common.base_url.split(":", 1)[0] + "://", adapter)
        self.headers = common.headers
        self.proxies = common.proxies
        self.cookies = common.cookies
        self.verify, self.cert = common.tls["verify"], common.tls.get("cert")
        self._common = common

    def request(  # type: ignore[override]
        self, method: str, url: str, *, params: Any, data: Any, headers: Any, auth: Any, timeout: Any, **_: Any
    ) -> requests.Response:
        """Send what requests would send: checked and normalized the first time, copied from then on."""
        common = self._common
        steady = common.prepared
        if steady is None:
            # Checks the headers, and gives the address the form it has on the wire.
            steady = self.prepare_request(requests.Request("GET", common.base_url))
            steady.headers.pop("Cookie", None)
            steady.headers = _Headers(steady.headers)
            common.prepared = steady  # last, because other threads copy it from then on
        prepared = PreparedRequest()
        prepared.method = method
        # Behind the base everything is quoted already.
        prepared.url = str(steady.url).rstrip("/") + url[len(common.base_url) :]
        if params:
            prepared.url += "?" + _query(params)
        prepared.headers = steady.headers.copy()
        prepared._cookies = self.cookies
        if headers:
            prepared.headers.update(headers)
        if self.cookies._cookies:  # type: ignore[attr-defined]
            cookie = get_cookie_header(self.cookies, prepared)
            if cookie is not None:
                prepared.headers["Cookie"] = cookie
        if data:
            prepared.prepare_body(data, None)
        if auth is not None:  # asked each time: tokens rotate
            prepared.prepare_auth(auth, prepared.url)
        if here.slot is not None:
            here.slot.request = prepared
        return self.send(
            prepared,
            timeout=timeout,
            stream=True,
            proxies=self.proxies,
            verify=self.verify,
            cert=self.cert,
        )

    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:  # type: ignore[override]
        """None: redirects are refused. To find its target, requests would also read its body, however long."""
        return iter(())


def _query(params: Any) -> str:
    """The parameters as they stand in an address. Those of a poll are numbers, in which nothing needs quoting."""
    if all(type(value) is int for value in params.values()):
        return "&".join([f"{name}={value}" for name, value in params.items()])
    return urlencode(params, doseq=True)


class _Headers(CaseInsensitiveDict[Any]):
    """Headers that are copied for each request, here and by urllib3. requests would lower each name again."""

    def copy(self) -> _Headers:
        copied = _Headers.__new__(_Headers)
        copied._store = self._store.copy()
        return copied


class _JsonResponse(requests.Response):
    """What requests makes of an answer, if it is JSON and sets no cookies: without a jar and a copy of the headers."""

    def __init__(self, adapter: HTTPAdapter, request: Any, raw: Any) -> None:
        self._content = False
        self._content_consumed = False
        self._next = None
        self.status_code = raw.status
        self.headers = raw.headers
        self.encoding = "utf-8"
        self.raw = raw
        self.reason = raw.reason
        self.url = request.url
        self.history = []
        self.elapsed = datetime.timedelta(0)
        self.request = request
        self.connection = adapter

    @functools.cached_property
    def cookies(self) -> RequestsCookieJar:  # type: ignore[override]
        return RequestsCookieJar()


class Idle:
    """The idle connections of a pool, last in, first out, in place of urllib3's ``queue.LifoQueue``.

    Promise: an exception that a signal handler raises leaves the client usable. In ``Condition.__enter__`` it would
    leave the queue's lock taken for ever. Single operations on a list need no lock, and a forked child inherits none.
    If it is full, the connection that was idle for the longest time goes: urllib3 would close the newest one, and log a
    warning for each.

    A poller's connection is not among them: its ``RunningRequest`` keeps it. So all pollers share one session and one
    pool, which would be a tenth of what each takes in memory (docs/performance.md). It keeps that of one pool
    alone: inside of a poll, a caller's session may ask another server, for a token.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        slot = here.slot
        if slot is not None and slot.for_polls and item is not None and slot.pool in (None, self):
            slot.connection, slot.pool = item, self
            return
        self._items.append(item)
        if 0 < self._maxsize < len(self._items):
            oldest = self._items.pop(0)
            if oldest is not None:  # urllib3 fills a new pool with None
                oldest.close()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        slot = here.slot
        if slot is not None and slot.pool is self and slot.connection is not None:
            found, slot.connection = slot.connection, None
            return found
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._items)


class FreshPool:
    """Mixed into a urllib3 connection pool."""

    QueueCls: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("block"):  # a caller's adapter with pool_block=True waits for connections, and needs a queue
            self.QueueCls = Idle
        super().__init__(*args, **kwargs)

    @property
    def ConnectionCls(self) -> Any:  # noqa: N802
        """Looked up each time, because vcrpy and others replace it for a while."""
        given = self.__dict__.get("_connection_class")
        return publishing(super().ConnectionCls if given is None else given)  # type: ignore[misc]

    @ConnectionCls.setter
    def ConnectionCls(self, value: Any) -> None:  # noqa: N802
        self.__dict__["_connection_class"] = value

    def _get_conn(self, timeout: float | None = None) -> Any:
        """Promise: no request goes out on a connection that is idle for long, or that a parent process uses."""
        conn = super()._get_conn(timeout)  # type: ignore[misc]
        if not isinstance(conn, PublishingConnection):
            return conn
        slot = here.slot
        if slot is not None:
            slot.seen = True
        stale = conn.idle_since is not None and time.monotonic() - conn.idle_since > REUSE_WITHIN
        if stale or conn.pid != os.getpid():
            conn.close()  # closes the descriptor; the peer hears nothing while the parent has it open
        return conn

    def _put_conn(self, conn: Any) -> None:
        if isinstance(conn, PublishingConnection):
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]


@functools.lru_cache(maxsize=32)
def _mixed(mixin: Any, pool: Any) -> Any:
    return pool if issubclass(pool, FreshPool) else type(f"{mixin.__name__}{pool.__name__}", (mixin, pool), {})


def teach(manager: Any, mixin: Any = FreshPool) -> None:
    """Have the pools of a manager of urllib3 made with ``mixin``."""
    classes = manager.pool_classes_by_scheme
    if all(issubclass(pool, FreshPool) for pool in classes.values()):
        return
    manager.pool_classes_by_scheme = {scheme: _mixed(mixin, pool) for scheme, pool in classes.items()}
    manager.clear()  # those of a session that has been used already publish nothing


class Adapter(HTTPAdapter):
    """The adapter of our own sessions: publishes its sockets, and shares one TLS context. For one server."""

    def __init__(self, tls: Any = None, proxy_tls: Any = None, **kwargs: Any) -> None:
        self._tls = tls
        self._proxy_tls = proxy_tls
        self._pool: Any = None
        super().__init__(**kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._tls is not None:
            kwargs["ssl_context"] = self._tls
        super().init_poolmanager(*args, **kwargs)
        teach(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if self._tls is not None:
            kwargs["ssl_context"] = self._tls
        if self._proxy_tls is not None:
            kwargs["proxy_ssl_context"] = self._proxy_tls
        manager = super().proxy_manager_for(proxy, **kwargs)
        teach(manager)
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Promise: one TLS context for all. It has these already."""
        if self._tls is None:
            super().cert_verify(conn, url, verify, cert)

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        # One server, one way to it, one pool: requests would work out which one for each request.
        pool = self._pool
        if pool is None:
            pool = self._pool = super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
        return pool

    def request_url(self, request: Any, proxies: Any) -> str:
        # Without proxies there is nothing to work out.
        return super().request_url(request, proxies) if proxies else "/" + request.url.split("/", 3)[3]

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        headers: Any = getattr(resp, "headers", None)
        usual = isinstance(headers, HTTPHeaderDict) and headers.get("Content-Type") == "application/json"
        if usual and "Set-Cookie" not in headers:
            return _JsonResponse(self, req, resp)
        return super().build_response(req, resp)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Promise: one TLS context for all. Naming its certificates again would load them for every connection."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        return (host, {}) if self._tls is not None else (host, pool)

    def close(self) -> None:
        self._pool = None
        super().close()


def close(session: requests.Session) -> None:
    """Close a session with its idle connections. Its own ``close()`` only forgets the pools, which then live as long as
    one of their exceptions: a frame of its traceback holds the pool."""
    if getattr(session.get_redirect_target, "shared", False):
        return
    for adapter in session.adapters.values():
        for manager in (getattr(adapter, "poolmanager", None), *getattr(adapter, "proxy_manager", {}).values()):
            for pool in list(getattr(getattr(manager, "pools", None), "_container", {}).values()):
                pool.close()
    session.close()
