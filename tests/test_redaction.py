from __future__ import annotations

import json

import pytest

from parlant_sync.redaction import redact, secrets_of, shorten

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
