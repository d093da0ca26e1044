"""Imports go one way, the public face is a decision, and importing is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import parlant_sync

PACKAGE = Path(parlant_sync.__file__).parent
# Six layers, lowest first. A file imports from its own layer and from lower ones; within a layer there is no circle.
LAYERS = (
    (
        *"_version _deadline _file_lock _process _settings _single_owner _tracing _validation".split(),
        *("errors", "events", "_http.redaction"),
    ),
    ("_http",),
    ("_api",),
    ("_polling",),
    ("_turns", "turn"),
    ("reader", "session", "_open_session", "_registry", "client", "__init__"),
)
ON_TOP = {"batch", "cli", "demo", "testing", "__main__", "metrics", "pytest_plugin"}
PUBLIC = {"", "errors", "events", "testing", "batch", "demo", "cli", "metrics", "_version", "_file_lock"}


def module(path: Path) -> str:
    """``_http/adapter.py`` -> ``_http.adapter``; a package is its ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def layer(name: str) -> int | None:
    for number, names in enumerate(LAYERS):
        if name in names:
            return number
    for number, names in enumerate(LAYERS):
        if name.split(".")[0] in names:
            return number
    return None


def imports(path: Path, *, typing: bool = False) -> set[str]:
    """The modules of this package that a file imports when it is loaded; with ``typing`` those for types as well."""
    found: set[str] = set()
    body = [
        n
        for n in ast.parse(path.read_text()).body
        if typing or not (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n))
    ]
    for node in (n for top in body for n in ast.walk(top)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("parlant_sync"):
            base = (node.module or "").removeprefix("parlant_sync").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.add(inner if is_module(inner) else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".", 1)[1] for a in node.names if a.name.startswith("parlant_sync.")}
    return found


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


ALL = sorted(PACKAGE.rglob("*.py"))
CORE = [p for p in ALL if module(p).split(".")[0] not in ON_TOP]


@pytest.mark.parametrize("path", CORE, ids=module)
def test_imports_go_down(path: Path) -> None:
    own = layer(module(path))
    assert own is not None, f"{module(path)} is in no layer"
    for imported in imports(path, typing=module(path) != "__init__") - {""}:
        below = layer(imported)
        assert below is not None, f"{module(path)} imports {imported}, which is in no layer"
        assert below <= own, f"{module(path)} imports {imported}"


def test_there_is_no_circle() -> None:
    # (The files of the demo's server are another program.)
    graph = {module(path): imports(path) for path in ALL if path.parent.name != "server"}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for following in graph.get(name, ()):
                visit(following, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("folder", ["batch", "cli", "demo", "testing"])
def test_what_is_on_top_uses_public_names_only(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        if "server" in path.parts and folder == "demo":
            continue  # runs in another interpreter, and imports nothing of ours
        inside = {name for name in imports(path) if name.split(".")[0] not in PUBLIC}
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
    slow = ("orjson", "html", "uuid", "difflib")
    found = f"print([m for m in {(*heavy, *slow, 'parlant_sync.testing')!r} if m in sys.modules])"
    assert run(f"import sys; from parlant_sync import Client, Session, errors; {found}") == "[]\n"


def test_the_package_alone_loads_nothing() -> None:
    code = "import sys, parlant_sync; print({'requests', 'urllib3', 'ssl', 'logging'} & set(sys.modules))"
    assert run(code) == "set()\n"
    assert run("import parlant_sync; print(parlant_sync.errors.NotFoundError.__name__)") == "NotFoundError\n"
    assert run("from parlant_sync import *; print(Client.__module__)") == "parlant_sync.client\n"
    assert run("import parlant_sync; print(parlant_sync.nothing if hasattr(parlant_sync, 'nothing') else 'none')") == (
        "none\n"
    )
