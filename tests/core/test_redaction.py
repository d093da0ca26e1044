from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

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


SECRET = "s3cret&to+ken/<with>=signs"
FORMS = {
    "html": html.escape,
    "url": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64url": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "inside base64": lambda text: base64.b64encode(f"a: {text};b".encode()).decode(),
    "inside base64, shifted": lambda text: base64.b64encode(f"ab: {text};b".encode()).decode(),
    "json": json.dumps,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Authorization", "X-Tenant"])
def test_every_form_in_which_a_server_repeats_a_secret(form: str, name: str) -> None:
    secrets = secrets_of({name: f"Bearer {SECRET}" if name == "Authorization" else SECRET})
    echo = FORMS[form](SECRET)
    shown = redact(f"you sent {echo} to us", secrets)
    assert shown.startswith("you sent ")
    assert shown.endswith(" to us")
    assert not any(echo[at : at + 12] in shown for at in range(len(echo) - 11))


def test_user_and_password_of_basic_credentials() -> None:
    basic = base64.b64encode(b"someone:pa55word").decode()
    assert "pa55word" not in redact("no access for someone:pa55word", secrets_of({"Authorization": f"Basic {basic}"}))
    assert "pa55word" not in redact("wrong: pa55word", secrets_of({"Authorization": f"Basic {basic}"}))


def test_long_texts_are_cut_but_no_secret_is() -> None:
    for before in range(8150, 8200):
        shown = redact("x" * before + SECRET + "y" * 4_000_000, secrets_of({"X-Tenant": SECRET}))
        assert len(shown) <= 8192
        assert "s3cret" not in shown


@pytest.mark.parametrize(
    "text", ["x-key-" * 700_000, "Authorization: " * 300_000, "Bearer " * 600_000, "Headers({'a': " * 300_000]
)
def test_four_megabytes_take_no_time(text: str) -> None:
    started = time.thread_time()
    shorten(redact(without_headers(text), secrets_of(HEADERS)))
    assert time.thread_time() - started < 2.0


@pytest.mark.parametrize(
    "text", ["x-key-" * 10_000, "x-" + "key" * 20_000, "<script>" * 8_000, "<" * 64_000, "Headers({" * 7_000]
)
def test_no_text_of_a_server_takes_long(text: str) -> None:
    """The interpreter lock is held meanwhile: nobody else would run."""
    started = time.thread_time()
    shorten(redact(without_headers(text + "<html>")))
    assert time.thread_time() - started < 2.0
