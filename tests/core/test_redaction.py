from __future__ import annotations

import json
import time

import pytest

from parlant_sync._http.redaction import redact, secrets_of, shorten, without_headers

HEADERS = {
    "Authorization": "Bearer s3cret-token",
    "Cookie": "sid=c00kie-value; other=x",
    "X-Api-Key": "api-k3y-value",
    "Accept": "application/json",
    "User-Agent": "parlant-sync",
}
VALUES = ("s3cret-token", "c00kie-value", "api-k3y-value")


def leaks(text: str) -> list[str]:
    return [v for v in VALUES if v in text]


@pytest.mark.parametrize(
    "echo",
    [
        str(HEADERS),
        json.dumps(HEADERS),
        json.dumps(json.dumps(HEADERS)),
        f"Headers({HEADERS!r})",
        repr([(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]),
        "\n".join(f"{k}: {v}" for k, v in HEADERS.items()),
        f"not allowed: {HEADERS['Authorization']}",
    ],
)
def test_echoed_headers(echo: str) -> None:
    assert leaks(echo)
    assert leaks(redact(echo, secrets_of(HEADERS))) == []
    # Without knowing them, too: a token that has rotated meanwhile.
    assert leaks(redact(echo)) == []


def test_what_is_no_secret_stays() -> None:
    text = "Session not found (id='abc'); application/json"
    assert redact(text, secrets_of(HEADERS)) == text


def test_shorten() -> None:
    assert shorten("a\x1b[31m  b\r\nc") == "a [31m b c"
    assert shorten("x" * 1000).endswith("...")
    assert len(shorten("x" * 1000)) == 500
    html = "<!DOCTYPE html><html><head><title>502</title><style>p{}</style></head><body><h1>Bad</h1></body></html>"
    assert shorten(html) == "502 Bad"


ODD_NAMES = ["Ocp-Apim-Subscription-Key", "X-Access-Key", "X-JWT", "X-Vault", "X-Session-Id", "X-Anything", "Tenant"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_header_of_the_caller_may_be_a_secret(name: str) -> None:
    headers = {"Host": "h:8800", "User-Agent": "ua/1.0", "Accept": "application/json", name: "v4lue-of-it"}
    for echo in (str(headers), json.dumps(headers), f"refused for v4lue-of-it: {headers}"):
        assert "v4lue" not in redact(echo, secrets_of(headers))
    assert secrets_of({n: v for n, v in headers.items() if n != name}) == []


def test_words_of_a_header_stay_in_other_texts() -> None:
    assert redact("the session is gone", secrets_of({"X-Purpose": "session of the tests"})) == "the session is gone"


DUMPS = [
    f"Headers({HEADERS!r})",
    "Headers({})",
    f"Headers(raw={[(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]!r})",
    "Headers({'x': 'it\\'s })', 'y': \"a ) 'b'\"})",
]


@pytest.mark.parametrize("dump", DUMPS)
def test_the_headers_that_a_production_server_repeats(dump: str) -> None:
    """As in its authorization.py: nothing of them stays, and all of the rest."""
    assert without_headers(f"Not permitted: OPERATION=LIST, HEADERS={dump}") == "Not permitted: OPERATION=LIST"
    assert without_headers(f"a (HEADERS={dump}) b") == "a () b"


def test_what_cannot_be_told_from_the_rest_stays() -> None:
    for text in ("Headers({'cut': 'in the mid", "Headers(x)", "no headers", "Headers({" * 2000, "Headers({'" * 2000):
        assert without_headers(text) == text


@pytest.mark.parametrize(
    "text", ["x-key-" * 10_000, "x-" + "key" * 20_000, "<script>" * 8_000, "<" * 64_000, "Headers({" * 7_000]
)
def test_no_text_of_a_server_takes_long(text: str) -> None:
    """The interpreter lock is held meanwhile: nobody else would run."""
    started = time.thread_time()
    shorten(redact(without_headers(text + "<html>")))
    assert time.thread_time() - started < 2.0
