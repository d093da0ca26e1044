"""Canaries: secrets that must show up nowhere, and the places to look for them."""

from __future__ import annotations

import copy
import json
import pickle
import re
import traceback
import urllib.parse
from base64 import b64encode
from typing import Any

from parlant_sync import ConfigurationError, ParlantSyncError

TOKEN = "tkn.Canary+4711/abcDEF=="
COOKIE = "CookieCanary8472"
API_KEY = "ApiKeyCanary3141"
PASSWORD = "PasswordCanary2718"
GATEWAY = "GatewayCanary5772"
ODD = "odd\\canary'\"1618"  # escaped in every way by those who echo it
HEADERS = {
    "Cookie": f"session={COOKIE}; theme=dark",
    "X-Api-Key": API_KEY,
    "X-Custom-Secret": ODD,
    "Ocp-Apim-Subscription-Key": GATEWAY,
    "Tenant": f"acme/{GATEWAY}",
    "Proxy-Authorization": "Basic " + b64encode(f"user:{PASSWORD}".encode()).decode(),
}
# Parts, so that a half of a secret is found as well, and one that was escaped on its way.
CANARIES = (
    "Canary+4711",
    "abcDEF==",
    COOKIE,
    API_KEY,
    PASSWORD,
    GATEWAY,
    "1618",
    HEADERS["Proxy-Authorization"].split()[1],
)


def found_in(text: object) -> list[str]:
    """Which canaries are in it."""
    shown = text if isinstance(text, str) else repr(text)
    spoken = [shown, urllib.parse.unquote(shown)]
    return [canary for canary in CANARIES if any(canary.lower() in each.lower() for each in spoken)]


def places(error: BaseException) -> dict[str, str]:
    """All that can be seen of an exception."""
    seen = {
        "str": str(error),
        "repr": repr(error),
        "args": repr(error.args),
        "attributes": repr(vars(error)),
        "traceback": "".join(traceback.format_exception(error)),
        "chain": "".join(map(repr, chain(error))),
    }
    if not isinstance(error, ConfigurationError):  # of what was given to the frame that refused it
        seen["variables"] = " ".join(variables(error))
    if isinstance(error, ParlantSyncError):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            seen[f"pickle {protocol}"] = pickle.dumps(error, protocol).decode("latin-1")
        again = pickle.loads(pickle.dumps(error))
        seen["unpickled"] = f"{again!r} {vars(again)}"
        seen["copied"] = repr(copy.copy(error))
    return seen


_CHANCE = r"\b0x[0-9a-f]+|\b\d+\.\d+"  # addresses of objects, and pauses: any digits may stand in them


def variables(error: BaseException) -> list[str]:
    """What a report of errors shows of the library's frames."""
    return [
        re.sub(_CHANCE, "", f"{frame.f_code.co_name}: {name}={value!r}")
        for each in chain(error)
        for frame, _ in traceback.walk_tb(each.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith("parlant_sync.")
        for name, value in frame.f_locals.items()
    ]


def chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def check(error: BaseException) -> None:
    for place, text in places(error).items():
        assert not found_in(text), f"{found_in(text)} in {place} of {type(error).__name__}: {text[:2000]}"


def echoes(headers: dict[str, str]) -> dict[str, bytes]:
    """The ways in which servers repeat the headers of a request in the body of a refusal."""
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    starlette = f"Headers({ {name.lower(): value for name, value in headers.items()}!r})"
    lines = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
    ways: dict[str, Any] = {
        "as a production server": {"detail": f"Authorization failed: OPERATION=LIST, HEADERS={starlette}"},
        "as JSON": {"detail": headers},
        "as JSON in JSON": {"detail": json.dumps({"headers": headers})},
        "as a list": {"detail": [{"headers": [[name, value] for name, value in headers.items()]}]},
        "as the scope": {"detail": f"scope={ {'headers': pairs}!r}"},
        "as lines": {"detail": lines},
        "without a detail": {"error": starlette, "request": {"headers": headers}},
        "twice escaped": {"detail": repr(repr(starlette))},
    }
    found = {name: json.dumps(value).encode() for name, value in ways.items()}
    found["as text"] = lines.encode()
    found["as HTML"] = f"<html><title>403</title><pre>{lines}</pre><p>{starlette}</p></html>".encode()
    found["cut in the middle"] = (starlette[: starlette.index("Canary") + 11]).encode()
    return found
