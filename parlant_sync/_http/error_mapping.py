"""What a failed request means: a failure of the network or a status becomes an error that says what to try next."""

from __future__ import annotations

import http.client
import json
import math
import re
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

import requests
import urllib3
from urllib3.util.ssl_match_hostname import CertificateError

from parlant_sync import errors
from parlant_sync._http import redaction
from parlant_sync._http.codec import decode_json

NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
# Each says that no connection was made at all.
_UNCONNECTED = (
    requests.exceptions.ConnectTimeout,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.NewConnectionError,  # NameResolutionError is one, too
)
# Each says that none can be made: the address is not a URL, or nothing here speaks its scheme.
_NO_WAY = (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
_PROXY = (requests.exceptions.ProxyError, urllib3.exceptions.ProxyError)
_UNTRUSTED = (ssl.SSLCertVerificationError, CertificateError)


def no_answer(
    method: str,
    base_url: str,
    path: str,
    error: BaseException,
    proxy: str | None,
    *,
    sent: bool = False,
    secrets: Sequence[str] = (),
) -> errors.ParlantSyncError:
    """The error for a failure of the network. ``proxy`` is the address of the proxy on the way, if one is known.

    The innermost cause of ``error`` becomes its cause, unless a text on the way there shows a secret: a server may
    answer with anything in any place.
    """
    what = f"{method} {base_url}{path}"
    # A wrong header or address is found before anything is sent. These errors never become a cause: they quote the
    # header, or the address with its password.
    if not sent and isinstance(error, requests.exceptions.InvalidProxyURL):
        return errors.ConfigurationError(
            f"{what}: the address of the proxy is not a URL; check proxies=, or $HTTPS_PROXY"
        )
    if not sent and isinstance(error, (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL)):
        return errors.ConfigurationError(f"{what}: {type(error).__name__}")
    causes = list(_causes(error))
    reason = _reason(error, causes[-1], secrets)
    untrusted = any(isinstance(cause, _UNTRUSTED) for cause in causes)
    tunnel = re.match(r"Tunnel connection failed: (\d+)", reason)
    if tunnel or any(isinstance(cause, _PROXY) for cause in causes):
        place = _proxy_in(causes) or _without_credentials(proxy)
        hint = f"check the proxy{f' {place}' if place else ''}, which comes from proxies= or $HTTPS_PROXY"
        if tunnel and tunnel[1] == "407":
            hint = f"give the user and password of the proxy{f' {place}' if place else ''} in proxies="
    elif untrusted:
        hint = "give the authority of its certificate as verify=, or have the certificate renewed"
    else:
        hint = f"check that a Parlant server answers at {base_url}"
    failed = errors.TransportError(f"{what}: {reason}; {hint}")
    refused = tunnel is not None and tunnel[1].startswith("4")
    failed._hopeless = untrusted or refused or isinstance(error, requests.exceptions.InvalidSchema)
    chain = [*_chain(error), *_chain(causes[-1])]
    innermost = _innermost(causes[-1])
    if not any(redaction.redact(text, secrets) != text for each in chain for text in (str(each), repr(each))):
        failed.__cause__ = innermost  # what urllib3 and requests have wrapped around it says the same again
    for each in chain:
        # Error reports show the variables of each frame and the attributes of each exception: both hold our headers.
        each.__traceback__ = each.__cause__ = each.__context__ = None
        if isinstance(each, requests.RequestException):
            each.request = each.response = None
    return failed


def _innermost(error: BaseException) -> BaseException:
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__ or error
    return seen[-1]


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and all that a traceback of it would show."""
    seen: list[BaseException] = []
    found: list[BaseException | None] = [error]
    while found:
        each = found.pop()
        if each is not None and each not in seen:
            seen.append(each)
            found += [each.__cause__, each.__context__]
    return seen


def unsent(error: BaseException) -> bool:
    """Whether the error itself proves that no byte went: there was no connection, or no request to send over one."""
    causes = list(_causes(error))
    if isinstance(error, requests.exceptions.InvalidHeader):
        return not any(isinstance(cause, urllib3.exceptions.InvalidHeader) for cause in causes)  # that is the server's
    return isinstance(error, _NO_WAY) or any(isinstance(cause, _UNCONNECTED) for cause in causes)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it wraps, down to the innermost."""
    for _ in range(9):
        yield error
        inner = getattr(error, "reason", None) or next(
            (arg for arg in reversed(error.args) if isinstance(arg, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            return
        error = inner


def _reason(error: BaseException, cause: BaseException, secrets: Sequence[str]) -> str:
    """The innermost cause in a few words, without object reprs and without URLs, which may hold secrets of users."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        return "the host name cannot be resolved"
    text = str(cause).split(": ", 1)[-1] if isinstance(cause, urllib3.exceptions.NewConnectionError) else str(cause)
    return redaction.shorten(redaction.redact(text, secrets), 160) or type(cause).__name__


def _proxy_in(causes: list[BaseException]) -> str:
    """The proxy of the pool that an error of urllib3 carries."""
    for cause in causes:
        proxy = getattr(cause.pool, "proxy", None) if isinstance(cause, urllib3.exceptions.PoolError) else None
        if proxy is not None:
            return _without_credentials(proxy.url)
    return ""


def _without_credentials(address: str | None) -> str:
    if not address:
        return ""
    try:
        parsed = urllib3.util.parse_url(address)
    except urllib3.exceptions.LocationParseError:
        return ""
    return urllib3.util.Url(scheme=parsed.scheme, host=parsed.host, port=parsed.port).url


_AGENTS = "client.agents(), or the command parlant-sync agents, lists them"
_SERVER_HINT = "the server or a proxy before it failed; try again, and look into its log"
_FIX = "fix the field named here; retrying will not help"
_KINDS: dict[int, tuple[type[errors.ApiError], str]] = {
    400: (errors.InvalidRequestError, _FIX),
    401: (errors.AuthenticationError, "check the token: Client(token=...) or $PARLANT_TOKEN"),
    403: (errors.PermissionDeniedError, "the server does not allow this to this token"),
    404: (errors.NotFoundError, "check the id; a server that keeps sessions in memory forgets them when it restarts"),
    405: (errors.ApiError, "this server does not offer that: check its version, and that base_url is its own address"),
    407: (errors.ApiError, "give the user and password of the proxy in proxies="),
    409: (errors.InvalidRequestError, "it conflicts with what the server holds: read that again first"),
    410: (errors.ApiError, "it is gone for good: make a new one"),
    413: (errors.InvalidRequestError, "too long for the server, or for a proxy before it: send less at once"),
    422: (errors.InvalidRequestError, _FIX),
    429: (errors.RateLimitedError, "too many requests; wait a minute, or ask with fewer sessions at once"),
}
# Parlant answers these with JSON. Without it they are a proxy's, and may be over in a moment.
_FINAL_IF_PARLANTS = (401, 403, 404)


def is_parlants(body: bytes | bytearray) -> bool:
    """Whether Parlant itself wrote this body of an error: a JSON object with ``detail``. All others are a proxy's."""
    if b'"detail"' not in body:
        return False
    try:
        value = decode_json(body)
    except ValueError:
        return False
    return isinstance(value, dict) and "detail" in value


def refused(
    method: str, base_url: str, path: str, response: requests.Response, body: bytes | bytearray
) -> errors.ApiError:
    """The error for a status that is not success."""
    status = response.status_code
    sent = response.request.headers
    detail = redaction.shorten(redaction.redact(redaction.without_headers(_detail(body)), redaction.secrets_of(sent)))
    message = f"{method} {base_url}{path}: {status}{' ' + detail if detail else ''}"
    kind, hint = _KINDS.get(status, (errors.ServerError, _SERVER_HINT) if status >= 500 else (errors.ApiError, ""))
    parlants = is_parlants(body)
    if status in _FINAL_IF_PARLANTS and not parlants:
        hint = f"a proxy answered, not Parlant: try again; is {base_url} the address of a Parlant server?"
    elif status == 404 and detail == "Not Found":
        hint = f"is {base_url} the address of a Parlant server?"
    elif status == 404 and (path.startswith("/agents") or path == "/sessions"):
        hint = f"check the {'' if path.startswith('/agents') else 'agent '}id; {_AGENTS}"
    elif 300 <= status < 400:
        hint = "redirects are refused; give the final address as base_url"
    hint = hint or f"Parlant servers do not answer like that: is {base_url} the server itself?"
    facts: dict[str, Any] = {"status": status, "method": method, "path": path, "detail": detail}
    if kind is errors.RateLimitedError:
        facts["retry_after"] = retry_after(response.headers.get("Retry-After"))
    error = kind(f"{message} ({hint})", **facts)
    error.from_parlant = parlants
    return error


def _detail(body: bytes | bytearray) -> str:
    """The detail of an error; the whole of a body that is not Parlant's."""
    text = body[: 64 * 1024].decode("utf-8", "replace")
    try:
        value = decode_json(text.encode())
    except ValueError:
        return text
    detail = value.get("detail", value) if isinstance(value, dict) else value
    if isinstance(detail, list) and detail and all(isinstance(d, dict) and "msg" in d and "loc" in d for d in detail):
        # What FastAPI says of a request that does not fit: where, and what.
        return "; ".join(f"{_place(d['loc'])}: {d['msg']}" for d in detail)
    return detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)


def _place(loc: Any) -> str:
    return ".".join(str(part) for part in loc) if isinstance(loc, list) else str(loc)


def check_urllib3() -> None:
    """Raises ConfigurationError if another library has taken urllib3's place."""
    if hasattr(urllib3, "AsyncPoolManager") or hasattr(urllib3, "ConnectionInfo"):
        raise errors.ConfigurationError(
            "urllib3-future has replaced urllib3 in this environment, and its requests cannot be interrupted: "
            "pip uninstall urllib3-future, then pip install --force-reinstall urllib3"
        )


def retry_after(value: str | None) -> float | None:
    """A Retry-After header in seconds; None if it is missing (WIRE.md), a date, or not a number."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
