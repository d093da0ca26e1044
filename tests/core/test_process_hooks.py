"""The hooks of the process."""

from __future__ import annotations

import logging

import pytest
from support.raw_api import in_background

from parlant_sync import _process


class Hooked:
    base_url = "http://server.test"

    def __init__(self, trouble: Exception | None = None) -> None:
        self.trouble = trouble
        self.renewed = self.ended = False

    def _end_at_exit(self, timeout: float) -> None:
        self.ended = True
        if self.trouble:
            raise self.trouble

    def _drop_inherited(self) -> None:
        self.renewed = True
        if self.trouble:
            raise self.trouble


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[Hooked]:
    monkeypatch.setattr(_process, "_clients", {})
    monkeypatch.setattr(_process, "_armed", {"by": None})  # no hook of the process for these
    made = [Hooked(), Hooked(AttributeError("inside")), Hooked()]
    for client in made:
        _process.watch(client)
    return made


def test_one_client_s_failure_in_a_child_is_its_own(clients: list[Hooked], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="parlant_sync"):
        _process._after_fork()
    assert [client.renewed for client in clients] == [True] * 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "http://server.test cannot be used in this forked process; make a new one" in caplog.text


def test_one_client_s_failure_at_exit_is_nobody_s(clients: list[Hooked]) -> None:
    _process._at_exit()
    assert [client.ended for client in clients] == [True] * 3


def test_who_is_gone_is_forgotten(clients: list[Hooked]) -> None:
    assert len(_process._living()) == 3
    clients.pop()
    assert len(_process._living()) == 2


def test_a_signal_handler_may_make_a_client_while_the_first_is_made(
    clients: list[Hooked], monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks: list[object] = []

    def interrupted(hook: object) -> None:
        _process.watch(clients[0])
        hooks.append(hook)

    monkeypatch.setattr(_process, "_armed", {})
    monkeypatch.setattr("atexit.register", interrupted)
    monkeypatch.setattr("os.register_at_fork", lambda **_: None)
    in_background(_process.watch, clients[1]).result(5)
    assert hooks == [_process._at_exit]
