"""The connection pools of ``requests`` sessions, ours and the callers' own: taught to publish, closed, dropped."""

from __future__ import annotations

import functools
import queue
import socket
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from parlant_sync._http import interrupt
from parlant_sync._http.connection import FreshPool, PublishingConnection


@functools.lru_cache(maxsize=32)
def _publishing(pool_class: Any) -> Any:
    connection = pool_class.ConnectionCls
    publishing = type(f"Publishing{connection.__name__}", (PublishingConnection, connection), {})
    return type(f"Publishing{pool_class.__name__}", (FreshPool, pool_class), {"ConnectionCls": publishing})


def _teach(manager: Any) -> None:
    classes = manager.pool_classes_by_scheme
    if all(issubclass(pool, FreshPool) for pool in classes.values()):
        return
    manager.pool_classes_by_scheme = {
        scheme: pool if issubclass(pool, FreshPool) else _publishing(pool) for scheme, pool in classes.items()
    }
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
        _teach(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if self._tls is not None:
            kwargs["ssl_context"] = self._tls
        if self._proxy_tls is not None:
            kwargs["proxy_ssl_context"] = self._proxy_tls
        manager = super().proxy_manager_for(proxy, **kwargs)
        _teach(manager)
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        if self._tls is None:
            super().cert_verify(conn, url, verify, cert)

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        # One server, one way to it, one pool: requests would work out which one for each request.
        pool = self._pool
        if pool is None:
            pool = self._pool = super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
        return pool

    def close(self) -> None:
        self._pool = None
        super().close()

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        # The context holds certificates and keys; naming them again would load them for every connection.
        return (host, {}) if self._tls is not None else (host, pool)


class _OurRedirects:
    """In the place of a caller's session's ``get_redirect_target``: none for our requests, all for the caller's own.

    Redirects are refused; asked for their target, requests would also read their body, however long.
    """

    def __init__(self, given: Any) -> None:
        self._given = given
        self.shared = False

    def __call__(self, resp: requests.Response) -> Any:
        return None if interrupt.current() is not None else self._given(resp)


def adopt(session: requests.Session, url: str) -> bool:
    """Prepare a session that a caller's factory has returned; True where its requests to ``url`` can be woken.

    Nothing else of it is altered: it may be in the caller's own use as well. One that is returned again is shared, and
    stays the caller's to close.
    """
    redirects: Any = session.get_redirect_target
    if isinstance(redirects, _OurRedirects):
        redirects.shared = True
    else:
        session.get_redirect_target = _OurRedirects(redirects)  # type: ignore[method-assign]
    return instrument(session, url)


def instrument(session: requests.Session, url: str) -> bool:
    """Make the adapters of a caller's own session publish their sockets; True where the one for ``url`` can."""
    for adapter in session.adapters.values():
        manager = getattr(adapter, "poolmanager", None)
        if hasattr(manager, "pool_classes_by_scheme"):
            _teach(manager)
            if not isinstance(adapter, Adapter):
                _teach_proxies(adapter)
    try:
        answering = session.get_adapter(url)
    except requests.exceptions.InvalidSchema:
        return False
    return hasattr(getattr(answering, "poolmanager", None), "pool_classes_by_scheme")


def _teach_proxies(adapter: Any) -> None:
    original = adapter.proxy_manager_for
    if getattr(original, "publishes", False):
        return
    for manager in getattr(adapter, "proxy_manager", {}).values():
        if hasattr(manager, "pool_classes_by_scheme"):
            _teach(manager)

    def proxy_manager_for(proxy: str, **kwargs: Any) -> Any:
        manager = original(proxy, **kwargs)
        if hasattr(manager, "pool_classes_by_scheme"):
            _teach(manager)
        return manager

    proxy_manager_for.publishes = True  # type: ignore[attr-defined]
    adapter.proxy_manager_for = proxy_manager_for


def _pools(session: requests.Session) -> Iterator[Any]:
    for adapter in session.adapters.values():
        for manager in (getattr(adapter, "poolmanager", None), *getattr(adapter, "proxy_manager", {}).values()):
            yield from list(getattr(getattr(manager, "pools", None), "_container", {}).values())


def close(session: requests.Session) -> None:
    """Close a session with its idle connections. Its own ``close()`` only forgets the pools, which then live as long as
    anybody holds an exception of theirs: a frame of its traceback holds the pool."""
    if getattr(session.get_redirect_target, "shared", False):
        return
    for pool in _pools(session):
        pool.close()
    session.close()


def drop_inherited(session: requests.Session) -> None:
    """In a forked child: let go of idle connections of the parent, taking none of their locks."""
    for pool in _pools(session):
        idle = getattr(pool, "pool", None)
        if not isinstance(pool, FreshPool) or idle is None:
            continue
        try:
            while True:
                sock = interrupt.real(getattr(idle.get(block=False), "sock", None))
                if sock is not None:
                    socket.socket.close(sock)
        except queue.Empty:
            pass
