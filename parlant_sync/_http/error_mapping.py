"""What an answer that is none means: a failure of the network or a status, as an error that says what to try next."""

from __future__ import annotations

import http.client
import json
import math
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

import requests
import urllib3
from urllib3.util.ssl_match_hostname import CertificateError

from parlant_sync import errors
from parlant_sync._http import redaction

NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
# Each says that no connection was made at all.
_UNCONNECTED = (
    requests.exceptions.ConnectTimeout,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.NewConnectionError,  # NameResolutionError is one, too
)
# Each says that there is no way to make one: of an address, or a kind of proxy.
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
    """For an error of the network. ``proxy`` is the address of the proxy on the way, where one is known.

    ``error`` becomes the cause, unless it shows what is secret: a server may answer with anything in any place.
    """
    what = f"{method} {base_url}{path}"
    # What is wrong with a header of ours, or an address, is found before anything goes. None of these is ever a cause:
    # they quote the header, and the address with its password.
    if not sent and isinstance(error, requests.exceptions.InvalidProxyURL):
        return errors.ConfigurationError(f"{what}: the address of the proxy is none; check proxies=, or $HTTPS_PROXY")
    if not sent and isinstance(error, (requests.exceptions.InvalidHeader, requests.exceptions.InvalidURL)):
        return errors.ConfigurationError(f"{what}: {type(error).__name__}")
    causes = list(_causes(error))
    reason = _reason(error, causes[-1], secrets)
    untrusted = any(isinstance(cause, _UNTRUSTED) for cause in causes)
    if reason.startswith("Tunnel connection failed") or any(isinstance(cause, _PROXY) for cause in causes):
        place = _proxy_in(causes) or _without_credentials(proxy)
        hint = f"check the proxy{f' {place}' if place else ''}: proxies=, or $HTTPS_PROXY and its kin, name it"
    elif untrusted:
        hint = "give the authority of its certificate as verify=, or have the certificate mended"
    else:
        hint = f"check that a Parlant server answers at {base_url}"
    failed = errors.TransportError(f"{what}: {reason}; {hint}")
    failed._hopeless = untrusted or isinstance(error, requests.exceptions.InvalidSchema)
    if not _shows(error, secrets):
        failed.__cause__ = error
    return failed


def unsent(error: BaseException) -> bool:
    """Whether the error itself proves that no byte went: there was no connection, or no request to send over one."""
    causes = list(_causes(error))
    if isinstance(error, requests.exceptions.InvalidHeader):
        return not any(isinstance(cause, urllib3.exceptions.InvalidHeader) for cause in causes)  # that is the server's
    return isinstance(error, _NO_WAY) or any(isinstance(cause, _UNCONNECTED) for cause in causes)


def _shows(error: BaseException, secrets: Sequence[str]) -> bool:
    """Whether a traceback of it would show a secret, or anything that looks like one."""
    seen: list[BaseException] = []
    found: list[BaseException | None] = [error]
    while found:
        each = found.pop()
        if each is not None and each not in seen:
            seen.append(each)
            found += [each.__cause__, each.__context__]
    texts = [text for each in seen for text in (str(each), repr(each))]
    return any(redaction.redact(text, secrets) != text for text in texts)


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
_MEND = "change what it names, it will be refused again"
_KINDS: dict[int, tuple[type[errors.ApiError], str]] = {
    400: (errors.InvalidRequestError, _MEND),
    401: (errors.AuthenticationError, "check the token: Client(token=...) or $PARLANT_TOKEN"),
    403: (errors.PermissionDeniedError, "the server does not allow this to this token"),
    404: (errors.NotFoundError, "check the id; a server that keeps sessions in memory forgets them when it restarts"),
    405: (errors.ApiError, "this server does not offer that: check its version, and that base_url is its own address"),
    407: (errors.ApiError, "the proxy on the way wants credentials: give them in proxies="),
    409: (errors.InvalidRequestError, "it conflicts with what the server holds: read that again first"),
    410: (errors.ApiError, "it is gone for good: make a new one"),
    413: (errors.InvalidRequestError, "too long for the server, or for a proxy before it: send less at once"),
    422: (errors.InvalidRequestError, _MEND),
    429: (errors.RateLimitedError, "too many requests; wait a minute, or ask with fewer sessions at once"),
}


def refused(method: str, base_url: str, path: str, response: requests.Response, body: bytes) -> errors.ApiError:
    """For a status that is not the wanted one."""
    status = response.status_code
    secrets = redaction.secrets_of(response.request.headers)
    detail = redaction.shorten(redaction.redact(redaction.without_headers(_detail(body)), secrets))
    message = f"{method} {base_url}{path}: {status}{' ' + detail if detail else ''}"
    kind, hint = _KINDS.get(status, (errors.ServerError, _SERVER_HINT) if status >= 500 else (errors.ApiError, ""))
    if status == 404 and detail in ("Not Found", ""):
        hint = f"is {base_url} the address of a Parlant server?"
    elif status == 404 and (path.startswith("/agents") or path == "/sessions"):
        hint = f"check the {'' if path.startswith('/agents') else 'agent '}id; {_AGENTS}"
    elif 300 <= status < 400:
        hint = "redirects are refused; give the final address as base_url"
    hint = hint or f"Parlant servers do not answer like that: is {base_url} one itself, or what is before it?"
    facts: dict[str, Any] = {"status": status, "method": method, "path": path, "detail": detail}
    if kind is errors.RateLimitedError:
        facts["retry_after"] = retry_after(response.headers.get("Retry-After"))
    error = kind(f"{message} ({hint})", **facts)
    if isinstance(error, errors.ServerError):
        error._of_a_proxy = body.lstrip()[:1] == b"<"
    return error


def _detail(body: bytes) -> str:
    text = body[: 64 * 1024].decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    detail = value.get("detail", value) if isinstance(value, dict) else value
    if isinstance(detail, list) and detail and all(isinstance(d, dict) and "msg" in d and "loc" in d for d in detail):
        # What FastAPI says of a request that does not fit: where, and what.
        return "; ".join(f"{'.'.join(str(part) for part in d['loc'])}: {d['msg']}" for d in detail)
    return detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)


def retry_after(value: str | None) -> float | None:
    """A Retry-After header in seconds; None where it is missing (WIRE.md), a date, or nonsense."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
