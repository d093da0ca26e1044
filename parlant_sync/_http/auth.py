"""Puts the credentials on each request, and knows afterwards which secrets travelled with it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from parlant_sync._http import redaction

if TYPE_CHECKING:
    from parlant_sync._http.interrupt import RunningRequest
    from parlant_sync._settings import Settings


class Auth(AuthBase):
    """Authenticates one request, as the last thing before it goes: so it knows all that went along."""

    def __init__(self, settings: Settings, session: requests.Session, slot: RunningRequest) -> None:
        auth = settings.request_auth(session)
        self._auth = auth if callable(auth) else HTTPBasicAuth(*auth)
        self._slot = slot
        self._headers: Mapping[str, str | bytes] = {}

    def __call__(self, request: Any) -> Any:
        try:
            request = self._auth(request)
        except BaseException:
            self._slot.seen = True  # it may ask a server itself, and fail at that: of our request nothing has gone
            raise
        self._headers = request.headers
        return request

    def secrets(self, proxy: str | None) -> list[str]:
        """Whatever may be secret of what went to the server, and to ``proxy`` on the way."""
        return redaction.secrets_of({**self._headers, **_credentials(proxy or "")})


def _credentials(proxy: str) -> dict[str, str]:
    try:
        user, password = requests.utils.get_auth_from_url(proxy)
        written = urlsplit(proxy).password or ""
    except ValueError:
        return {}
    if not password:
        return {}
    basic = b64encode(f"{user}:{password}".encode("latin-1", "replace")).decode()
    return {"Proxy-Authorization": f"Basic {basic}", "Proxy-Secret": password, "Proxy-Secret-Written": written}
