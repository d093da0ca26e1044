"""What an error says, and what it says to do next."""

from __future__ import annotations

import pickle
import socket
import ssl
import traceback
from typing import Any

import pytest
import requests
import urllib3

from parlant_sync import Client, errors
from parlant_sync._http import error_mapping

URL = "http://server.test:8800"


def answered(status: int, body: bytes = b'{"detail": "what it says"}', **headers: str) -> Any:
    response = requests.Response()
    response.status_code = status
    response.headers.update(headers)
    response.request = requests.Request("GET", URL, headers={"X-Vault": "v4lue-of-it"}).prepare()
    return response


def refused(status: int, method: str = "GET", path: str = "/x", body: bytes = b'{"detail": "why"}') -> errors.ApiError:
    return error_mapping.refused(method, URL, path, answered(status), body)


@pytest.mark.parametrize(
    "status", [301, 400, 401, 402, 403, 404, 405, 407, 409, 410, 413, 418, 422, 429, 451, 500, 599]
)
def test_every_refusal_names_a_next_step(status: int) -> None:
    text = str(refused(status))
    assert text.startswith(f"GET {URL}/x: {status} why (")
    assert len(text.partition(" why (")[2]) > 20


@pytest.mark.parametrize(
    ("method", "path", "body", "hint"),
    [
        ("POST", "/sessions", b'{"detail": "Agent not found"}', "check the agent id; client.agents()"),
        ("GET", "/agents/a", b'{"detail": "Agent not found"}', "check the id; client.agents()"),
        ("GET", "/sessions/s", b'{"detail": "Session not found"}', "keeps sessions in memory"),
        ("POST", "/sessions/s/events", b'{"detail": "Session not found"}', "keeps sessions in memory"),
        ("POST", "/sessions", b'{"detail": "Not Found"}', "the address of a Parlant server"),
        ("GET", "/agents", b"", "the address of a Parlant server"),
    ],
)
def test_what_a_404_advises(method: str, path: str, body: bytes, hint: str) -> None:
    assert hint in str(refused(404, method, path, body))


def test_a_production_server_s_refusal_can_be_read() -> None:
    body = b"{\"detail\": \"Authorization failed: OPERATION=LIST, HEADERS=Headers({'x-vault': 'v4lue-of-it'})\"}"
    error = refused(403, body=body)
    assert error.detail == "Authorization failed: OPERATION=LIST"
    assert "allow this" in str(error)
    assert "v4lue" not in str(refused(403, body=b"no: v4lue-of-it"))


def pooled(cause: Exception, proxy: str | None = None) -> requests.RequestException:
    """As requests wraps what urllib3 raises."""
    pool = type("Pool", (), {"proxy": urllib3.util.parse_url(proxy) if proxy else None})()
    return requests.exceptions.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/", cause))  # type: ignore[arg-type]


def no_answer(error: Exception, proxy: str | None = None) -> Any:
    return error_mapping.no_answer("GET", URL, "/x", error, proxy)


REFUSED = urllib3.exceptions.NewConnectionError(None, "Connection refused")  # type: ignore[arg-type]
ABORTED = urllib3.exceptions.ProtocolError("aborted", ConnectionResetError())
UNTRUSTED = ssl.SSLCertVerificationError(1, "certificate verify failed")


def test_a_server_that_is_not_reached() -> None:
    error = no_answer(pooled(REFUSED))
    assert str(error) == f"GET {URL}/x: Connection refused; check that a Parlant server answers at {URL}"
    assert not error._hopeless


@pytest.mark.parametrize("known", [True, False])
def test_a_proxy_that_is_not_reached(known: bool) -> None:
    proxy = "http://user:pa55word@proxy.test:3128"
    cause = urllib3.exceptions.ProxyError("Cannot connect to proxy.", REFUSED)
    error = no_answer(pooled(cause, proxy if known else None), None if known else proxy)
    assert "Connection refused; check the proxy http://proxy.test:3128, which" in str(error)
    assert "pa55" not in str(error)
    assert "Parlant server answers" not in str(error)
    assert error_mapping.unsent(pooled(cause))


@pytest.mark.parametrize("proxy", [None, "http://user:pa55word@proxy.test:3128", "http://[::pa55word"])
def test_a_proxy_that_refuses_the_tunnel(proxy: str | None) -> None:
    cause = urllib3.exceptions.ProtocolError("Connection aborted.", OSError("Tunnel connection failed: 407 Needed"))
    text = str(no_answer(requests.exceptions.ConnectionError(cause), proxy))
    assert "407 Needed; give the user and password of the proxy" in text
    assert ("http://proxy.test:3128" in text) == ("proxy.test" in (proxy or ""))
    assert "pa55" not in text


@pytest.mark.parametrize("wrapped", [UNTRUSTED, urllib3.exceptions.ProxyError("x", UNTRUSTED)], ids=["server", "proxy"])
def test_a_certificate_never_heals_by_itself(wrapped: Exception) -> None:
    error = no_answer(pooled(urllib3.exceptions.SSLError(wrapped)))
    assert error._hopeless
    assert pickle.loads(pickle.dumps(error))._hopeless
    assert "certificate" in str(error)
    assert ("verify=" in str(error)) == (wrapped is UNTRUSTED)


