"""The built wheel and sdist: what is in them, and that they work with no repository in sight."""

from __future__ import annotations

import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "parlant_sync"
VERSION = re.findall(r'__version__ = "(.+)"', (PACKAGE / "_version.py").read_text("utf-8"))[0]

# Building and installing fetch packages.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shipped(built: Path) -> set[str]:
    """The files of the package: all must be in the wheel."""
    source = built.parent / "source"
    return {path.relative_to(source).as_posix() for path in (source / "parlant_sync").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel made from it; built from a copy: nothing is left in the project."""
    folder = tmp_path_factory.mktemp("build")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "source", cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"parlant_sync-{VERSION}-py3-none-any.whl"


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"parlant_sync-{VERSION}.dist-info/METADATA"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder.parent)
    return programs


def test_one_wheel_and_one_sdist_that_the_index_would_take(built: Path) -> None:
    names = sorted(path.name for path in built.iterdir())
    assert names == [f"parlant_sync-{VERSION}-py3-none-any.whl", f"parlant_sync-{VERSION}.tar.gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()), cwd=built)


def test_the_wheel_holds_the_package_and_nothing_else(built: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == shipped(built)
    assert "parlant_sync/py.typed" in inside
    assert f"parlant_sync-{VERSION}.dist-info/licenses/LICENSE" in names


def test_the_sdist_holds_what_is_needed_to_test_it(built: Path) -> None:
    with tarfile.open(built / f"parlant_sync-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml", "setup.cfg"}
    wanted |= {
        "scripts/test.py",
        "scripts/dev/environments.py",
        "tests/project/test_packaging.py",
        "tests/traces/3.0.4/simple.json",
    } | shipped(built)
    assert wanted <= names
    # Nothing that a run of the tests or of a tool has left.
    made = {name for name in names if name.startswith("parlant_sync.egg-info")} | {"PKG-INFO", ""}
    source = built.parent / "source"
    assert {name for name in names - made if not (source / name).exists()} == set()
    assert not [name for name in names if re.search(r"__pycache__|\.pyc|_cache", name)]


def test_the_metadata_is_complete(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "parlant-sync"
    assert metadata["Version"] == VERSION
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Summary"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    users, ours = {"demo", "speed", "prometheus", "dask", "otel"}, {"docs", "test", "unit", "uwsgi"}
    assert set(metadata.get_all("Provides-Extra", [])) == users | ours
    classifiers = metadata.get_all("Classifier", [])
    assert {f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 16)} <= set(classifiers)
    assert "Typing :: Typed" in classifiers
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(re.split("[^a-z0-9]", line)[0] for line in needed) == ["click", "requests", "tenacity", "urllib3"]


def test_it_imports_without_a_word(installed: Path, tmp_path: Path) -> None:
    code = "import parlant_sync, importlib.metadata as m; print(parlant_sync.__file__, m.version('parlant-sync'))"
    path, version = run(installed / "python", "-I", "-W", "error", "-c", code, cwd=tmp_path).split()
    assert Path(path).is_relative_to(installed.parent)
    assert version == VERSION


def test_every_module_imports(installed: Path, tmp_path: Path) -> None:
    # The server's folder is a program of its own, for an interpreter that has `parlant`.
    code = """
import importlib, pkgutil, parlant_sync
for found in pkgutil.walk_packages(parlant_sync.__path__, "parlant_sync.", onerror=lambda name: None):
    if ".demo.server" in found.name or found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
    except ImportError as error:  # of an extra that was not asked for; ours say which
        missing = (error.name or "").partition(".")[0]
        if "pip install" not in str(error) and missing not in ("distributed", "parlant", "pytest"):
            raise
    print(found.name)
"""
    assert "parlant_sync._version" in run(installed / "python", "-I", "-W", "error", "-c", code, cwd=tmp_path).split()


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    assert "send" in run(installed / "parlant-sync", "--help", cwd=tmp_path)


def test_the_pytest_plugin_is_announced(installed: Path, tmp_path: Path) -> None:
    code = """
import importlib.metadata, importlib.util
[found] = importlib.metadata.entry_points(group="pytest11")
print(found.name, found.value, importlib.util.find_spec(found.value) is not None)
"""
    found = run(installed / "python", "-I", "-c", code, cwd=tmp_path)
    assert found.split() == ["parlant_sync", "parlant_sync.pytest_plugin", "True"]


@pytest.mark.full
def test_the_walk_through_in_a_folder_of_somebody_else(installed: Path, tmp_path: Path) -> None:
    """docs/testing.md from the first step to the third, and nothing but what it says: pytest finds the plugin."""
    run(installed / "python", "-m", "pip", "install", "--quiet", "pytest", "flask", cwd=installed)
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", page, re.DOTALL))
    assert sorted(files) == ["app.py", "test_app.py"]
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    command = (installed / "python", "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "test_app.py")
    said = run(*command, cwd=tmp_path)
    assert f"{files['test_app.py'].count('def test_')} passed" in said
    assert str(ROOT) not in said


@pytest.mark.real
def test_the_installed_demo_server_runs(installed: Path, tmp_path: Path) -> None:
    """Its data files came along. The server itself is this environment's, the files are the installed ones."""
    code = """
import sys
from parlant_sync.demo.launcher import DemoServer
with DemoServer(python=sys.argv[1]) as server:
    print(*sorted(server.agents))
"""
    server = os.environ.get("PARLANT_SYNC_SERVER_PYTHON", sys.executable)
    agents = run(installed / "python", "-I", "-c", code, server, cwd=tmp_path)
    assert agents.split() == ["research", "welfare"]
