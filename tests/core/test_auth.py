"""What a request takes with it. (Bodies are in test_transport.py, by what is posted.)"""

from __future__ import annotations

from typing import Any

import pytest
import requests

from parlant_sync._http.auth import RequestAuth, secrets
from parlant_sync._http.connection import RunningRequest


def authenticated(auth: Any) -> Any:
    """What goes, as its slot knows it."""
    slot = RunningRequest()
    RequestAuth(auth, slot, "http://h")(
        requests.Request("GET", "http://h/", headers={"X-Vault": "v4lue-of-it"}).prepare()
    )
    return slot.request


def bearer(request: Any) -> Any:
    request.headers["Authorization"] = "Bearer t0ken-of-it"
    return request


def test_what_went_is_known_whoever_put_it_there() -> None:
    assert {"v4lue-of-it", "t0ken-of-it"} <= set(secrets(authenticated(bearer), None))


def test_a_pair_is_user_and_password() -> None:
    request = authenticated(("user", "pa55word"))
    assert request.headers["Authorization"] == "Basic dXNlcjpwYTU1d29yZA=="
    assert "dXNlcjpwYTU1d29yZA" in secrets(request, None)


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
    before = set(secrets(authenticated(bearer), None))
    assert set(secrets(authenticated(bearer), proxy)) >= found | before
    assert bool(set(secrets(authenticated(bearer), proxy)) - before) is bool(found)
