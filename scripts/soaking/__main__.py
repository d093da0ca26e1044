"""The soak itself: sessions, turns, readers and faults at random, a growing ledger, a verdict."""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import os
import sys
import threading
import time
from dataclasses import dataclass

from parlant_sync import Client
from soaking import batch
from soaking.server import Real, StandIn
from soaking.strikes import Strikes
from soaking.world import POLL_WAIT, REQUEST_TIMEOUT, World


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak.py", description=__doc__)
    parser.add_argument("--faults", type=int, metavar="N", help="until so many faults were injected")
    parser.add_argument("--minutes", type=float, help="at most so long; 15 without --faults")
    parser.add_argument("--share", type=float, default=0.6, help="of the requests that a fault may hit, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=80)
    parser.add_argument("--workers", type=int, default=10, help="how many converse at the same time")
    parser.add_argument("--server", choices=["fake", "real"], default="fake")
    parser.add_argument("--batch-kills", type=int, metavar="N", help="instead: kill N runs of batches under faults")
    arguments = parser.parse_args()
    if arguments.minutes is None:
        arguments.minutes = math.inf if arguments.faults else 15
    return arguments


def _report(world: World, strikes: Strikes, started: float) -> None:
    now = _measure()
    print(
        f"{time.monotonic() - started:6.0f} s  faults {strikes.counts().total()}  {world.ledger.line()}  "
        f"{world.client_line()}  "
        f"{now.memory / 1e6:.0f} MB, {now.blocks // 1000} k blocks  {now.threads} threads  {now.sockets} sockets",
        flush=True,
    )


def _kill_batches(server_class: type[StandIn] | type[Real], kills: int, seed: int) -> int:
    server = server_class()
    with server:
        verdict = batch.run(server.base_url, kills=kills, seed=seed, say=lambda line: print(line, flush=True))
    print(f"seed {seed}, exit codes {dict(verdict.codes)}, faults {dict(verdict.faults.most_common())}")
    for finding in verdict.findings:
        print(f"FOUND: {finding}")
    print(f"verdict: {'FAILED' if verdict.findings else 'passed'}: {verdict.line()}")
    return 1 if verdict.findings else 0


def main() -> int:
    arguments = _arguments()
    server_class = StandIn if arguments.server == "fake" else Real
    if arguments.batch_kills:
        return _kill_batches(server_class, arguments.batch_kills, arguments.seed)
    date = time.strftime("%Y-%m-%d")
    print(f"soak: {date}, {arguments.server} server, {arguments.sessions} sessions, seed {arguments.seed}", flush=True)
    server = server_class()
    with (
        server,
        Strikes(
            server.base_url, arguments.seed, share=arguments.share, all_every=server.all_every, acts=server.acts
        ) as strikes,
    ):
        before = _measure()
        with Client(strikes.base_url, request_timeout=REQUEST_TIMEOUT, poll_wait=POLL_WAIT, close_timeout=20) as client:
            world = World(
                client,
                strikes.told,
                server.base_url,
                sessions=arguments.sessions,
                workers=arguments.workers,
                seed=arguments.seed,
            )
            early, early_turns = _converse(world, strikes, arguments)
            gc.collect()
            late = _measure()
            print("the faults are over: all readers are to have everything", flush=True)
            world.end()
        gc.collect()
        after = _measure()
        counts = strikes.counts()
    findings = [f"{kind}: {what}" for kind, found in world.ledger.findings.items() for what in found]
    findings += _left_behind(before, after)
    if early is not None:
        findings += _growth(early, late, world.ledger.outcomes.total() - early_turns)
    print(f"memory: {early and early.memory // 10**6} MB after a third, {late.memory // 10**6} MB at the end")
    print(f"{len(counts)} kinds of faults: {dict(counts.most_common())}")
    print(world.ledger.summary())
    for finding in findings[:50]:
        print(f"FOUND: {finding}")
    print(f"verdict: {'FAILED' if findings else 'passed'}: {counts.total()} faults, {world.ledger.line()}")
    return 1 if findings else 0


def _converse(world: World, strikes: Strikes, arguments: argparse.Namespace) -> tuple[Measure | None, int]:
    """Until there were enough faults, or the time is over.

    Returns what this process held after a third of that, when everything was warm, and how many turns there had been.
    """
    over = threading.Event()
    started = time.monotonic()
    early, early_turns = None, 0
    threads = world.start(over)
    for thread in threads:
        thread.start()
    strikes.start()
    try:
        done = 0.0
        while done < 1:
            over.wait(10)
            _report(world, strikes, started)
            of_time = (time.monotonic() - started) / (arguments.minutes * 60)
            done = max(of_time, strikes.counts().total() / (arguments.faults or math.inf))
            if early is None and done > 1 / 3:
                gc.collect()
                early, early_turns = _measure(), world.ledger.outcomes.total()
    except KeyboardInterrupt:
        print("interrupted: the verdict is about what was done until now", flush=True)
    finally:
        over.set()
        strikes.end()
        for thread in threads:
            thread.join()
    return early, early_turns


@dataclass(frozen=True)
class Measure:
    """Of this process: resident memory in bytes, Python's own allocated blocks, threads, open sockets."""

    memory: int
    blocks: int
    threads: int
    sockets: int


def _measure() -> Measure:
    with open("/proc/self/statm") as file:
        memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    sockets = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            sockets += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return Measure(memory, sys.getallocatedblocks(), threading.active_count(), sockets)


def _growth(early: Measure, late: Measure, turns: int) -> list[str]:
    """What grew more between the two than so many turns explain."""
    found = []
    # What the ledger and the client keep of a session goes with it; of each there remains its id.
    if late.blocks > early.blocks + 2 * turns + 20_000:
        found.append(f"Python's memory grew from {early.blocks} to {late.blocks} blocks")
    if late.memory > early.memory * 1.5 + 20e6:
        found.append(f"memory grew from {early.memory / 1e6:.0f} to {late.memory / 1e6:.0f} MB")
    if late.threads > early.threads + 20:
        found.append(f"threads grew from {early.threads} to {late.threads}")
    return found


def _left_behind(before: Measure, after: Measure) -> list[str]:
    found = []
    if after.threads > before.threads:
        names = sorted(thread.name for thread in threading.enumerate())
        found.append(f"{after.threads - before.threads} threads were left behind: {names}")
    if after.sockets > before.sockets:
        found.append(f"{after.sockets - before.sockets} sockets were left behind")
    return found


if __name__ == "__main__":
    sys.exit(main())
