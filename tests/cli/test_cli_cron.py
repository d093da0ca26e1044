"""docs/cron.md under the real cron, if there is one: its environment, ``%``, the lock, files in place of mails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until

from parlant_sync.testing import FakeServer

TABLES = Path("/etc/cron.d")
# cron begins jobs at full minutes only.
PATIENCE = 100.0

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        shutil.which("cron") is None or not TABLES.is_dir() or not os.access(TABLES, os.W_OK),
        reason="needs cron, and root, who may add a table of jobs",
    ),
]


@pytest.fixture
def schedule(tmp_path: Path, parlant_server: FakeServer) -> Iterator[Callable[[str], None]]:
    """Adds jobs for the next minute to a table of their own, and takes it away again."""
    table = TABLES / f"parlant-sync-test-{os.getpid()}"
    # If a cron runs already, this one ends at once, and the other one does the work.
    daemon = subprocess.Popen(["cron", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def run(jobs: str) -> None:
        head = (
            f'PARLANT_SERVER={parlant_server.base_url}\nPATH={Path(sys.executable).parent}:/usr/bin:/bin\nMAILTO=""\n'
        )
        lines = [f"* * * * * root cd {tmp_path} && {job}\n" for job in jobs.splitlines()]
        table.write_text(f"{head}PARLANT_STATE_DIR={tmp_path}/state\n{''.join(lines)}", "utf-8")
        table.chmod(0o644)

    yield run
    table.unlink(missing_ok=True)
    daemon.terminate()
    daemon.wait(10)


def test_jobs_under_cron(schedule: Callable[[str], None], parlant_server: FakeServer, tmp_path: Path) -> None:
    parlant_server.agent("support").when("slow").waits("gate")
    nightly = Path(__file__).parents[2] / "scripts/examples/nightly.sh"
    ended = "; echo $? > "
    schedule(
        f'{nightly} support "new?" > nightly.out 2> nightly.err{ended}nightly.code\n'
        f'parlant-sync send --agent-id support "100\\% 질문" > percent.out 2>&1{ended}percent.code\n'
        f"parlant-sync send --agent-id support > stdin.out 2>&1{ended}stdin.code%one%two\n"
        f'parlant-sync send --conversation c --agent-id support "slow" > slow.out 2>&1{ended}slow.code\n'
        f"timeout 60 sh -c 'until grep -qs . state/conversations/c-*.json; do sleep 0.1; done'; "
        f'parlant-sync send --conversation c --agent-id support "late" > late.out 2>&1{ended}late.code\n'
    )

    def wait_for(name: str) -> tuple[str, str]:
        code = tmp_path / f"{name}.code"
        wait_until(
            lambda: code.exists() and code.read_text(),
            lambda: sorted(each.name for each in tmp_path.iterdir()),
            PATIENCE,
        )
        return code.read_text().strip(), (tmp_path / f"{name}.out").read_text("utf-8")

    assert wait_for("percent") == ("0", "echo: 100% 질문\n")
    assert wait_for("stdin") == ("0", "echo: one\ntwo\n")
    code, said = wait_for("nightly")
    assert (code, said.count("\n"), "echo: new?" in said) == ("0", 1, True)
    assert (tmp_path / "nightly.err").read_text() == "", "nothing that cron would mail"
    code, said = wait_for("late")
    assert (code, "another run is using the conversation 'c'" in said) == ("8", True)
    parlant_server.release("gate")
    assert wait_for("slow") == ("0", "echo: slow\n")
