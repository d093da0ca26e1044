"""The package: what it exports, what it imports, and the pytest plugin."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import parlant_sync.testing

FILES = sorted(Path(parlant_sync.testing.__file__).parent.glob("*.py"))


def test_exports():
    names = parlant_sync.testing.__all__
    assert sorted(names) == ["AgentScript", "FakeServer", "Hold", "HumanScript", "Request", "Response"]
    for name in names:
        assert getattr(parlant_sync.testing, name).__doc__


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_only_the_standard_library_is_needed(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, "nothing of parlant_sync but what is in this package"
            names = [node.module or ""] if node.level == 0 else []
        else:
            continue
        for name in names:
            of_client = (file.name, name) == ("server.py", "parlant_sync")  # FakeServer.client() is for this library
            assert of_client or name.partition(".")[0] in sys.stdlib_module_names, name


def test_imports_go_in_no_circle():
    """Those for type checking alone count, too: a reader follows them as well."""
    imported = {
        file.stem: {
            node.module
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.level == 1
        }
        for file in FILES
    }
    graphlib.TopologicalSorter(imported).prepare()


OF_A_USER = """
import sys
import urllib.request

def test_nothing_is_loaded_for_those_who_do_not_use_it():  # pytest loads the plugin in every project
    assert "parlant_sync.pytest_plugin" in sys.modules
    assert not {"parlant_sync.client", "requests", "urllib3"} & set(sys.modules)

def test_the_server(parlant_server):
    parlant_server.agent("support")
    with urllib.request.urlopen(parlant_server.base_url + "/agents", timeout=5) as answer:
        assert answer.status == 200

def test_a_fresh_one(parlant_server):
    assert parlant_server.requests == []

def test_the_client(parlant_server, parlant_client):
    parlant_server.agent("support").replies("Hello")
    assert [agent.id for agent in parlant_client.agents()] == ["support"]
    assert parlant_client.create_session("support").send("hi", timeout=10).text == "Hello"

def test_it_does_not_wait_in_vain_for_minutes(parlant_client):
    assert parlant_client._settings.turn_timeout == 30
"""


def test_the_plugin(tmp_path):
    """With no other plugin, in the order of the file."""
    (tmp_path / "test_it.py").write_text(OF_A_USER)
    root = str(Path(parlant_sync.testing.__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": path}
    environment.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "parlant_sync.pytest_plugin", "-W", "error", str(tmp_path)]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert "5 passed" in answer.stdout, answer.stdout + answer.stderr
