"""The settings of a client: its arguments and the environment, checked once, so that a mistake is one clear line."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from parlant_sync import _validation as check
from parlant_sync._deadline import seconds
from parlant_sync.errors import ConfigurationError

DEFAULT_URL = "http://localhost:8800"
Verify = bool | str | os.PathLike[str]


def check_base_url(url: object, name: str = "base_url") -> str:
    """``url`` with its scheme in lower case, without a slash at its end.

    Raises ``ConfigurationError`` that says what is wrong with ``name``. The text itself may hold a password, and
    the errors of the standard library quote it: neither is repeated.
    """
    if not isinstance(url, str) or not url:
        raise ConfigurationError(f"{name} must be a URL like {DEFAULT_URL}, not {type(url).__name__}")
    if not url.isprintable() or " " in url or "\\" in url:
        raise ConfigurationError(f"{name} holds blanks, backslashes or characters that cannot be printed")
    # Before anything is parsed: whatever stands before it may be a password.
    if "@" in url:
        raise ConfigurationError(
            f"{name} holds an @, as of a user name or password; use token= or auth= instead (in a path, write %40)"
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{name} is no URL: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{name} must start with http:// or https:// and name a host, like {DEFAULT_URL}")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ConfigurationError(f"{name} has a query or fragment; give the address of the server alone")
    if port == 0 or any(part in (".", "..") for part in parts.path.split("/")):
        raise ConfigurationError(f"{name} has port 0, or a dot segment in its path")
    return parts.scheme + url[len(parts.scheme) :].rstrip("/")


def check_token(token: object, name: str = "the token") -> None:
    """Raises ConfigurationError, which does not repeat the token."""
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


def _check_auth(auth: Any) -> Any:
    if auth is not None and not callable(auth) and not (isinstance(auth, tuple) and len(auth) == 2):
        # Not repeated: it may be a secret in the wrong place.
        raise ConfigurationError(f"auth must be (user, password) or an auth object of requests, not {_kind(auth)}")
    return auth


def _check_cert(cert: Any) -> str | tuple[str, str] | None:
    if cert is None:
        return None
    if not isinstance(cert, (tuple, list)):
        return _check_path("cert", cert)
    if len(cert) != 2:
        raise ConfigurationError(f"cert must be a path, or the paths of certificate and key, not {len(cert)} of them")
    return _check_path("cert", cert[0]), _check_path("cert", cert[1])


def _check_path(name: str, value: object) -> str:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path:
        what = "True, False or the path of a bundle of certificates" if name == "verify" else "the path of a file"
        raise ConfigurationError(f"{name} must be {what}, not {_kind(value)}")
    return path


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__}"


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
        if base_url not in (None, ""):
            self.base_url = check_base_url(base_url)
        else:
            self.base_url = check_base_url(os.environ.get("PARLANT_SERVER") or DEFAULT_URL, "$PARLANT_SERVER")
        check.mapping("headers", headers)
        check.mapping("proxies", proxies)
        self.headers = _check_headers(headers or {})
        if token is not None and auth is not None:
            raise ConfigurationError("give token= or auth=, not both")
        authorized = any(name.lower() == "authorization" for name in self.headers)
        if token is None and auth is None and not authorized:  # what was given beats what lies around
            token = os.environ.get("PARLANT_TOKEN") or None
            if token is not None:
                check_token(token, "$PARLANT_TOKEN")
        elif token is not None and not callable(token):
            check_token(token)
        self.token = token
        self.auth = _check_auth(auth)
        # A server may make a guest of an anonymous client (Parlant 4.0).
        self.anonymous = token is None and auth is None and not authorized
        self.verify = verify if isinstance(verify, bool) else _check_path("verify", verify)
        self.cert = _check_cert(cert)
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
        return f"Settings(base_url={getattr(self, 'base_url', None)!r})"


def _finite(name: str, value: object, *, minimum: float = 0.0) -> float:
    number = seconds(name, value, minimum=minimum)
    if math.isinf(number):
        raise ConfigurationError(f"{name} must be a finite number of seconds")
    return number
