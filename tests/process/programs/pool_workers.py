"""``multiprocessing`` with fork: a module-level client is used in the parent, in a pool's workers, and after them."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings

from parlant_sync import Client, ForkedProcessError

warnings.simplefilter("ignore", DeprecationWarning)
client = Client(sys.argv[1])
session = client.create_session("quick")


def work(number: int) -> tuple[int, str, str]:
    try:
        session.send("inherited")
    except ForkedProcessError as error:
        said = type(error).__name__
    else:
        said = "nothing"
    with client.create_session("quick") as own:
        text = own.send(f"worker {number}", timeout=20).text
    attached = client.session(session.id)  # the parent's session, attached anew
    assert attached is not session
    attached.history()
    return os.getpid(), text, said


def main() -> None:
    assert session.send("before", timeout=20).text == "echo: before"
    reader = session.iter_events(timeout=10)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(work, range(12))
        pool.close()
        pool.join()
    assert all(pid != os.getpid() for pid, _, _ in results)
    assert [text for _, text, _ in results] == [f"echo: worker {number}" for number in range(12)]
    assert {said for _, _, said in results} == {"ForkedProcessError"}
    assert session.send("after", timeout=20).text == "echo: after"
    held = session.history()
    got = []
    for event in reader:
        got.append(event.offset)
        if len(got) == len(held):
            break
    assert got == [event.offset for event in held], got
    print("READY", len({pid for pid, _, _ in results}))


main()
