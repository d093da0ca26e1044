"""Which tests scripts/test.py runs, and what it makes of their outcome; the servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import _env
import _matrix
import _servers_command
import _steps
import _test_command
import pytest

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")


def test_what_is_not_ours_goes_to_pytest() -> None:
    options, rest = _test_command.parse(["--unit", "-k", "turn", "tests/x.py", "--co", "-x", "--full"])
    assert (options.unit, options.full, options.pythons, options.servers) == (True, True, "this", ())
    assert rest == ["-k", "turn", "tests/x.py", "--co", "-x"]


def test_the_newest_server_is_always_used_and_named_ones_are_added() -> None:
    assert _test_command.servers("newest") == ()
    assert _test_command.servers("all") == ("3.0.4", "3.1.2", "3.2.2")
    assert _test_command.servers("3.2.2,newest") == ("3.2.2",)


@pytest.mark.parametrize("arguments", [["--servers", "2.0"], ["--pythons", "3.12"]])
def test_a_wrong_choice_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _test_command.parse(arguments)
    assert caught.value.code == 2
    assert arguments[1] in capsys.readouterr().err


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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own for steps to run in."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # half of the time
    monkeypatch.setattr(_env, "ROOT", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    real\n    slow\n    full\n")
    return tmp_path


def counted(project: Path, text: str, *arguments: str) -> _steps.Steps:
    (project / "test_it.py").write_text(text)
    steps = _steps.Steps()
    steps.pytest("it", Path(sys.executable), ["-q", "-p", "no:cacheprovider", *arguments])
    return steps


@pytest.mark.parametrize(("full", "expected"), [(False, (1, 2)), (True, (2, 3))])
@pytest.mark.slow  # starts pytest
def test_every_test_is_in_exactly_one_part(project: Path, full: bool, expected: tuple[int, int]) -> None:
    parts = [f"not {_test_command.SLOW}", _test_command.SLOW]
    found = [counted(project, MARKED, *_test_command.selection(part, full)).counts.passed for part in parts]
    assert tuple(found) == expected


OUTCOMES = """
import pytest
def test_passes(): pass
def test_fails(): assert False
@pytest.mark.skip
def test_skips(): pass
@pytest.mark.xfail
def test_expected(): assert False
@pytest.fixture
def broken(): raise ValueError
def test_errs(broken): pass
"""


@pytest.mark.slow  # starts pytest
def test_outcomes_are_counted(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = counted(project, OUTCOMES)
    assert steps.counts == _steps.Counts(passed=1, failed=2, skipped=2)
    assert not steps.ok
    assert steps.summary().splitlines()[-1] == "1 passed, 2 failed, 2 skipped"
    assert "$ " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("import os; os._exit(3)", _steps.Counts(failed=1)),  # crashed before it could count
        ("x = 1", _steps.Counts()),  # nothing to run
        ("import nothing_of_that_name", _steps.Counts(failed=1)),
    ],
)
@pytest.mark.slow  # starts pytest
def test_a_run_without_a_passed_test_is_no_success(project: Path, text: str, counts: _steps.Counts) -> None:
    steps = counted(project, text)
    assert steps.counts == counts
    assert not steps.ok


@pytest.mark.slow  # starts pytest
def test_a_usage_error_of_pytest_is_a_failure(project: Path) -> None:
    assert counted(project, "", "--no-such-option").counts.failed == 1


@pytest.mark.slow  # starts pytest
def test_part_without_a_match_is_fine_if_another_has_one(project: Path) -> None:
    steps = counted(project, "def test_x(): pass", "-k", "nothing")
    assert "failed: no test was run" in steps.summary()
    steps.pytest("second", Path(sys.executable), ["-q", "-p", "no:cacheprovider"])
    assert steps.ok
    assert steps.summary().splitlines()[-1] == "1 passed, 0 failed, 0 skipped"


@pytest.mark.slow  # starts pytest
def test_a_step_that_fails_is_named(project: Path) -> None:
    steps = counted(project, "def test_x(): pass")
    assert not steps.run("lint", [sys.executable, "-c", "raise SystemExit(3)"])
    assert not steps.ok
    assert "failed: lint" in steps.summary()


def test_what_is_run_is_shown_as_one_would_type_it(project: Path) -> None:
    command = [
        str(project / ".venv/bin/python"),
        "-m",
        "pytest",
        "--junit-xml=/tmp/x",
        "-o",
        "junit_logging=no",
        "-k",
        "a b",
    ]
    assert _steps.shorten(command) == ".venv/bin/python -m pytest -k 'a b'"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-m", "real", "-k", "turn", "-x"], False),
        (["tests/project/scripts"], True),
        (["-k", "x", "tests/project/scripts/test_scripts_run.py::test_it"], True),
        ([], False),
    ],
)
def test_files_the_caller_names_replace_the_contract_tests(arguments: list[str], expected: bool) -> None:
    assert _matrix.names_a_path(arguments) is expected


def test_floors_become_pins() -> None:
    needed = [
        "requests>=2.33.0",
        "urllib3<3,>=2.8",
        "click >= 8.3.3",
        "tenacity",
        'prometheus-client>=0.21; extra == "prometheus"',
        'pytest>=9; extra == "test"',
    ]
    assert _matrix.floors(needed) == ["requests==2.33.0", "click==8.3.3", "prometheus-client==0.21"]


def test_every_dependency_of_the_project_has_a_floor() -> None:
    needed = _matrix.requirements(Path(sys.executable))
    runtime = [name for name in needed if "extra ==" not in name]
    assert len(runtime) == 4
    assert len(_matrix.floors(runtime)) == 4


def test_servers_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_servers_command, "FOLDER", tmp_path)
    assert _servers_command.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["3.0.4", "3.1.2", "3.2.2", "newest"]
    assert all("not made" in line for line in lines)


def test_a_server_that_cannot_be_made_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: _servers_command.Server) -> Path:
        raise _env.SetupError("no network")

    monkeypatch.setattr(_servers_command.Server, "make", fail)
    assert _servers_command.main(["python", "3.0.4"]) == 1
    assert capsys.readouterr() == ("", "no network\n")


@pytest.mark.parametrize(("within", "tested"), [(None, ["3.0.4", "3.2.2"]), ("40", ["3.0.4"])])
def test_older_servers_are_left_out_when_the_time_is_over(
    within: str | None, tested: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[str] = []
    minutes = iter([39.0, 41.0])
    monkeypatch.setattr(_env, "project", lambda extras: Path(sys.executable))
    monkeypatch.setattr(_test_command, "lint", lambda *_: None)
    monkeypatch.setattr(_steps.Steps, "pytest", lambda *_: True)
    monkeypatch.setattr(_steps.Steps, "seconds", property(lambda steps: 60 * next(minutes)))
    monkeypatch.setattr(_matrix, "on_server", lambda steps, python, name, *_: found.append(name))
    options, rest = _test_command.parse(["--servers", "3.0.4,3.2.2", *([] if within is None else ["--within", within])])
    steps = _test_command.run(options, rest)
    assert found == tested
    left_out = [result.name for result in steps.results]
    assert left_out == ([] if within is None else ["contract tests on Parlant 3.2.2: left out, 40 minutes have passed"])
    assert all(result.ok for result in steps.results)


@POSIX_ONLY
def test_ci_runs_what_everybody_runs() -> None:
    script = _env.ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "python3 scripts/test.py" in script.read_text()
