"""The scripts: environments that are made once, which tests are run, and how they are counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.append(str(SCRIPTS))

from dev import environments, steps, testing  # noqa: E402

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")
pytestmark = pytest.mark.slow  # most start pytest, or an interpreter


# -- environments


def environment(folder: Path) -> None:
    """What ``python -m venv`` makes, as far as the scripts look at it."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").touch()
    (folder / "pyvenv.cfg").touch()


@pytest.fixture
def installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A project in ``tmp_path``. Environments are made without pip; the list has what pip would have installed."""
    made: list[list[str]] = []
    (tmp_path / "parlant_sync").mkdir()
    for name in environments.SOURCES:
        (tmp_path / name).write_text("first")

    def run(command: list[str], failed: str) -> None:
        if "venv" in command:
            environment(Path(command[-1]))
        else:
            assert Path(command[0]).exists()
            made.append(command[command.index("5") + 1 :])

    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "run", run)
    return made


PIP = ["--upgrade", environments.OLDEST_PIP]


@POSIX_ONLY
def test_an_environment_is_made_once_and_added_to(installs: list[list[str]], tmp_path: Path) -> None:
    first = environments.project("demo")
    assert environments.project("demo") == first == tmp_path / ".venv/bin/python"
    assert installs == [PIP, ["-e", ".[demo]"]]
    environments.project("test")
    environments.project("demo")  # what another script needs stays
    assert installs[2:] == [PIP, ["-e", ".[demo,test]"]]


@POSIX_ONLY
@pytest.mark.parametrize("source", environments.SOURCES)
def test_a_change_of_the_sources_installs_again(installs: list[list[str]], tmp_path: Path, source: str) -> None:
    environments.project("test")
    (tmp_path / source).write_text("second")
    environments.project("test")
    assert installs == 2 * [PIP, ["-e", ".[test]"]]


@POSIX_ONLY
def test_an_environment_of_the_user_is_kept_and_another_folder_is_in_the_way(
    installs: list[list[str]], tmp_path: Path
) -> None:
    environment(tmp_path / ".venv")
    (tmp_path / ".venv/theirs").touch()
    environments.project("test")
    assert (tmp_path / ".venv/theirs").exists()
    (tmp_path / ".servers/3.0.4").mkdir(parents=True)
    with pytest.raises(environments.SetupError, match="is in the way"):
        environments.ensure(tmp_path / ".servers/3.0.4", ["parlant"])


@POSIX_ONLY
def test_two_scripts_make_one_environment(installs: list[list[str]], tmp_path: Path) -> None:
    """The second waits for the first, and then finds it ready."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from pathlib import Path; from dev import environments as e;"
        "e.ROOT = Path(sys.argv[3]); venv = e.ROOT / '.venv';"
        "e.run = lambda c, f: open(e.ROOT / 'installs', 'a').write('install\\n') if 'pip' in c else "
        "(venv / 'bin').mkdir(parents=True) or (venv / 'bin/python').touch() or (venv / 'pyvenv.cfg').touch();"
        "e.project('test')"
    )
    command = [sys.executable, "-c", code, str(SCRIPTS), str(SCRIPTS.parent), str(tmp_path)]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait(timeout=60) for process in running] == [0] * 4
    assert (tmp_path / "installs").read_text().count("install") == 2  # pip itself, and the project


@pytest.mark.parametrize("name", ["demo", "test", "bench", "soak", "servers"])
def test_an_old_python_gets_one_clear_line(name: str, tmp_path: Path) -> None:
    code = f"import sys; sys.version_info = (3, 9); import runpy; runpy.run_path({str(SCRIPTS / name)!r} + '.py')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs Python 3.10 or newer" in done.stderr
    assert "Traceback" not in done.stderr


# -- which tests are run


def test_what_is_not_ours_goes_to_pytest() -> None:
    options, rest = testing.parse(["--unit", "-k", "turn", "tests/x.py", "--co", "-x", "--full"])
    assert (options.unit, options.full, options.pythons, options.servers) == (True, True, (), ())
    assert rest == ["-k", "turn", "tests/x.py", "--co", "-x"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-m", "real", "-k", "turn", "-x"], False),
        (["tests/project"], True),
        (["-k", "x", "tests/project/test_scripts.py::test_it"], True),
        ([], False),
    ],
)
def test_a_path_is_recognised(arguments: list[str], expected: bool) -> None:
    assert testing.names_a_path(arguments) is expected
    assert bool(testing.side_by_side(arguments)) is not expected


def test_one_file_is_run_without_linters_and_without_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    extras: list[tuple[str, ...]] = []
    monkeypatch.setattr(environments, "project", lambda *names: extras.append(names) or Path("python"))
    monkeypatch.setattr(steps.Steps, "_execute", lambda *_, **__: (0, 0.0))
    found = testing.run(*testing.parse(["--unit", "tests/project/test_scripts.py"]))
    assert [result.name for result in found.results] == ["unit tests"]
    assert extras == [("test",)]


