from __future__ import annotations

import math
import ssl
from pathlib import Path
from typing import Any

import pytest
import requests

from parlant_sync import Client
from parlant_sync._http import tls
from parlant_sync._http.auth import TokenSource
from parlant_sync._settings import Settings
from parlant_sync.errors import ConfigurationError, TransportError

DEFAULTS: dict[str, Any] = {
    "token": None,
    "headers": None,
    "auth": None,
    "verify": True,
    "cert": None,
    "proxies": None,
    "poll_wait": 60,
    "connect_timeout": 5,
    "request_timeout": 30,
    "turn_timeout": 300,
    "close_timeout": 5,
    "idle_timeout": 900,
    "backlog_limit": 10_000,
    "session_factory": None,
}


def settings(base_url: str | None = "http://h", **options: Any) -> Settings:
    return Settings(base_url, **{**DEFAULTS, **options})


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARLANT_SERVER", "PARLANT_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(None).base_url == "http://localhost:8800"
    assert settings(None).token is None
    monkeypatch.setenv("PARLANT_SERVER", "http://env:1")
    monkeypatch.setenv("PARLANT_TOKEN", "env-token")
    assert settings(None).base_url == "http://env:1"
    assert settings().base_url == "http://h"
    assert settings().token is not None
    assert settings(auth=("u", "p")).token is None


def test_a_bad_url_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLANT_SERVER", "localhost:8800")
    with pytest.raises(ConfigurationError, match=r"^\$PARLANT_SERVER must start with http"):
        settings(None)


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_what_is_given_beats_what_lies_around(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLANT_TOKEN", "env-token")
    assert settings(headers={name: "Basic abc"}).token is None
    assert settings(headers={"X-Tenant": "t"}).token is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"verify": None}, "verify must be True, False or the path"),
        ({"verify": b"/bundle"}, "verify must be True, False or the path"),
        ({"verify": ""}, "verify must be True, False or the path"),
        ({"verify": 1}, "verify must be True, False or the path"),
        ({"auth": 5}, "auth must be"),
        ({"auth": "user:pa55word"}, "auth must be"),
        ({"cert": 5}, "cert must be"),
        ({"cert": ("a", 5)}, "cert must be"),
        ({"cert": ("a", "b", "pa55word")}, "cert must be"),
    ],
    ids=str,
)
def test_mistakes_are_told_at_once(options: dict[str, Any], said: str) -> None:
    for url in ("http://h", "https://h"):
        with pytest.raises(ConfigurationError, match=said) as error:
            Client(url, **options)
        assert "pa55word" not in str(error.value)
        assert "\n" not in str(error.value)


def test_paths_may_be_paths(tmp_path: Path) -> None:
    made = settings(verify=tmp_path / "ca.pem", cert=(tmp_path / "c", str(tmp_path / "k")))
    assert made.verify == str(tmp_path / "ca.pem")
    assert made.cert == (str(tmp_path / "c"), str(tmp_path / "k"))


@pytest.mark.parametrize(
    "options",
    [
        {"poll_wait": -1},
        {"poll_wait": math.inf},
        {"connect_timeout": 0},
        {"request_timeout": "30"},
        {"turn_timeout": float("nan")},
        {"close_timeout": None},
        {"idle_timeout": -1},
        {"backlog_limit": 0},
        {"backlog_limit": 1.5},
        {"backlog_limit": True},
        {"token": ""},
        {"token": "two words"},
        {"token": "line\nbreak"},
        {"token": "t", "auth": ("u", "p")},
        {"session_factory": 5},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Client("http://h", **options)


@pytest.mark.parametrize(("given", "asked"), [(60, 60), (0.2, 1), (0, 1), (1.2, 2)])
def test_the_server_takes_whole_seconds(given: float, asked: int) -> None:
    assert settings(poll_wait=given).poll_wait == asked


def test_no_secret_in_reprs() -> None:
    made = settings(token="s3cret-token", headers={"X-Api-Key": "k3y"})
    assert "s3cret" not in repr(made) + repr(TokenSource("s3cret-token", "http://h"))
    assert "k3y" not in repr(made)


@pytest.mark.parametrize("make", [Client, Settings])
def test_what_was_rejected_has_a_repr(make: Any) -> None:
    """Reports of errors show the variables of each frame, ``self`` among them."""
    assert repr(make.__new__(make))


def test_tls_is_one_context_and_its_mistakes_are_told() -> None:
    assert tls.server_context(settings("http://h")) is None
    context = tls.server_context(settings("https://h"))
    assert context is not None
    assert context.check_hostname
    loose = tls.server_context(settings("https://h", verify=False))
    assert loose is not None
    assert not loose.check_hostname
    for options in ({"verify": "/no/such/bundle.pem"}, {"cert": "/no/such/cert.pem"}):
        with pytest.raises(ConfigurationError, match="/no/such"):
            Client("https://h", **options)  # type: ignore[arg-type]


def test_a_token_callable_that_fails_says_whose_it_is() -> None:
    def token() -> str:
        raise KeyError("vault")

    source = TokenSource(token, "http://h:8800")
    with pytest.raises(TransportError, match=r"http://h:8800.*token=.*KeyError"):
        source(requests.Request("GET", "http://h").prepare())


def test_the_handshake_with_a_proxy() -> None:
    """Its own context only if the server's holds a certificate that is not for the proxy."""
    made = settings("https://h")
    server = tls.server_context(made)
    assert tls.proxy_context(made, "https://proxy:1", server) is server
    assert tls.proxy_context(made, "http://proxy:1", server) is None
    assert tls.proxy_context(made, None, server) is None
    plain = tls.proxy_context(settings("http://h", verify=False), "HTTPS://proxy:1", None)
    assert plain is not None
    assert plain.verify_mode == ssl.CERT_NONE
    shown = tls.proxy_context(settings("https://h", cert="/c"), "https://proxy:1", server)
    assert shown is not None
    assert shown is not server
    assert tls.proxy_context(settings("https://h", session_factory=requests.Session), "https://p", None) is None
