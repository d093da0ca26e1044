"""Making and keeping environments. No network, and nothing is installed."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import _env
import _lock
import _python
import pytest

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")


def program(path: Path, body: str) -> Path:
    """A stand-in for an interpreter."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_fingerprints_tell_the_parts_apart() -> None:
    assert _env.fingerprint(["a", "b"]) == _env.fingerprint([b"a", "b"])
    assert _env.fingerprint(["ab", "c"]) != _env.fingerprint(["a", "bc"])


def test_a_change_of_what_is_installed_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "parlant_sync").mkdir()
    marks = set()
    for metadata, version in [("a", "1"), ("b", "1"), ("b", "2")]:
        (tmp_path / "pyproject.toml").write_text(metadata)
        (tmp_path / "parlant_sync/_version.py").write_text(version)
        marks.add(_env.project_fingerprint(tmp_path))
    assert len(marks) == 3


class Builder:
    """Stands for `python -m venv` and pip, and keeps count."""

    def __init__(self, folder: Path) -> None:
        self.created = 0
        self.installed: list[list[str]] = []
        self.fails = False
        self.lock = threading.Lock()
        self.environment = _env.Environment(folder)

    def create(self, environment: _env.Environment, base: _python.Interpreter) -> None:
        with self.lock:
            self.created += 1
        environment.python.parent.mkdir(parents=True)
        environment.python.touch()
        (environment.folder / "pyvenv.cfg").touch()

    def pip(self, python: Path, arguments: list[str], *, what: str) -> None:
        assert python.exists()
        with self.lock:
            self.installed.append(list(arguments))
        if self.fails:
            raise _env.SetupError("no network")


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    monkeypatch.setattr(_env, "ROOT", tmp_path)
    monkeypatch.setattr(_env, "LOCKS", tmp_path / "locks")
    made = Builder(tmp_path / ".venv")
    monkeypatch.setattr(_env.Environment, "_create", lambda environment, base: made.create(environment, base))
    monkeypatch.setattr(_env.Environment, "_see_to_pip", lambda self: None)
    monkeypatch.setattr(_env, "run_pip", made.pip)
    monkeypatch.setattr(_env, "project_fingerprint", lambda root=tmp_path: "mark")
    return made


def test_a_second_run_does_nothing(builder: Builder) -> None:
    first = _env.project(["demo"])
    second = _env.project(["demo"])
    assert first == second == builder.environment.python
    assert builder.created == 1
    assert builder.installed == [["install", "-e", ".[demo]"]]


def test_what_another_command_needs_is_added_and_stays(builder: Builder) -> None:
    _env.project(["demo"])
    _env.project(["demo", "test"])
    _env.project(["demo"])
    assert builder.created == 1
    assert builder.installed == [["install", "-e", ".[demo]"], ["install", "-e", ".[demo,test]"]]


