"""What goes on in a soak: conversations and readers, and the ledger of what the server holds against what they got."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from parlant_sync import Client, DeliveryUncertain, ParlantSyncError, Session, TurnTimeout
from soaking import evidence

TIMEOUT = 30.0  # of a turn
REQUEST_TIMEOUT = 5.0
_LOOK = 3.0  # docs/reliability.md: what an unclear post may take beyond its time
_LATE = 2.0  # what a busy machine may take beyond a limit


@dataclass(frozen=True)
class Measure:
    memory: int
    blocks: int
    threads: int
    sockets: int


def measure() -> Measure:
    """Of this process: resident memory in bytes, Python's own allocated blocks, threads, open sockets."""
    with open("/proc/self/statm") as file:
        memory = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    sockets = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            sockets += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        except OSError:
            continue
    return Measure(memory, sys.getallocatedblocks(), threading.active_count(), sockets)


@dataclass
class Ledger:
    """Thread-safe."""

    outcomes: Counter[str] = field(default_factory=Counter)
    posted: dict[tuple[str, str], str] = field(default_factory=dict)  # (session, number of the text) -> what came of it
    # Of turns without a reply, but not of uncertain ones, which nothing can contradict.
    evidence: dict[tuple[str, str], str] = field(default_factory=dict)
    events: int = 0
    missed: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)  # events given twice, messages stored twice
    wrong: list[str] = field(default_factory=list)  # replies and lists
    false: list[str] = field(default_factory=list)  # outcomes that the server's list contradicts
    late: list[str] = field(default_factory=list)  # calls that took longer than their documented limit
    slowest: float = 0  # beyond a limit; below 0: none reached its limit
    lock: threading.Lock = field(default_factory=threading.Lock)  # guards all of these

    def note(self, session_id: str, text: str, outcome: str, evidence: str = "") -> None:
        with self.lock:
            self.outcomes[outcome] += 1
            self.posted[session_id, _number(text)] = outcome
            if evidence:
                self.evidence[session_id, _number(text)] = evidence

    def took(self, what: str, seconds: float, limit: float) -> None:
        with self.lock:
            self.slowest = max(self.slowest, seconds - limit)
            if seconds > limit + _LATE:
                self.late.append(f"{what}: {seconds:.1f} s, its limit is {limit:g} s")

    def found(self, kind: list[str], what: str) -> None:
        with self.lock:
            kind.append(what)

    @property
    def findings(self) -> list[str]:
        kinds = {"missed": self.missed, "doubled": self.doubled, "wrong": self.wrong}
        kinds |= {"false outcome": self.false, "late": self.late}
        return [f"{name}: {what}" for name, found in kinds.items() for what in found]

    def line(self) -> str:
        with self.lock:
            return (
                f"turns {self.outcomes['reply']}  events {self.events}  missed {len(self.missed)}  "
                f"doubled {len(self.doubled)}  wrong {len(self.wrong)}  false {len(self.false)}  late {len(self.late)}"
            )

    def summary(self) -> str:
        return f"outcomes: {dict(self.outcomes.most_common())}; events given out: {self.events}"


class Reading:
    """One default reader and what it gave."""

    def __init__(self, session: Session, ledger: Ledger) -> None:
        self.session = session
        self.offsets = array("q")
        self._ledger = ledger

    def run(self) -> None:
        for event in self.session.iter_events():
            last = self.offsets[-1] if self.offsets else -1
            with self._ledger.lock:
                self._ledger.events += 1
                if event.offset <= last:
                    self._ledger.doubled.append(f"{self.session.id}: {event.offset} came after {last}")
            self.offsets.append(event.offset)


