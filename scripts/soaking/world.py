"""What goes on in a soak: sessions that come and go, conversations, readers."""

from __future__ import annotations

import json
import logging
import math
import random
import threading
import time
import urllib.error
import urllib.request
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

from parlant_sync import Client, DeliveryUncertain, ParlantSyncError, Session, TurnTimeout
from soaking import evidence
from soaking.ledger import Ledger

TIMEOUT = 30.0  # of a turn
REQUEST_TIMEOUT = 5.0
POLL_WAIT = 4.0  # so that those faults that change an answer meet many
_LOOK = 3.0  # docs/reliability.md: what an unclear post may take beyond its time
_AGENTS = ["quick", "quick", "streamer"]
_OLD = 2  # sessions that live to the end
_REST = 15.0  # after the last turn of a session: a turn that was cut, or a post that was lost, may still come
_SETTLE = 300.0  # in which a reader is to have everything, under faults: some twenty failures in a row can come


class Life:
    """A session from its making to its deletion: its default reader, what that gave, how many turns it is to have."""

    def __init__(self, session: Session, ledger: Ledger, turns: float) -> None:
        self.session = session
        self.turns = turns  # left
        self.rests_since = 0.0
        self.offsets = array("q")
        self._ledger = ledger
        # Daemon: a reader that does not end must not hold up the verdict that says so.
        self.reader = threading.Thread(target=self._read, name=f"reader-{session.id}", daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for event in self.session.iter_events():
            last = self.offsets[-1] if self.offsets else -1
            self._ledger.given()
            if event.offset <= last:
                self._ledger.found("doubled", f"{self.session.id}: {event.offset} came after {last}")
            self.offsets.append(event.offset)


class World:
    """The sessions, those who converse in them, and those who read. ``told``: of ``Strikes``.

    Sessions come and go, as those of real users do: after some turns each rests, is compared with the server's list, is
    deleted there, and a new one takes its place. A few stay to the end.
    """

    def __init__(
        self,
        client: Client,
        told: Callable[[str, float], str],
        direct_url: str,
        *,
        sessions: int,
        workers: int,
        seed: int,
    ) -> None:
        self.ledger = Ledger()
        self._looks = evidence.Looks()
        logger = logging.getLogger(evidence.Looks.LOGGER)
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self._looks)
        self._client = client
        self._told = told
        self._direct = direct_url
        self._seed = seed
        self._workers = workers
        self._chance = random.Random(seed)
        self._made: set[str] = set()
        self.lives = [self._begin(turns=math.inf if number < _OLD else 1) for number in range(sessions)]
        self._resting: deque[Life] = deque()

    def start(self, over: threading.Event) -> list[threading.Thread]:
        """Gives the threads that converse, and the one that ends sessions, until ``over``."""
        return [
            threading.Thread(target=self._end_lives, args=(over,), name="ends"),
            *(
                threading.Thread(target=self._converse, args=(number, over), name=f"worker-{number}")
                for number in range(self._workers)
            ),
        ]

    def client_line(self) -> str:
        stats = self._client.stats()
        return f"failures {stats.failures}  reconnects {stats.reconnects}  backlog {stats.backlog}"

    # -- lives

    def _begin(self, turns: float) -> Life:
        """Through the faults, and therefore again and again."""
        until = time.monotonic() + 300
        while True:
            try:
                session = self._client.create_session(self._chance.choice(_AGENTS))
                break
            except ParlantSyncError:
                if time.monotonic() > until:
                    raise
        if session.id in self._made:
            self.ledger.found("wrong", f"{session.id} was made before")
        self._made.add(session.id)
        return Life(session, self.ledger, turns)

    def _end_lives(self, over: threading.Event) -> None:
        while not over.wait(1):
            for _ in range(len(self._resting)):
                life = self._resting.popleft()
                rested = time.monotonic() - life.rests_since
                if rested > _REST and (rested > _SETTLE or self._has_all(life)):
                    self._judge(life)
                else:
                    self._resting.append(life)

    # -- conversations

    def _converse(self, number: int, over: threading.Event) -> None:
        chance = random.Random(self._seed * 1000 + number)
        # Each has sessions of its own: with two writers a cancelled turn's reply is that of the other's message.
        mine = list(range(number, len(self.lives), self._workers))
        count = 0
        while not over.is_set():
            if len(self._resting) > 3 * self._workers:
                over.wait(1)  # a slow server is to end some first: each costs it time
                continue
            # Most of the time in one of them; the others have a turn now and then, and are polled.
            place = mine[-1] if chance.random() < 0.8 else chance.choice(mine)
            life = self.lives[place]
            count += 1
            self._turn(life.session, f"{number}-{count}-{'x' * chance.randint(0, 200)}", chance)
            life.turns -= 1
            if life.turns <= 0:
                life.rests_since = time.monotonic()
                self._resting.append(life)
                self.lives[place] = self._begin(turns=chance.randint(2, 8) if place == mine[-1] else 1)
            over.wait(chance.uniform(0, 0.4))

    def _turn(self, session: Session, text: str, chance: random.Random) -> None:
        way = chance.random()
        expected = f"streamed echo of: {text}" if session.agent_id == "streamer" else f"echo: {text}"
        posted = False
        begun = since = time.monotonic()
        self._looks.clear()

        def told(error: ParlantSyncError) -> str:
            exchanges = self._told(session.id, since)
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
                self.ledger.found("false", f"{session.id}: {text!r} was posted, then {told(error)}")
        else:
            self.ledger.note(session.id, text, "reply")
            if said != expected:
                held = evidence.of_events(self.held(session.id))
                self.ledger.found("wrong", f"{session.id}: {text!r} was answered {said!r}; held: {held}")
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
            self.ledger.found("wrong", f"{session.id}: a reader from the beginning got {offsets[:20]}...")

    # -- the end

    def held(self, session_id: str) -> list[dict[str, Any]]:
        """What the server holds."""
        found: list[dict[str, Any]] = json.loads(
            self._ask(f"{self._direct}/sessions/{session_id}/events?min_offset=0&wait_for_data=0")
        )
        return found

    def _ask(self, request: str | urllib.request.Request) -> bytes:
        """Past the SDK and past the faults."""
        for _ in range(120):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    body: bytes = answer.read()
                    return body
            except OSError as error:  # it is being restarted
                if isinstance(error, urllib.error.HTTPError) and error.code == 404:
                    return b"[]"  # deleted, and the answer was lost
                time.sleep(0.5)
        raise SystemExit("the server does not answer any more")

    def _has_all(self, life: Life) -> bool:
        return len(life.offsets) >= len(self.held(life.session.id))

    def end(self) -> None:
        """All that are left, after the faults."""
        until = time.monotonic() + _SETTLE
        for life in [*self._resting, *self.lives]:
            while not self._has_all(life) and time.monotonic() < until:
                time.sleep(0.2)
            self._judge(life)
        if not self.ledger.outcomes["reply"]:
            self.ledger.found("wrong", "not one turn was answered")

    def _judge(self, life: Life) -> None:
        """Compare the server's list with what the reader and the calls got; then end the session, here and there."""
        session = life.session
        held = self.held(session.id)
        for offset in sorted({event["offset"] for event in held} - set(life.offsets)):
            self.ledger.found("missed", f"{session.id} ({session.health}): {offset}")
        self.ledger.judge(
            session.id, [e["data"]["message"] for e in held if e["source"] == "customer" and "message" in e["data"]]
        )
        session.close()
        life.reader.join(10)
        if life.reader.is_alive():
            self.ledger.found("late", f"the reader of {session.id} did not end with it")
        request = urllib.request.Request(f"{self._direct}/sessions/{session.id}", method="DELETE")
        self._ask(request)
