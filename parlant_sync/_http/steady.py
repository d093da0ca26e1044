"""The ``requests.Session`` of our own: all its requests go to one server, so what never changes is prepared once.

A long poll that nobody answers is the same request every minute, from each of a thousand sessions. ``requests`` makes
it from nothing each time, and that is most of what such a poll costs.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import requests
from requests.adapters import BaseAdapter
from requests.models import PreparedRequest


class Common:
    """What all sessions with one server share. Not changed once the first request was made."""

    __slots__ = ("base_url", "headers", "prepared", "proxies")

    def __init__(self, base_url: str, proxies: dict[str, str]) -> None:
        self.base_url = base_url
        self.proxies = proxies
        self.headers = requests.utils.default_headers()
        # By whichever session is first; a second that is as fast makes the same.
        self.prepared: PreparedRequest | None = None


class SteadySession(requests.Session):
    """For one server."""

    def __init__(self, adapter: BaseAdapter, common: Common) -> None:
        super().__init__()
        # What the environment says of proxies and authorities has been read; netrc is never used.
        self.trust_env = False
        self.adapters.clear()
        self.mount(common.base_url.split(":", 1)[0] + "://", adapter)
        self.headers = common.headers
        self.proxies = common.proxies
        self._common = common

    def prepare_request(self, request: requests.Request) -> PreparedRequest:
        """The same as requests would make: checked and normalized the first time, copied from then on."""
        common = self._common
        steady = common.prepared
        if steady is None:
            # Checks the headers, and gives the address the form it has on the wire.
            steady = common.prepared = super().prepare_request(
                requests.Request("GET", common.base_url, auth=_unchanged)
            )
        if self.cookies:  # of a proxy that keeps each of its clients at one server
            return super().prepare_request(request)
        url = str(request.url)
        prepared = PreparedRequest()
        prepared.method = request.method
        # Behind the base everything is quoted already.
        prepared.url = str(steady.url).rstrip("/") + url[len(common.base_url) :]
        if request.params:
            prepared.url += "?" + urlencode(request.params, doseq=True)  # type: ignore[arg-type]
        prepared.headers = steady.headers.copy()
        prepared._cookies = self.cookies
        prepared.headers.update(request.headers or {})
        if request.data:
            prepared.prepare_body(request.data, None)
        elif request.method != "GET":
            prepared.headers["Content-Length"] = "0"
        # Asked each time: tokens rotate.
        prepared.prepare_auth(request.auth, prepared.url)
        return prepared

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Redirects are refused; asked for their target, requests would also read their body, however long."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> dict[str, Any]:
        return {"proxies": self.proxies, "stream": stream, "verify": verify, "cert": cert}


def _unchanged(request: PreparedRequest) -> PreparedRequest:
    return request
