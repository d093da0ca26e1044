"""Runs the blocks of a page."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from parlant_sync.testing import FakeServer
from support.docs_blocks import Block

# The addresses that the pages use for "your server".
ADDRESSES = ("http://127.0.0.1:8800", "http://localhost:8800")
# A folder and files that the pages take as given.
FOLDER = "/var/lib/reports"
FILES = {
    "cases.jsonl": '{"id": "1", "message": "What is long polling?", "expected": "news"}\n',
    "questions.csv": "id,message\n1,What is long polling?\n",
}
# Nothing of the machine's: no configuration, no kept conversations.
_NOT_KEPT = ("PARLANT_", "XDG_", "PYTEST")


class Runner:
    """Runs the blocks of one group, in order."""

    def __init__(self, server: FakeServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.output = ""
        self.names: dict[str, Any] = {"__name__": "__docs__"}
        for name, content in FILES.items():
            (folder / name).write_text(content, "utf-8")

    def run(self, block: Block) -> None:
        text = block.text
        for address in ADDRESSES:
            text = text.replace(address, self.server.base_url)
        text = text.replace(FOLDER, str(self.folder))
        reason = block.notes.get("not run")
        assert reason != "", f"{block.name}: say why it is not run"
        if "output" in block.notes:
            # An address may stand there as it was written, in a text that talks about it.
            wanted = (text.strip(), block.text.strip())
            assert self.output.strip() in wanted, f"{block.name}: this is not what the block before it prints"
        elif "file" in block.notes:
            target = self.folder / block.notes["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
            if block.language == "python":
                compile(text, block.name, "exec")
        elif block.language == "python":
            self._python(block, text, run=reason is None)
        elif block.language == "sh":
            self._shell(block, text, run=reason is None and ("parlant-sync" in text or "pytest" in text))
        else:
            pytest.fail(f"{block.name}: nobody knows how to run {block.language!r}")

    def _python(self, block: Block, text: str, *, run: bool) -> None:
        # Empty lines before it, so that a traceback names the page's own line.
        code = compile("\n" * (block.line - 1) + text, str(block.page), "exec")
        if run:
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(code, self.names)
            self.output = printed.getvalue()

    def _shell(self, block: Block, text: str, *, run: bool) -> None:
        arguments = ["-e", "-u", "-o", "pipefail"] if run else ["-n"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_KEPT)}
        done = subprocess.run(
            ["bash", *arguments, "-c", text],
            cwd=self.folder,
            env={**kept, "PATH": path, "HOME": str(self.folder), "PARLANT_SERVER": self.server.base_url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.output = done.stdout
        wanted = int(block.notes.get("exit", "0")) if run else 0
        assert done.returncode == wanted, f"{block.name}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
