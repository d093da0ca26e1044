"""The ``requests`` sessions of a caller's ``session_factory``: made to publish their sockets, and else left alone."""

from __future__ import annotations

from typing import Any

import requests
from urllib3.util import Retry

from parlant_sync._http.adapter import Adapter, CookieJar, FreshPool, teach
from parlant_sync._http.connection import here

# What requests passes on by default. A caller's adapter with other retries would post again below us, and have two
# copies of a message stored; and nothing could cut the pauses in between short.
_ONCE = Retry(0, read=False)


class PostingOncePool(FreshPool):
    def urlopen(self, *args: Any, **kwargs: Any) -> Any:
        """Promise: one call posts a message at most once. Arguments go on as they came: some instrumentations (of
        OpenTelemetry) take only keywords."""
        if here.slot is not None and len(args) < 5:
            kwargs["retries"] = _ONCE
        return super().urlopen(*args, **kwargs)  # type: ignore[misc]


class _OurRedirects:
    """In the place of a caller's session's ``get_redirect_target``: none for our requests, all for the caller's own.

    Redirects are refused; asked for their target, requests would also read their body, however long.
    """

    def __init__(self, given: Any) -> None:
        self._given = given
        self.shared = False

    def __call__(self, resp: requests.Response) -> Any:
        return None if here.slot is not None else self._given(resp)


def adopt(session: requests.Session, url: str, cookies: CookieJar) -> bool:
    """Prepare a session that a caller's factory has returned; True if its requests to ``url`` can be woken.

    Its cookies are shared with the client's other sessions; nothing else of it is altered. A session that the factory
    returns again is shared, and stays the caller's to close.
    """
    redirects: Any = session.get_redirect_target
    if isinstance(redirects, _OurRedirects):
        redirects.shared = True
    else:
        session.get_redirect_target = _OurRedirects(redirects)  # type: ignore[method-assign]
    if session.cookies is not cookies:
        cookies.update(session.cookies)
        session.cookies = cookies
    return instrument(session, url)


def instrument(session: requests.Session, url: str) -> bool:
    """Make the adapters of a caller's own session publish their sockets; True if the one for ``url`` can."""
    for adapter in session.adapters.values():
        manager = getattr(adapter, "poolmanager", None)
        if hasattr(manager, "pool_classes_by_scheme"):
            teach(manager, PostingOncePool)
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
            teach(manager, PostingOncePool)

    def proxy_manager_for(proxy: str, **kwargs: Any) -> Any:
        manager = original(proxy, **kwargs)
        if hasattr(manager, "pool_classes_by_scheme"):
            teach(manager, PostingOncePool)
        return manager

    proxy_manager_for.publishes = True  # type: ignore[attr-defined]
    adapter.proxy_manager_for = proxy_manager_for
