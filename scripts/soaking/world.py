"""What goes on in a soak: conversations and readers, and the ledger of what the server holds against what they got."""

from __future__ import annotations

import json
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

from parlant_sync import Client, DeliveryUncertain, ParlantSyncError, Session, TransportError, TurnTimeout


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
    wrong: list[str] = field(default_factory=list)
    posted: dict[tuple[str, str], str] = field(default_factory=dict)  # (session, number of the text) -> what came of it
    events: int = 0
    doubled: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, session_id: str, text: str, outcome: str) -> None:
        with self.lock:
            self.outcomes[outcome] += 1
            self.posted[session_id, _number(text)] = outcome

    def line(self) -> str:
        with self.lock:
            return (
                f"turns {self.outcomes['reply']}  events {self.events}  doubled {self.doubled}  wrong {len(self.wrong)}"
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
                    self._ledger.doubled += 1
                    self._ledger.wrong.append(f"{self.session.id}: {event.offset} came after {last}")
            self.offsets.append(event.offset)


class World:
    """The sessions, those who converse in them, and those who read."""

    def __init__(self, client: Client, direct_url: str, sessions: int, workers: int, seed: int) -> None:
        self.ledger = Ledger()
        self._client = client
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
        try:
            if way < 0.7:
                said = session.send(text, timeout=30).text
            elif way < 0.85:
                with session.stream(text, timeout=30) as turn:
                    posted = True
                    said = "".join(turn.text)
            else:
                event = session.post(text)
                posted = True
                said = session.reply_to(event, timeout=30).text
        except TurnTimeout as error:
            self.ledger.note(session.id, text, "timeout" if error.event else "timeout, not posted")
        except DeliveryUncertain:
            self.ledger.note(session.id, text, "uncertain")
        except TransportError as error:
            self.ledger.note(session.id, text, "not sent")
            if posted:
                self.ledger.wrong.append(f"{session.id}: {text!r} was posted, then {error}")
        except ParlantSyncError as error:
            self.ledger.note(session.id, text, type(error).__name__)
        else:
            self.ledger.note(session.id, text, "reply")
            if said != expected:
                self.ledger.wrong.append(f"{session.id}: {text!r} was answered {said!r}")
        if way < 0.05:
            try:
                self._check_history(session)
            except ParlantSyncError:
                pass  # a fault hit the list itself, which is no turn

    def _check_history(self, session: Session) -> None:
        """An independent reader from the beginning gives the log as it is."""
        offsets = [event.offset for event in session.iter_events(since="beginning", timeout=0)]
        if offsets != list(range(len(offsets))):
            self.ledger.wrong.append(f"{session.id}: a reader from the beginning got {offsets[:20]}...")

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

    def findings(self) -> list[str]:
        found = list(self.ledger.wrong[:20])
        missed = 0
        for reading in self._readings:
            held = self.held(reading.session.id)
            offsets = [event["offset"] for event in held]
            lost = set(offsets) - set(reading.offsets)
            missed += len(lost)
            if lost:
                found.append(f"{reading.session.id} ({reading.session.health}): missed {sorted(lost)[:10]}")
            found += self._copies(reading.session.id, held)
        if missed:
            found.append(f"{missed} events were missed")
        if not self.ledger.outcomes["reply"]:
            found.append("not one turn was answered")
        return found

    def _copies(self, session_id: str, held: list[dict[str, Any]]) -> list[str]:
        texts = Counter(e["data"]["message"] for e in held if e["kind"] == "message" and e["source"] == "customer")
        found = [f"{session_id}: {count} copies of {text!r}" for text, count in texts.items() if count > 1]
        held_numbers = {_number(text) for text in texts}
        for (owner, number), outcome in self.ledger.posted.items():
            if owner != session_id:
                continue
            if outcome in ("reply", "timeout") and number not in held_numbers:
                found.append(f"{session_id}: {number} has a {outcome}, but the server holds no such message")
            if outcome == "not sent" and number in held_numbers:
                found.append(f"{session_id}: {number} was told not to be sent, but the server holds it")
        return found


def _number(text: str) -> str:
    """What tells a text from all others: the rest is padding."""
    return text.rsplit("-", 1)[0]
