"""What the tests of secrets share: the stand-in, certificates, and everything that is logged."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator

import pytest
from support.secret_canaries import found_in
from support.secret_tls import Authority, authority

from parlant_sync.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        fake.agent("quick").echoes()
        yield fake


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    return authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """At any level, of any logger: urllib3's and asyncio's, too."""
    caplog.set_level(1)
    for name in ("parlant_sync", "urllib3", "requests"):
        caplog.set_level(logging.NOTSET + 1, logger=name)
    yield caplog
    for record in caplog.get_records("call"):
        text = f"{record.getMessage()} {record.args!r} {record.exc_text or ''} {caplog.handler.format(record)}"
        assert not found_in(text), f"{found_in(text)} was logged by {record.name}: {text[:1000]}"
