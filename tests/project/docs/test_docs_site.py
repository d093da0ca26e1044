"""The documentation site: built strictly, complete, searchable; the rules and the dashboard beside it work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.docs_blocks import ROOT

import parlant_sync

OPERATING = ROOT / "docs/operating"
METRICS = re.compile(r"parlant_sync_[a-z_]+")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocstrings", reason="MkDocs is in the extra 'docs'")
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr  # --strict: a link or an anchor that leads nowhere fails
    return folder


def test_every_public_name_has_a_reference(site: Path) -> None:
    pages = "".join(page.read_text("utf-8") for page in (site / "reference").rglob("*.html"))
    names = set(parlant_sync.__all__) - {"__version__"}
    anchors = set(re.findall(r'id="parlant_sync\.(?:\w+\.)*?(\w+)"', pages))
    assert names <= anchors, sorted(names - anchors)


def test_the_reference_shows_nothing_internal(site: Path) -> None:
    """A Session, a Turn and a reader are not made by their users."""
    for page in (site / "reference").rglob("*.html"):
        text = re.sub(r"<[^>]+>", "", page.read_text("utf-8"))
        assert not re.search(r"TurnDriver|OpenSession|EventFeed|RestApi|copy_for_waiter", text), page.parent.name


def test_docstrings_are_markdown(site: Path) -> None:
    for page in (site / "reference").rglob("*.html"):
        assert not re.search(r":(?:class|meth|attr|func):", page.read_text("utf-8")), page.parent.name


def test_it_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    text = " ".join(entry["text"] for entry in index["docs"])
    for word in ("DeliveryUncertain", "heartbeat", "uWSGI", "롱 폴링"):
        assert word in text, word


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(https?://[^"]*)"', page.read_text("utf-8"))
        assert loaded == [], page


def test_the_dashboard_and_the_alerts_use_metrics_that_exist(tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry, generate_latest

    from parlant_sync import Client
    from parlant_sync.metrics import register

    registry = CollectorRegistry()
    with Client("http://127.0.0.1:1") as client:
        register(client, registry=registry)
        known = set(METRICS.findall(generate_latest(registry).decode()))
    board = json.loads((OPERATING / "grafana.json").read_text("utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > 8
    used = set(METRICS.findall(" ".join(queries) + (OPERATING / "alerts.yml").read_text("utf-8")))
    assert used <= known, sorted(used - known)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_the_alert_rules(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=OPERATING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
