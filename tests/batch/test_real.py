"""The batch against the real server: many rows, kills at random moments, a Dask cluster. A seeded sample of the long
ones runs with every test run."""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.batch_checks import posted, results_of
from support.shared_servers import SharedServer

from parlant_sync.batch import run

pytestmark = [pytest.mark.real, pytest.mark.slow]

Start = Callable[..., "subprocess.Popen[str]"]
Questions = Callable[[list[dict[str, Any]]], Path]
SEED = int(os.environ.get("PARLANT_SYNC_SEED", "5"))


def rows_of(count: int, marker: str, *, several: int = 0) -> list[dict[str, Any]]:
    """Rows with one message, and ``several`` of them (the first ones) with three."""
    rows: list[dict[str, Any]] = []
    for n in range(count):
        messages = [f"{marker}-{n}.{turn}" for turn in range(3 if n < several else 1)]
        rows.append({"id": f"{marker}-{n}", "messages": messages, "agent_id": "quick"})
    return rows


def expected(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {row["id"]: [f"echo: {message}" for message in row["messages"]] for row in rows}


def texts(results: list[dict[str, Any]]) -> dict[str, list[str]]:
    return {result["id"]: [turn["text"] for turn in result["turns"]] for result in results}


def asked_once(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(message for row in rows for message in row["messages"])


@pytest.mark.parametrize("count", [pytest.param(60, id="sample"), pytest.param(500, marks=pytest.mark.full, id="full")])
@pytest.mark.timeout(900)
def test_sixteen_workers(demo: SharedServer, tmp_path: Path, count: int) -> None:
    rows = rows_of(count, f"many{count}", several=count // 10)
    path = tmp_path / "r.jsonl"
    with run(rows, base_url=demo.base_url, results=path, concurrency=16) as batch:
        results = [result.to_json() for result in batch]
        print(batch.summary)
    assert texts(results) == texts(results_of(path)) == expected(rows)
    assert posted(demo.base_url, f"many{count}-") == asked_once(rows)


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_killed_at_random_moments(demo: SharedServer, start: Start, questions: Questions, tmp_path: Path) -> None:
    """One batch, killed fifty times: each message is posted once, and every row answered in the end.

    A sample of this, against the stand-in and with faults: test_soak.py.
    """
    kills = 50
    chance = random.Random(SEED)
    marker = "kill"
    # More rows than can be done between the kills; some of them with several turns. Slow ones: a row has its moments.
    rows = rows_of(kills * 12, marker, several=2 * kills)
    for row in rows:
        row["messages"] = [f"[slow=0.4] {message}" for message in row["messages"]]
    path = tmp_path / "r.jsonl"
    options = [questions(rows), "--results", path, "-s", demo.base_url, "--concurrency", 3]
    done: list[int] = []
    for _ in range(kills):
        process = start(*options)
        # A process takes half a second to begin, a turn about as long: the moment is anywhere in them.
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0.4, 3.0))
        process.kill()
        process.communicate()
        done.append(len(path.read_bytes().splitlines()) if path.exists() else 0)
    print("results after each kill:", done)
    process = start(*options)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    print(out)
    answers = {row["id"]: [f"echo: {m.removeprefix('[slow=0.4] ')}" for m in row["messages"]] for row in rows}
    assert texts(results_of(path)) == answers
    assert len(results_of(path)) == len(rows)
    assert posted(demo.base_url, f"{marker}-") == asked_once(rows)


@pytest.fixture
def distributed(tmp_path: Path) -> Iterator[Any]:
    """The package, told to keep its scratch files in this test's directory."""
    module = pytest.importorskip("distributed")
    with pytest.importorskip("dask").config.set(temporary_directory=str(tmp_path)):
        yield module


@pytest.mark.parametrize("count", [pytest.param(12, id="sample"), pytest.param(100, marks=pytest.mark.full, id="full")])
@pytest.mark.timeout(600)
def test_a_dask_cluster_gives_the_same_answers(
    demo: SharedServer, start: Start, questions: Questions, tmp_path: Path, distributed: Any, count: int
) -> None:
    rows = rows_of(count, f"dask{count}", several=count // 4)
    local = [r.to_json() for r in run(rows, base_url=demo.base_url, concurrency=4)]
    before = posted(demo.base_url, f"dask{count}-")
    path, from_cli = tmp_path / "r.jsonl", tmp_path / "cli.jsonl"
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster:
        with distributed.Client(cluster) as client:
            executor = client.get_executor()
            spread = [
                r.to_json() for r in run(rows, base_url=demo.base_url, executor=executor, concurrency=4, results=path)
            ]
        # The same as a command, at the cluster's address.
        process = start(
            questions(rows), "--results", from_cli, "-s", demo.base_url, "--dask", cluster.scheduler_address
        )
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert texts(local) == texts(spread) == texts(results_of(from_cli)) == expected(rows)
    assert posted(demo.base_url, f"dask{count}-") == before + before + before == asked_once(rows * 3)


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_dask_worker_that_is_killed_costs_nothing(demo: SharedServer, distributed: Any) -> None:
    """Dask hands its tasks to another worker by itself; nothing is posted again by that."""
    rows = rows_of(4, "nanny")
    for row in rows:
        row["messages"] = [f"[gate=nanny] {message}" for message in row["messages"]]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster:
        with distributed.Client(cluster) as client:
            executor = client.get_executor()
            with run(rows, base_url=demo.base_url, executor=executor, concurrency=4) as batch:
                # Tasks run on both workers: they are what both say they execute.
                while len([w for w in client.processing().values() if w]) < 2 or len(client.processing()) < 2:
                    assert batch.next(0.05) is None
                victim, *_ = client.run(os.getpid).values()
                os.kill(victim, 9)
                assert batch.next(1.0) is None
                demo.release("nanny")
                results = [result.to_json() for result in batch]
    assert {r["id"]: r["text"] for r in results} == {f"nanny-{n}": f"echo: nanny-{n}.0" for n in range(4)}
    assert posted(demo.base_url, "nanny-") == asked_once(rows)
