"""What a request takes with it: its path, its body, its credentials."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from parlant_sync import errors, redaction
from parlant_sync.decoding import MAX_DEPTH, is_deep

if TYPE_CHECKING:
    from parlant_sync.interrupt import Slot
    from parlant_sync.settings import Settings


def segment(value: str, what: str) -> str:
    """``value`` as one path segment. Raises :class:`ConfigurationError` for what cannot be one."""
    if value in ("", ".", "..") or not hasattr(value, "encode"):
        raise errors.ConfigurationError(f"{what} must be a non-empty string that names one, not {value!r}")
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise errors.ConfigurationError(f"{what} holds characters that have no UTF-8: {value!r}") from None


def encode(body: Any) -> bytes:
    """Raises :class:`ConfigurationError` for what has no JSON, and for what nobody could read again."""
    try:
        # A lone surrogate has no UTF-8. Escaped, the server would store it, and from then on fail at every list of the
        # session: better refused here.
        data = json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise errors.ConfigurationError("what is to be posted holds a lone surrogate, which has no UTF-8") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.ConfigurationError(f"what is to be posted has no JSON: {error}") from None
    if is_deep(body, MAX_DEPTH - 10):  # it comes back in a list of events
        raise errors.ConfigurationError(f"what is to be posted is nested more than {MAX_DEPTH - 10} deep")
    return data


class Auth(AuthBase):
    """Authenticates one request, as the last thing before it goes: so it knows all that went along."""

    def __init__(self, settings: Settings, session: requests.Session, slot: Slot) -> None:
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
