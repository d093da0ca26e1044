"""What a request takes with it. (Bodies are in test_transport.py, by what is posted.)"""

from __future__ import annotations

from typing import Any

import pytest
import requests

from parlant_sync._http.auth import RequestAuth
from parlant_sync._http.connection import RunningRequest


def authenticated(auth: Any) -> tuple[RequestAuth, Any]:
    made = RequestAuth(auth, RunningRequest(), "http://h")
    request = requests.Request("GET", "http://h/", headers={"X-Vault": "v4lue-of-it"}).prepare()
    return made, made(request)


def bearer(request: Any) -> Any:
    request.headers["Authorization"] = "Bearer t0ken-of-it"
    return request


def test_what_went_is_known_whoever_put_it_there() -> None:
    secrets = authenticated(bearer)[0].secrets(None)
    assert {"v4lue-of-it", "t0ken-of-it"} <= set(secrets)


def test_a_pair_is_user_and_password() -> None:
    auth, request = authenticated(("user", "pa55word"))
    assert request.headers["Authorization"] == "Basic dXNlcjpwYTU1d29yZA=="
    assert "dXNlcjpwYTU1d29yZA" in auth.secrets(None)


@pytest.mark.parametrize(
    ("proxy", "found"),
    [
        ("http://user:pa%35%35word@proxy.test:3128", {"pa55word", "pa%35%35word", "dXNlcjpwYTU1d29yZA"}),
        ("http://user:wörd@proxy.test:3128", {"wörd"}),
        ("http://user@proxy.test:3128", set()),
        ("http://[::1", set()),
        (None, set()),
    ],
)
def test_a_proxy_s_password_is_one_too(proxy: str | None, found: set[str]) -> None:
    before = set(authenticated(bearer)[0].secrets(None))
    assert set(authenticated(bearer)[0].secrets(proxy)) >= found | before
    assert bool(set(authenticated(bearer)[0].secrets(proxy)) - before) is bool(found)
