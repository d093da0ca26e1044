"""Which Python the scripts run with."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import _python
import pytest

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")


SCRIPTS = Path(_python.__file__).parent


def program(path: Path, body: str) -> Path:
    """A stand-in for an interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def python_program(path: Path, version: str, *, venv: str = "true") -> Path:
    major, minor = version.split(".")
    return program(path, f"""echo '["{path}", {major}, {minor}, {venv}]'""")


def test_the_running_python_is_probed() -> None:
    found = _python.probe(sys.executable)
    assert found is not None
    assert found.version == sys.version_info[:2]
    assert found.label == "{}.{}".format(*sys.version_info[:2])


@POSIX_ONLY
@pytest.mark.parametrize("body", ["exit 127", "echo hello", "echo", "echo '[1]'", "echo 'pyenv: no such command' >&2"])
def test_what_is_no_python_is_passed_over(tmp_path: Path, body: str) -> None:
    assert _python.probe(str(program(tmp_path / "python3.12", body))) is None


def test_a_file_that_is_not_there_is_passed_over(tmp_path: Path) -> None:
    assert _python.probe(str(tmp_path / "python3.12")) is None


@POSIX_ONLY
def test_the_first_that_works_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "shims/python3.99", "exit 127")
    python_program(tmp_path / "other/python3.99", "3.98")
    python_program(tmp_path / "bare/python3.99", "3.99", venv="false")
    good = python_program(tmp_path / "good/python3.99", "3.99")
    folders = [str(tmp_path / name) for name in ("missing", "shims", "other", "bare", "good")]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    found = _python.find((3, 99))
    assert found is not None
    assert found.path == str(good)


def test_pyenv_comes_after_path_newest_release_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("3.9.2", "3.12.10", "3.12.9", "3.13-dev", "pypy3.10"):
        (tmp_path / "versions" / name / "bin").mkdir(parents=True)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "first")
    shown = [Path(folder).parent.name or folder for folder in _python.search_path()]
    assert shown == ["first", "3.12.10", "3.12.9", "3.9.2"]


@pytest.mark.parametrize("name", ["_python.py", "test.py", "demo.py", "servers.py"])
def test_an_old_python_can_read_it(name: str) -> None:
    ast.parse((SCRIPTS / name).read_text("utf-8"), feature_version=(3, 6))


@pytest.mark.parametrize("name", ["test.py", "demo.py", "servers.py"])
def test_an_old_python_goes_no_further_than_the_check(name: str) -> None:
    body = ast.parse((SCRIPTS / name).read_text("utf-8")).body
    assert [ast.unparse(part) for part in body[1:3]] == ["import _python", "_python.require()"]


@pytest.mark.parametrize("version", [(3, 6), (3, 7), (3, 8), (3, 9)])
def test_a_real_old_python_says_one_clear_line_or_goes_on(version: tuple[int, int], tmp_path: Path) -> None:
    runnable = (path for path in _python.candidates(version) if _python.probe(path))
    old = next(runnable, None)
    if old is None:
        pytest.skip("no such Python on this machine")
    real = _python.probe(old)
    assert real is not None
    command = [real.path, str(SCRIPTS / "servers.py"), "--help"]
    nowhere = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    alone = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=60)
    assert alone.returncode == 1
    assert alone.stderr.count("\n") == 1
    assert "needs Python 3.10 or newer; this is Python {}.{}".format(*version) in alone.stderr

    current = _python.probe(sys.executable)
    assert current is not None
    (tmp_path / f"python{current.label}").symlink_to(current.path)
    helped = subprocess.run(command, env=nowhere, capture_output=True, text=True, timeout=60)
    assert helped.returncode == 0, helped.stderr
    assert "usage: scripts/servers.py" in helped.stdout
    assert f"going on with {current.label}" in helped.stderr


def test_too_old_and_nothing_newer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(_python, "newest", lambda: None)
    with pytest.raises(SystemExit) as caught:
        _python.require()
    assert caught.value.code == 1
    assert "needs Python 3.10 or newer; this is Python 3.9" in capsys.readouterr().err


@POSIX_ONLY
def test_too_old_but_a_newer_one_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    newer = _python.Interpreter("/opt/python3.12", (3, 12), True)
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(sys, "argv", ["scripts/demo.py", "--keep"])
    monkeypatch.setattr(_python, "newest", lambda: newer)
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    _python.require()
    [(path, command, environment)] = started
    assert (path, command) == ("/opt/python3.12", ["/opt/python3.12", "scripts/demo.py", "--keep"])
    assert environment["PARLANT_SYNC_REEXECUTED"] == "1"  # so that it cannot go round in circles
