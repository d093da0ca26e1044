"""The requests of our own sessions are those that requests would make, and nothing of one is in the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.models import PreparedRequest

from parlant_sync._http.steady import Common, SteadySession

BASES = ["http://h:1", "http://h:1/behind/a/proxy", "HTTP://H.test:80/Ä", "https://h"]


def ours(base: str = "http://h:1") -> tuple[SteadySession, Common]:
    common = Common(base, {})
    return SteadySession(HTTPAdapter(), common), common


def shown(request: PreparedRequest) -> tuple[Any, ...]:
    return request.method, request.url, dict(request.headers), request.body


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "GET", "params": {"min_offset": 3, "wait_for_data": 0}},
        {"method": "GET", "params": {"labels": ["a b", "ä&"], "kinds": "message,status"}},
        {"method": "GET"},
        {"method": "POST", "data": b'{"a": 1}', "headers": {"Content-Type": "application/json"}},
        {"method": "POST"},
        {"method": "DELETE"},
        {"method": "PATCH", "data": b"{}", "auth": ("me", "secret")},
    ],
    ids=lambda arguments: "-".join(arguments.values() if len(arguments) == 1 else map(str, arguments)),
)
def test_as_requests_would_make_them(base: str, arguments: dict[str, Any]) -> None:
    session, common = ours(base)
    with session, requests.Session() as plain:
        plain.trust_env = False
        plain.headers = common.headers
        url = base + "/sessions/%C3%A4%2F1/events"
        for _ in range(2):  # the first is made from nothing, the second from that
            made = session.prepare_request(requests.Request(url=url, **arguments))
            assert shown(made) == shown(plain.prepare_request(requests.Request(url=url, **arguments)))


def test_nothing_of_one_request_is_in_the_next() -> None:
    session, _ = ours()
    with session:
        first = requests.Request("POST", "http://h:1/x", data=b"{}", headers={"Secret": "s"}, auth=("me", "secret"))
        session.prepare_request(first)
        assert {"Secret", "Authorization", "Content-Length"}.isdisjoint(
            session.prepare_request(requests.Request("GET", "http://h:1/y")).headers
        )


def test_a_cookie_of_a_proxy_is_sent_back() -> None:
    """Which so keeps each of its clients at one server."""
    session, _ = ours()
    with session:
        session.prepare_request(requests.Request("GET", "http://h:1/x"))
        session.cookies.set("route", "7")
        made = session.prepare_request(requests.Request("POST", "http://h:1/x?y=1", data=b"{}"))
        assert (made.headers["Cookie"], made.url, made.body) == ("route=7", "http://h:1/x?y=1", b"{}")


def test_a_password_in_netrc_is_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine h login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    session, _ = ours()
    with session:
        for cookies in ({}, {"route": "7"}):
            session.cookies.update(cookies)
            made = session.prepare_request(requests.Request("GET", "http://h:1/x"))
            assert "Authorization" not in made.headers


def test_redirects_have_no_target() -> None:
    session, _ = ours()
    moved = requests.Response()
    moved.status_code, moved.headers["location"] = 302, "http://elsewhere.test/"
    with session:
        assert session.get_redirect_target(moved) is None


def test_it_has_the_one_adapter_that_it_was_given() -> None:
    """Each other one would have pools of its own, that publish nothing."""
    adapter = HTTPAdapter()
    with SteadySession(adapter, Common("https://h", {})) as session:
        assert dict(session.adapters) == {"https://": adapter}
