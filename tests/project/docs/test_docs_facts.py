"""What the pages say of the code, where that can be held against it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from support import docs_blocks
from support.docs_runner import Runner

import parlant_sync
from parlant_sync.testing import versions

DOCS = docs_blocks.ROOT / "docs"
PACKAGE = Path(parlant_sync.__file__).parent
ON_TOP = ("batch", "cli", "demo", "testing")
CORE = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in ON_TOP]


def section(page: str, heading: str) -> str:
    text = (DOCS / page).read_text("utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in found if not set("".join(row)) <= set("- ")]


def test_every_warning_is_explained_and_no_other() -> None:
    """Those of the library; the command line says on the line itself what to do."""
    warnings = []
    for path in CORE:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            # A level that is worked out may be a warning.
            levels = {"logging.WARNING", "logging.ERROR", "level"} & {ast.unparse(argument) for argument in node.args}
            if called in ("logger.warning", "logger.error") or (called == "_log" and levels):
                warnings += [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    # As the page shows it: with a number for what differs.
    shown = [re.sub(r"%(\.0f|d|s)", "60", text) for text in warnings]
    explained = [row[0].strip("`") for row in rows(section("troubleshooting.md", "Warnings in the log"))[1:]]
    assert [sum(line in text for text in shown) for line in explained] == [1] * len(shown), shown


def test_what_troubleshooting_quotes_is_said() -> None:
    sources = "".join(path.read_text("utf-8") for path in CORE)
    quoted = re.findall(r'^- "(.+?)"', (DOCS / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    assert len(quoted) > 5
    assert [text for text in quoted if text not in sources] == []


@pytest.mark.parametrize("page", ["docs/reliability.md", "CONTRIBUTING.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    text = (docs_blocks.ROOT / page).read_text("utf-8")
    files = {path.name: path.read_text("utf-8") for path in (docs_blocks.ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"\b(test_\w+\.py)(?:::(?:\w+::)?(test_\w+))?", text)
    assert named
    for file, function in named:
        assert file in files, f"{page}: {file}"
        assert f"def {function}" in files[file], f"{page}: {file}::{function}"


def test_defaults() -> None:
    told = {row[0].strip("`"): row[1] for row in rows(section("how-it-works.md", "Limits and pauses"))[1:]}
    parameters = inspect.signature(parlant_sync.Client).parameters
    assert told == {name: f"{parameters[name].default:,}" for name in told}
    assert set(told) == {name for name, p in parameters.items() if type(p.default) is int}


def test_what_older_versions_lack() -> None:
    text = (DOCS / "migrating.md").read_text("utf-8").replace("\n", " ")
    known = [versions.version(f"3.{minor}") for minor in range(4)]
    assert [v.name for v in known if not v.metadata] == ["3.0"]
    assert "3.0 keeps no metadata, and so no keys" in text
    first = {next(v.name for v in known if v.stages), next(v.name for v in known if v.labels)}
    assert re.findall(r"streaming and labels begin with (\d\.\d)\.", text) == sorted(first)


@pytest.fixture
def tasks(runner: Runner) -> Any:
    """The Celery recipe, without a broker."""
    pytest.importorskip("celery", reason="celery is in the extra 'test'")
    (block,) = [b for b in docs_blocks.blocks(DOCS / "workers.md") if b.notes.get("file") == "tasks.py"]
    runner.run(block)
    module = importlib.import_module("tasks")
    module.app.conf.task_always_eager = True
    return module


def test_a_celery_task_is_tried_again_when_the_server_fails(tasks: Any, runner: Runner) -> None:
    """From its first request on: attaching to the session is one, too."""
    session_id = runner.server.create_session("support")
    runner.server.fail_next("GET /sessions/*", 500, times=3)  # more than the library repeats by itself
    assert tasks.ask.delay(session_id, "Hi").get() == "Hello.\n\nHow can I help?"


def test_a_celery_task_that_is_delivered_twice_posts_once(tasks: Any, runner: Runner) -> None:
    session_id = runner.server.create_session("support")
    for _ in range(2):
        again = tasks.ask.apply((session_id, "Hi"), task_id="the same")
        assert again.get() == "Hello.\n\nHow can I help?"
    assert tasks.ask.apply((session_id, "Hi"), task_id="another").get() == "Hello.\n\nHow can I help?"
    posted = [e["data"]["message"] for e in runner.server.events(session_id) if e["source"] == "customer"]
    assert posted == ["Hi", "Hi"]  # by two tasks