# -- how they are counted


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own for pytest to run in."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # half of the time
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    real\n    slow\n    full\n")
    return tmp_path


def counted(project: Path, text: str, *arguments: str) -> steps.Steps:
    (project / "test_it.py").write_text(text)
    run = steps.Steps()
    run.pytest("it", Path(sys.executable), ["-q", "-p", "no:cacheprovider", *arguments])
    return run


MARKED = """
import pytest
@pytest.mark.real
def test_real(): pass
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.full
def test_full(): pass
@pytest.mark.real
@pytest.mark.full
def test_full_and_real(): pass
def test_plain(): pass
"""
OUTCOMES = """
import pytest
def test_passes(): pass
def test_fails(): assert False
@pytest.mark.skip
def test_skips(): pass
@pytest.fixture
def broken(): raise ValueError
def test_errs(broken): pass
"""


SECOND_TIME = """
from pathlib import Path
def test_needs_a_second_run():
    marker = Path(__file__).with_name("ran")
    ran = marker.exists()
    marker.touch()
    assert ran
def test_passes(): pass
"""


@pytest.mark.parametrize(("text", "ok"), [(SECOND_TIME, True), (OUTCOMES, False)], ids=["unsteady", "broken"])
def test_failed_tests_run_once_more_alone(project: Path, text: str, ok: bool) -> None:
    (project / "test_it.py").write_text(text)
    run = steps.Steps(retry_alone=True)
    run.pytest("it", Path(sys.executable), ["-q"])
    assert run.ok is ok
    assert run.counts == (steps.Counts(2, 0, 0) if ok else steps.Counts(1, 2, 1))
    assert ("passed alone: test_it.test_needs_a_second_run" in run.summary()) is ok


ONE_FAILS = """
def test_fails(): assert False
def test_passes(): pass
"""
LATE_MODULE = """
from pathlib import Path
marker = Path(__file__).with_name("ran")
ran = marker.exists()
marker.touch()
assert ran
def test_passes(): pass
"""
# As another run in the same clone does: it writes down what has failed there.
OTHER_RUN = """
from pathlib import Path
def pytest_unconfigure(config):
    path = Path(config.rootpath, ".pytest_cache/v/cache/lastfailed")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"test_it.py::test_passes": true}')
"""


@pytest.mark.parametrize(
    ("files", "arguments"),
    [
        ({"test_it.py": SECOND_TIME + "def test_fails(): assert False"}, ["-x"]),
        ({"test_it.py": LATE_MODULE, "test_others.py": "def test_fails(): assert False"}, []),
        ({"test_it.py": ONE_FAILS, "conftest.py": OTHER_RUN}, []),
    ],
    ids=["stopped at the first", "a module that could not be imported", "two runs in one clone"],
)
def test_what_did_not_run_has_not_passed_alone(project: Path, files: dict[str, str], arguments: list[str]) -> None:
    for name, text in files.items():
        (project / name).write_text(text)
    run = steps.Steps(retry_alone=True)
    run.pytest("it", Path(sys.executable), ["-q", *arguments])
    assert not run.ok
    assert run.unsteady == []


@pytest.mark.parametrize(("full", "expected"), [(False, [1, 2]), (True, [2, 3])])
def test_every_test_is_in_exactly_one_part(project: Path, full: bool, expected: list[int]) -> None:
    parts = [f"not {testing.SLOW}", testing.SLOW]
    found = [counted(project, MARKED, *testing.selection(part, full)).counts.passed for part in parts]
    assert found == expected


@pytest.mark.parametrize(
    ("text", "arguments", "counts"),
    [
        (OUTCOMES, [], (1, 2, 1)),
        ("import os; os._exit(3)", [], (0, 1, 0)),  # crashed before it could count
        ("import nothing_of_that_name", [], (0, 1, 0)),
        ("", ["--no-such-option"], (0, 1, 0)),
        ("x = 1", [], (0, 0, 0)),  # nothing to run
    ],
)
def test_a_run_that_tested_nothing_or_failed_is_no_success(
    project: Path, text: str, arguments: list[str], counts: tuple[int, int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    run = counted(project, text, *arguments)
    assert run.counts == counts
    assert not run.ok
    assert run.summary().splitlines()[-1] == "{} passed, {} failed, {} skipped".format(*counts)
    assert "$ " in capfd.readouterr().out


def test_a_part_without_a_match_is_fine_if_another_has_one(project: Path) -> None:
    run = counted(project, "def test_x(): pass", "-k", "nothing")
    assert "failed: no test was run" in run.summary()
    run.pytest("second", Path(sys.executable), ["-q", "-p", "no:cacheprovider"])
    assert run.ok
    run.run("lint", [sys.executable, "-c", "raise SystemExit(3)"])
    assert not run.ok
    assert "failed: lint" in run.summary()
