"""Imports go one way, the public face is a decision, and importing is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import parlant_sync

PACKAGE = Path(parlant_sync.__file__).parent
# A file imports only from lower ranks.
RANKS = {
    "_version": 0,
    "alarms": 0,
    "claim": 0,
    "decoding": 0,
    "errors": 0,
    "events": 0,
    "redaction": 0,
    "shutdown": 0,
    "users": 0,
    "changes": 1,
    "checks": 1,
    "deadline": 1,
    "dialing": 1,
    "idle": 1,
    "interrupt": 1,
    "mailbox": 1,
    "turns": 1,
    "answers": 2,
    "connections": 2,
    "gate": 2,
    "growing": 2,
    "retry": 2,
    "settings": 2,
    "hub": 3,
    "pace": 3,
    "outgoing": 3,
    "pools": 3,
    "refusals": 3,
    "steady": 3,
    "transcript": 3,
    "pauses": 4,
    "transport": 4,
    "asking": 5,
    "api": 6,
    "delivery": 7,
    "feed": 7,
    "poller": 7,
    "reader": 8,
    "turn": 8,
    "starter": 9,
    "session": 10,
    "registry": 11,
    "client": 12,
    "__init__": 13,
}
ON_TOP = {"batch", "cli", "demo", "testing", "__main__", "metrics", "pytest_plugin"}


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, those for type checking alone left out."""
    found: set[str] = set()
    body = [
        n for n in ast.parse(path.read_text()).body if not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n))
    ]
    for node in (n for top in body for n in ast.walk(top)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("parlant_sync"):
            name = (node.module or "").removeprefix("parlant_sync").removeprefix(".")
            found |= {name.split(".")[0]} if name else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("parlant_sync.")}
    return found


def test_every_file_has_a_rank() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} <= set(RANKS) | ON_TOP


@pytest.mark.parametrize("name", sorted(RANKS))
def test_imports_go_down(name: str) -> None:
    for imported in imports(PACKAGE / f"{name}.py") & (set(RANKS) | ON_TOP):
        assert RANKS.get(imported, 99) < RANKS[name], f"{name} imports {imported}"


@pytest.mark.parametrize("folder", ["batch", "cli", "demo", "testing"])
def test_what_is_on_top_uses_public_names_only(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        if "server" in path.parts and folder == "demo":
            continue  # runs in another interpreter, and imports nothing of ours
        inside = imports(path) & set(RANKS) - {"_version", "__init__", "errors"}
        assert not inside, f"{path.relative_to(PACKAGE)} imports {inside}"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_importing_is_silent() -> None:
    assert run("import parlant_sync") == ""


def test_importing_is_light() -> None:
    """What only some users need is loaded when it is needed."""
    heavy = ("tenacity", "click", "asyncio", "parlant_sync.cli", "parlant_sync.batch", "parlant_sync.demo")
    found = f"print([m for m in {(*heavy, 'parlant_sync.testing')!r} if m in sys.modules])"
    assert run(f"import sys; from parlant_sync import Client, Session, errors; {found}") == "[]\n"


def test_the_package_alone_loads_nothing() -> None:
    code = "import sys, parlant_sync; print({'requests', 'urllib3', 'ssl', 'logging'} & set(sys.modules))"
    assert run(code) == "set()\n"
    assert run("import parlant_sync; print(parlant_sync.errors.NotFoundError.__name__)") == "NotFoundError\n"
    assert run("from parlant_sync import *; print(Client.__module__)") == "parlant_sync.client\n"
    assert run("import parlant_sync; print(parlant_sync.nothing if hasattr(parlant_sync, 'nothing') else 'none')") == (
        "none\n"
    )


def test_exports() -> None:
    for name in parlant_sync.__all__:
        assert hasattr(parlant_sync, name)
    public = {name for name in vars(parlant_sync) if name.isidentifier() and not name.startswith("_")}
    modules = set(RANKS) | ON_TOP | {"TYPE_CHECKING"}
    assert public - modules <= set(parlant_sync.__all__)
