"""What a client was told: arguments and environment, checked once, so that a mistake is one clear line at once."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from parlant_sync import checks
from parlant_sync.deadline import seconds
from parlant_sync.errors import ConfigurationError, TransportError

DEFAULT_URL = "http://localhost:8800"
Verify = bool | str | os.PathLike[str]


def check_base_url(url: object) -> str:
    """``url`` without a slash at its end. Raises :class:`ConfigurationError` that names what is wrong with it."""
    if not isinstance(url, str) or not url:
        raise ConfigurationError(f"base_url must be a URL like {DEFAULT_URL}, not {url!r}")
    # The text itself may hold a password: the messages do not repeat it.
    if any(ord(c) <= 32 or ord(c) == 127 for c in url) or "\\" in url:
        raise ConfigurationError("base_url holds blanks, backslashes or control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"base_url is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"base_url must start with http:// or https:// and name a host, like {DEFAULT_URL}")
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise ConfigurationError("base_url holds a user name or password; use token= or auth= instead")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ConfigurationError("base_url has a query or fragment; give the address of the server alone")
    if port == 0 or any(part in (".", "..") for part in parts.path.split("/")):
        raise ConfigurationError("base_url has port 0, or a dot segment in its path")
    return url.rstrip("/")


class TokenSource(AuthBase):
    """Puts the bearer token on a request; a callable is asked each time, so that it can rotate. Prints no secret."""

    def __init__(self, token: str | Callable[[], str]) -> None:
        self.rotates = callable(token)
        self._ask: Callable[[], str] = token if callable(token) else lambda: token
        if not self.rotates:
            _check_token(token)

    def __call__(self, request: Any) -> Any:
        try:
            token = self._ask()
        except Exception as error:
            raise TransportError(f"the token callable failed with {type(error).__name__}") from error
        _check_token(token)
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    def __repr__(self) -> str:
        return "TokenSource([redacted])"


def _check_token(token: object, name: str = "the token") -> None:
    if not isinstance(token, str) or not token or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ConfigurationError(f"{name} must be a non-empty string of printable ASCII without blanks or line ends")


def _check_headers(headers: Mapping[Any, Any]) -> dict[str, str]:
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigurationError(f"{name!r} cannot be the name of a header")
        # The value may be a secret: the message does not repeat it.
        if not isinstance(value, str) or not re.fullmatch(r"(?![ \t])[\t\x20-\x7e\x80-\xff]*", value):
            raise ConfigurationError(f"the value of header {name} must be Latin-1 text without control characters")
    return dict(headers)


class _NoAuth(AuthBase):
    """Stands where nothing was given: with nothing at all, requests would look into netrc."""

    def __call__(self, request: Any) -> Any:
        return request


class Settings:
    """The checked configuration of one client. Not changed after it was made; its ``repr`` holds no secret."""

    def __init__(
        self,
        base_url: str | None,
        *,
        token: str | Callable[[], str] | None,
        headers: Mapping[str, str] | None,
        auth: Any,
        verify: Verify,
        cert: str | tuple[str, str] | None,
        proxies: Mapping[str, str] | None,
        poll_wait: float,
        connect_timeout: float,
        request_timeout: float,
        turn_timeout: float | None,
        close_timeout: float,
        idle_timeout: float | None,
        backlog_limit: int,
        session_factory: Callable[[], requests.Session] | None,
    ) -> None:
        self.base_url = check_base_url(base_url or os.environ.get("PARLANT_SERVER") or DEFAULT_URL)
        if token is not None and auth is not None:
            raise ConfigurationError("give token= or auth=, not both")
        if token is None and auth is None:
            token = os.environ.get("PARLANT_TOKEN") or None
            if token is not None:
                _check_token(token, "$PARLANT_TOKEN")
        self.token_source = TokenSource(token) if token is not None else None
        self.auth = auth
        checks.mapping("headers", headers)
        checks.mapping("proxies", proxies)
        self.headers = _check_headers(headers or {})
        self.verify = os.fspath(verify) if not isinstance(verify, bool) else verify
        self.cert = cert
        self.proxies = dict(proxies or {})
        self.poll_wait = max(1, math.ceil(_finite("poll_wait", poll_wait)))
        self.connect_timeout = _finite("connect_timeout", connect_timeout, minimum=0.001)
        self.request_timeout = _finite("request_timeout", request_timeout, minimum=0.001)
        self.turn_timeout = turn_timeout
        seconds("turn_timeout", turn_timeout, none_is_ok=True)
        self.close_timeout = seconds("close_timeout", close_timeout)
        self.idle_timeout = seconds("idle_timeout", idle_timeout, none_is_ok=True)
        if type(backlog_limit) is not int or backlog_limit < 1:
            raise ConfigurationError(
                f"backlog_limit must be a whole number of events, at least 1, not {backlog_limit!r}"
            )
        self.backlog_limit = backlog_limit
        if session_factory is not None and not callable(session_factory):
            raise ConfigurationError("session_factory must be a callable that returns a requests.Session")
        self.session_factory = session_factory

    def __repr__(self) -> str:
        return f"Settings(base_url={self.base_url!r})"

    def tls_context(self) -> ssl.SSLContext | None:
        """The one context of all connections: each would otherwise load the authorities again (28 ms, 670 KiB)."""
        if not self.base_url.startswith("https:") or self.session_factory is not None:
            return None
        from urllib3.util import create_urllib3_context

        context = create_urllib3_context()
        if self.verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.verify_mode = ssl.CERT_REQUIRED
            self._load_authorities(context)
        if self.cert is not None:
            chain = (self.cert,) if isinstance(self.cert, str) else tuple(self.cert)
            try:
                context.load_cert_chain(*chain)
            except (OSError, TypeError) as error:
                raise ConfigurationError(f"cert={self.cert!r} cannot be loaded: {error}") from None
        return context

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        place = self.verify if isinstance(self.verify, str) else ""
        place = (
            place
            or os.environ.get("REQUESTS_CA_BUNDLE")
            or os.environ.get("CURL_CA_BUNDLE")
            or requests.utils.DEFAULT_CA_BUNDLE_PATH
        )
        try:
            if os.path.isdir(place):
                context.load_verify_locations(capath=place)
            else:
                context.load_verify_locations(cafile=place)
        except OSError as error:
            raise ConfigurationError(f"verify={place!r} is no usable bundle of certificates: {error}") from None

    def request_auth(self, session: requests.Session) -> Any:
        """What authenticates a request; never None, for that would be netrc's turn."""
        return self.token_source or self.auth or session.auth or _NoAuth()

    def tls_arguments(self) -> dict[str, Any]:
        """How a caller's own session is told ``verify`` and ``cert``; ours has them in its context."""
        if self.session_factory is None:
            return {"verify": self.verify is not False}
        arguments: dict[str, Any] = {}
        if self.verify is not True:
            arguments["verify"] = self.verify
        if self.cert is not None:
            arguments["cert"] = self.cert
        return arguments


def _finite(name: str, value: object, *, minimum: float = 0.0) -> float:
    number = seconds(name, value, minimum=minimum)
    if math.isinf(number):
        raise ConfigurationError(f"{name} must be a finite number of seconds")
    return number