class World:
    """The sessions, those who converse in them, and those who read."""

    def __init__(self, client: Client, proxy: Any, direct_url: str, sessions: int, workers: int, seed: int) -> None:
        self.ledger = Ledger()
        self._looks = evidence.Looks()
        logger = logging.getLogger(evidence.Looks.LOGGER)
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self._looks)
        self._client = client
        self._proxy = proxy
        self._direct = direct_url
        self._seed = seed
        self._workers = workers
        agents = ["quick", "quick", "streamer"]
        self._sessions = [client.create_session(agents[number % 3]) for number in range(sessions)]
        self._readings = [Reading(session, self.ledger) for session in self._sessions]
        self._readers = [
            # Daemon: a reader that does not end must not hold up the verdict that says so.
            threading.Thread(target=reading.run, name=f"reader-{number}", daemon=True)
            for number, reading in enumerate(self._readings)
        ]

    def start(self, over: threading.Event) -> list[threading.Thread]:
        """Starts the readers; gives the threads that converse until ``over``."""
        for reader in self._readers:
            reader.start()
        return [
            threading.Thread(target=self._converse, args=(number, over), name=f"worker-{number}")
            for number in range(self._workers)
        ]

    def client_line(self) -> str:
        stats = self._client.stats()
        return f"failures {stats.failures}  reconnects {stats.reconnects}  backlog {stats.backlog}"

    # -- conversations

    def _converse(self, number: int, over: threading.Event) -> None:
        chance = random.Random(self._seed * 1000 + number)
        # Each has sessions of its own: with two writers a cancelled turn's reply is that of the other's message.
        mine = self._sessions[number :: self._workers]
        count = 0
        while not over.is_set():
            session = chance.choice(mine)
            count += 1
            self._turn(session, f"{number}-{count}-{'x' * chance.randint(0, 200)}", chance)
            over.wait(chance.uniform(0, 0.4))

    def _turn(self, session: Session, text: str, chance: random.Random) -> None:
        way = chance.random()
        expected = f"streamed echo of: {text}" if session.agent_id == "streamer" else f"echo: {text}"
        posted = False
        begun = since = time.monotonic()
        self._looks.clear()

        def told(error: ParlantSyncError) -> str:
            exchanges = evidence.of_exchanges(self._proxy, session.id, since)
            return f"{evidence.of_error(error)} | looks: {self._looks.lines} | exchanges: {exchanges}"

        try:
            if way < 0.7:
                said = session.send(text, timeout=TIMEOUT).text
            elif way < 0.85:
                with session.stream(text, timeout=TIMEOUT) as turn:
                    posted = True
                    said = "".join(turn.text)
            else:
                event = session.post(text)
                self.ledger.took("post()", time.monotonic() - begun, REQUEST_TIMEOUT + _LOOK)
                posted, begun = True, time.monotonic()
                said = session.reply_to(event, timeout=TIMEOUT).text
        except TurnTimeout as error:
            outcome = "timeout" if posted or error.event else "timeout, not posted"
            self.ledger.note(session.id, text, outcome, told(error))
        except DeliveryUncertain:
            self.ledger.note(session.id, text, "uncertain")
        except ParlantSyncError as error:
            self.ledger.note(session.id, text, f"not sent: {type(error).__name__}", told(error))
            if posted:
                self.ledger.found(self.ledger.false, f"{session.id}: {text!r} was posted, then {told(error)}")
        else:
            self.ledger.note(session.id, text, "reply")
            if said != expected:
                self.ledger.found(self.ledger.wrong, f"{session.id}: {text!r} was answered {said!r}")
        self.ledger.took("a turn", time.monotonic() - begun, TIMEOUT + _LOOK)
        if way < 0.05:
            self._check_history(session)

    def _check_history(self, session: Session) -> None:
        """An independent reader from the beginning gives the log as it is."""
        begun = time.monotonic()
        try:
            offsets = [event.offset for event in session.iter_events(since="beginning", timeout=0)]
        except ParlantSyncError:
            return  # a fault hit the list itself, which is no turn
        self.ledger.took("iter_events(timeout=0)", time.monotonic() - begun, REQUEST_TIMEOUT)
        if offsets != list(range(len(offsets))):
            self.ledger.found(self.ledger.wrong, f"{session.id}: a reader from the beginning got {offsets[:20]}...")

    # -- the end

    def held(self, session_id: str) -> list[dict[str, Any]]:
        """What the server holds, asked past the SDK and past the faults."""
        url = f"{self._direct}/sessions/{session_id}/events?min_offset=0&wait_for_data=0"
        for _ in range(20):
            try:
                with urllib.request.urlopen(url, timeout=30) as answer:
                    found: list[dict[str, Any]] = json.load(answer)
                    return found
            except urllib.error.URLError:
                time.sleep(0.5)  # it is being restarted
        raise SystemExit("the server does not answer any more")

    def settle(self, seconds: float) -> None:
        """Until every reader has what the server holds, so many seconds at most."""
        until = time.monotonic() + seconds
        for reading in self._readings:
            while time.monotonic() < until:
                held = self.held(reading.session.id)
                if len(reading.offsets) >= len(held):
                    break
                time.sleep(0.2)

    def judge(self) -> None:
        """Compare the server's lists with what the readers and the calls got; the ledger has the findings."""
        for reading in self._readings:
            held = self.held(reading.session.id)
            lost = {event["offset"] for event in held} - set(reading.offsets)
            self.ledger.missed += [f"{reading.session.id} ({reading.session.health}): {n}" for n in sorted(lost)]
            self._judge_posts(reading.session.id, held)
        if not self.ledger.outcomes["reply"]:
            self.ledger.wrong.append("not one turn was answered")

    def _judge_posts(self, session_id: str, held: list[dict[str, Any]]) -> None:
        texts = Counter(e["data"]["message"] for e in held if e["kind"] == "message" and e["source"] == "customer")
        self.ledger.doubled += [
            f"{session_id}: {count} copies of {text!r}" for text, count in texts.items() if count > 1
        ]
        numbers = {_number(text) for text in texts}
        for (owner, number), outcome in self.ledger.posted.items():
            if owner != session_id or outcome == "uncertain":
                continue
            stored = outcome in ("reply", "timeout")
            if stored is not (number in numbers):
                why = self.ledger.evidence.get((owner, number), "none is kept")
                self.ledger.false.append(f"{session_id}: {number}: {outcome}, but stored is {not stored}: {why}")


def _number(text: str) -> str:
    """What tells a text from all others: the rest is padding."""
    return text.rsplit("-", 1)[0]
