"""A real browser (Debian's chromium, driven by selenium) for the pages that the documentation shows."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from parlant_sync.testing import FakeServer

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=900,700"
).split()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A driver of a new headless browser. Skips the test if there is none (Debian: chromium, chromium-driver)."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is in the extra 'test'")
    from selenium.webdriver.chrome.service import Service

    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no chromium here (Debian: chromium, chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        running = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield running
        finally:
            running.quit()


def say(driver: Any, text: str) -> None:
    """Types the text into the field of the page, and sends it."""
    field = driver.find_element("id", "text")
    field.send_keys(text)
    field.submit()


def until(driver: Any, condition: Callable[[], Any], what: str, timeout: float = 20) -> Any:
    """Wait (bounded) until ``condition()`` is true, and return what it returned."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, timeout, poll_frequency=0.05).until(lambda _: condition(), what)


def was_cancelled(server: FakeServer) -> bool:
    """Whether a newer message has cancelled a turn of the only session."""
    (session_id,) = server.sessions
    return any(e["kind"] == "status" and e["data"]["status"] == "cancelled" for e in server.events(session_id))