def test_a_change_installs_again_into_the_same(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    _env.project(["demo", "test"])
    monkeypatch.setattr(_env, "project_fingerprint", lambda: "another mark")
    _env.project(["demo"])
    assert builder.created == 1
    assert builder.installed[1] == ["install", "-e", ".[demo,test]"]


def test_an_unfinished_install_is_made_anew(builder: Builder) -> None:
    builder.fails = True
    with pytest.raises(_env.SetupError):
        _env.project(["demo"])
    left_over = builder.environment.folder / "half a package"
    left_over.touch()
    builder.fails = False
    _env.project(["demo"])
    assert builder.created == 2
    assert not left_over.exists()


def test_an_environment_the_user_made_is_kept(builder: Builder) -> None:
    builder.create(builder.environment, _python.Interpreter(sys.executable, (3, 11), True))
    theirs = builder.environment.folder / "theirs"
    theirs.touch()
    _env.project(["demo"])
    assert builder.created == 1
    assert theirs.exists()


def test_what_is_no_environment_is_not_removed(builder: Builder) -> None:
    theirs = builder.environment.folder / "precious"
    theirs.parent.mkdir()
    theirs.touch()
    with pytest.raises(_env.SetupError, match="in the way"):
        _env.project(["demo"])
    assert theirs.exists()


def test_a_python_that_was_uninstalled_is_noticed(builder: Builder) -> None:
    python = _env.project(["demo"])
    python.unlink()
    assert _env.project(["demo"]).exists()
    assert builder.created == 2


def test_many_at_a_time_make_it_once(builder: Builder) -> None:
    together = threading.Barrier(8)
    made: list[Path] = []

    def make() -> None:
        together.wait(timeout=10)
        made.append(_env.project(["demo", "test"]))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert made == [builder.environment.python] * 8
    assert builder.created == 1
    assert len(builder.installed) == 1


def test_who_waits_for_the_lock_is_told(tmp_path: Path) -> None:
    told = threading.Event()
    got_it = threading.Event()

    def second() -> None:
        with _lock.held(tmp_path / "locks/x", told.set):
            got_it.set()

    thread = threading.Thread(target=second)
    with _lock.held(tmp_path / "locks/x"):
        thread.start()
        assert told.wait(timeout=10)
        assert not got_it.is_set()
    assert got_it.wait(timeout=10)
    thread.join(timeout=10)


def test_the_callers_settings_do_not_lead_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "mirror")
    clean = _env.environ({"EXTRA": "1"})
    assert "PYTHONPATH" not in clean
    assert "PIP_TARGET" not in clean
    assert clean["PIP_USER"] == "0"
    assert (clean["PIP_INDEX_URL"], clean["EXTRA"]) == ("mirror", "1")


@POSIX_ONLY
def test_pip_is_tried_again_and_its_own_words_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_env, "PAUSES", (0, 0))
    calls = tmp_path / "calls"
    noise = "WARNING: Location 'file:///x' is ignored: it is neither a file nor a directory."
    python = program(tmp_path / "python", f'echo x >> {calls}; echo "{noise}"; echo "ERROR: no route"; exit 1')
    with pytest.raises(_env.SetupError, match="failed 3 times") as caught:
        _env.run_pip(python, ["install", "x"], what="installing")
    assert calls.read_text().count("x") == 3
    assert "ERROR: no route" in str(caught.value)
    assert "is ignored" not in str(caught.value) + capsys.readouterr().err


@POSIX_ONLY
def test_pip_may_fail_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_env, "PAUSES", (0, 0))
    python = program(tmp_path / "python", f"test -e {tmp_path}/tried && exit 0; touch {tmp_path}/tried; exit 1")
    _env.run_pip(python, ["install", "x"], what="installing")


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("pip 23.0.1 from /x (python 3.10)", (23, 0)),
        ("WARNING: something\npip 26.3 from /x", (26, 3)),
        ("No module named pip", (0, 0)),
    ],
)
def test_the_version_of_pip_is_read(told: str, version: tuple[int, int]) -> None:
    assert _env.pip_version(told) == version


@POSIX_ONLY
def test_a_python_without_ensurepip_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = _python.Interpreter(sys.executable, (3, 11), False)
    other = _python.Interpreter("/opt/python3.12", (3, 12), True)
    monkeypatch.setattr(_python, "probe", lambda path: bare)
    monkeypatch.setattr(_python, "newest", lambda: other)
    assert _env.base_interpreter() == other
    monkeypatch.setattr(_python, "newest", lambda: None)
    with pytest.raises(_env.SetupError, match=r"ensurepip.*apt-get install python3"):
        _env.base_interpreter()


@POSIX_ONLY
@pytest.mark.parametrize(
    ("told", "upgraded"), [("pip 23.0.1 from x", True), ("pip 26.3 from x", False), ("No module named pip", True)]
)
def test_an_old_or_missing_pip_is_seen_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, upgraded: bool
) -> None:
    monkeypatch.setattr(_env, "ROOT", tmp_path)
    environment = _env.Environment(tmp_path / ".venv")
    failed = 1 if told.startswith("No") else 0
    program(
        environment.python,
        f"""echo "$*" >> {tmp_path}/calls
case "$*" in *--version) echo "{told}"; exit {failed};; esac""",
    )
    environment._see_to_pip()
    calls = (tmp_path / "calls").read_text()
    assert ("--upgrade pip>=25.0" in calls) is upgraded
    assert ("ensurepip" in calls) is bool(failed)
