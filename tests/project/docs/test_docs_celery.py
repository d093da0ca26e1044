"""The Celery recipe in a real worker with forked processes: the client of the module, and the soft time limit."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import docs_blocks
from support.docs_runner import Runner

pytest.importorskip("celery", reason="celery is in the extra 'test'")
pytestmark = [pytest.mark.slow, pytest.mark.skipif("sys.platform == 'win32'", reason="no worker with processes there")]

# Messages and results travel by files, so that no broker is needed. They are written beside the queue and moved into it
# whole: a worker of this transport ends when it meets a message that is still being written.
SETTINGS = """
import pathlib
from tasks import app, ask, client

here = pathlib.Path(__file__).parent
for name in ("queue", "written", "results"):
    (here / name).mkdir(exist_ok=True)
folders = {"data_folder_in": str(here / "queue"), "data_folder_out": str(here / "written")}
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={**folders, "control_folder": str(here / "control"), "polling_interval": 0.05},
    result_backend=f"file://{here / 'results'}",
    worker_prefetch_multiplier=1,
)
# Something is open before the fork, as in an application that has warmed up.
warm = client.create_session("support")

def hand_over(*arguments, **options):
    result = ask.apply_async(arguments, **options)
    for message in (here / "written").iterdir():
        message.rename(here / "queue" / message.name)
    return result
"""


@pytest.fixture
def worker(runner: Runner) -> Iterator[Any]:
    """The module of the worker, with the worker running."""
    (page,) = [page for page in docs_blocks.PAGES if page.name == "workers.md"]
    (block,) = [block for block in docs_blocks.blocks(page) if block.notes.get("file") == "tasks.py"]
    runner.run(block)
    (runner.folder / "worker.py").write_text(SETTINGS, "utf-8")
    command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "--pool", "prefork", "--concurrency", "2"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
    log = Path(runner.folder / "worker.log")
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=runner.folder, stdout=output, stderr=output, start_new_session=True)
    try:
        yield importlib.import_module("worker")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text("utf-8")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_recipe_in_a_worker_of_processes(worker: Any, runner: Runner) -> None:
    from celery.exceptions import SoftTimeLimitExceeded

    sessions = [runner.server.create_session("support") for _ in range(4)]
    results = [worker.hand_over(session, "Hi") for session in sessions]
    assert [result.get(timeout=40) for result in results] == ["Hello.\n\nHow can I help?"] * 4

    runner.server.agent("mute").ignores()
    mute = runner.server.create_session("mute")
    late = worker.hand_over(mute, "Hi", soft_time_limit=1, time_limit=30)
    with pytest.raises(SoftTimeLimitExceeded):
        late.get(timeout=40)
    # The message was posted once, and the process that was interrupted is of use.
    assert [event["kind"] for event in runner.server.events(mute)] == ["message"]
    results = [worker.hand_over(session, "Hi") for session in sessions]
    assert [result.get(timeout=40) for result in results] == ["Hello.\n\nHow can I help?"] * 4