def test_an_address_that_nothing_is_there_for() -> None:
    assert no_answer(requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support."))._hopeless
    assert isinstance(no_answer(requests.exceptions.InvalidProxyURL("x")), errors.ConfigurationError)
    assert isinstance(no_answer(requests.exceptions.InvalidURL("x")), errors.ConfigurationError)


INVALID = requests.exceptions.InvalidHeader(urllib3.exceptions.InvalidHeader("Content-Length: 5,6"))


@pytest.mark.parametrize("error", [INVALID, requests.exceptions.InvalidURL("x")])
def test_what_came_back_is_no_mistake_of_ours(error: Exception) -> None:
    assert type(error_mapping.no_answer("GET", URL, "/x", error, None, sent=True)) is errors.TransportError
    assert type(error_mapping.no_answer("GET", URL, "/x", error, None, sent=False)) is errors.ConfigurationError


@pytest.mark.parametrize("hidden", [True, False])
def test_the_cause_is_told_unless_it_shows_a_secret(hidden: bool) -> None:
    """However deep it is."""
    cause = OSError("the server said v4lue-of-it" if hidden else "the server said nothing")
    error = requests.exceptions.ConnectionError("broken")
    error.__context__ = cause
    cause.__context__ = error  # no end, as it can be
    told = error_mapping.no_answer("GET", URL, "/x", error, None, secrets=["v4lue-of-it"])
    assert told.__cause__ is (None if hidden else cause)
    assert "v4lue" not in str(error_mapping.no_answer("GET", URL, "/x", cause, None, secrets=["v4lue-of-it"]))


@pytest.mark.parametrize(
    ("error", "proved"),
    [
        (pooled(REFUSED), True),
        (pooled(urllib3.exceptions.NameResolutionError("h", None, OSError())), True),  # type: ignore[arg-type]
        (requests.exceptions.ConnectTimeout(), True),
        (requests.exceptions.ReadTimeout(), False),
        (
            requests.exceptions.ConnectionError(urllib3.exceptions.ProtocolError("aborted", ConnectionResetError())),
            False,
        ),
        (requests.exceptions.SSLError(), False),
        (requests.exceptions.InvalidHeader("ours"), True),
        (INVALID, False),
        (requests.exceptions.InvalidURL("ours"), True),
        (requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support."), True),
    ],
    ids=["refused", "no-name", "connect-timeout", "read-timeout", "aborted", "tls", "header", "theirs", "url", "socks"],
)
def test_what_proves_that_there_was_no_connection(error: Exception, proved: bool) -> None:
    assert error_mapping.unsent(error) is proved


def test_the_cause_holds_nothing_of_the_request() -> None:
    """Reports of errors show what an exception holds, and the variables of each frame of its traceback."""
    headers = {"Authorization": "Bearer s3cret"}
    request = requests.Request("GET", URL, headers=headers).prepare()
    try:
        try:
            raise OSError("refused")
        except OSError as inner:
            raise requests.exceptions.ConnectionError(inner, request=request) from inner
    except requests.exceptions.ConnectionError as error:
        told = error_mapping.no_answer("GET", URL, "/x", error, None, secrets=["s3cret"])
    cause: Any = told.__cause__
    assert repr(cause) == "OSError('refused')"
    assert (cause.__traceback__, cause.__cause__, cause.__context__) == (None,) * 3
    late = requests.exceptions.ReadTimeout("late", request=request)
    assert error_mapping.no_answer("GET", URL, "/x", late, None).__cause__ is late
    assert late.request is None


@pytest.mark.parametrize(
    ("body", "parlants"),
    [
        (b'{"detail": "x"}', True),
        (b' {"detail": null, "more": 1}', True),
        (b'{"error": "detail"}', False),
        (b'["detail"]', False),
        (b'"detail"', False),
        (b'<html>"detail"</html>', False),
        (b'{"a": {"detail": 1}}', False),
        (b'{"detail": ' + b"[" * 100_000, False),
        (b"Internal Server Error", False),
        (b"", False),
    ],
)
def test_whose_body_it_is(body: bytes, parlants: bool) -> None:
    assert error_mapping.is_parlants(body) is parlants


@pytest.mark.parametrize(("status", "hopeless"), [(407, True), (403, True), (502, False), (503, False)])
def test_a_tunnel_that_is_refused(status: int, hopeless: bool) -> None:
    cause = urllib3.exceptions.ProtocolError("x", OSError(f"Tunnel connection failed: {status} Whatever"))
    assert no_answer(requests.exceptions.ConnectionError(cause))._hopeless is hopeless


def test_urllib3_future_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib3, "AsyncPoolManager", object, raising=False)
    with pytest.raises(errors.ConfigurationError, match="pip uninstall urllib3-future"):
        Client("http://h")


def test_a_traceback_is_short() -> None:
    """Without urllib3, requests and tenacity, and with the one cause that says something."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with Client(f"http://127.0.0.1:{unused.getsockname()[1]}") as client:
            with pytest.raises(errors.TransportError) as failed:
                client.agents()
    lines = "".join(traceback.format_exception(failed.value)).splitlines()
    assert lines[0].startswith("ConnectionRefusedError")
    assert len(lines) < 50
    assert not [line for line in lines if "site-packages" in line]
