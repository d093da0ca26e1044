"""The one thread that drives a batch: it hands rows out, writes the journal before and the results after.

A message's way: *open* (make its session, or look for it after a crash) -> *ready* -> an entry in the journal -> *ask*
(post and wait for the reply; with an executor: post here, wait there) -> the next message of its row, or its result.
"""

from __future__ import annotations

import itertools
import logging
import queue
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import parlant_sync as ps
from parlant_sync.batch import worker
from parlant_sync.batch.items import Item, Queues
from parlant_sync.batch.journal import Journal, LineFile
from parlant_sync.batch.policy import Rate, Trouble, Verdict, is_away, judge
from parlant_sync.batch.results import STATUSES, Result
from parlant_sync.batch.threads import BatchThread, Requests

logger = logging.getLogger(__name__)

# So often a message is posted by one run, if it is uncertain whether it arrived, or the server failed over it.
_TRIES = 4
# A request that is under way cannot be interrupted; its thread is left to end by itself, the journal has the message.
_CLOSING = 0.5
# Seconds: if the rate lets few messages go, the session for the next one is not opened earlier than that.
_LEAD = 5.0
# Seconds without an answer of the server after which it is asked for something small.
_PROBE_AFTER = 5.0
# Seconds that a worker process has for a reply beyond its row's time; then the reply is read here.
_GRACE = 3.0


@dataclass(frozen=True)
class Plan:
    """The options of a run, checked, and its open files, which are the runner's from then on."""

    config: worker.Config
    agent_id: str | None
    customer_id: str | None
    concurrency: int
    rate: float | None
    max_failures: int | None
    settle: float
    label: str | None
    cleanup: bool
    empty_fails: bool
    executor: Executor | None
    results: LineFile | None
    journal: Journal | None


class Runner:
    """Runs a batch in a daemon thread. Its ``outbox`` gets results, then None or what ended it early.

    ``waiting_for`` is a few words about what all rows wait for now, empty if they do not; any thread may read it.
    """

    def __init__(self, plan: Plan, items: Iterable[Item], leftovers: Iterable[str] = ()) -> None:
        """``leftovers``: sessions of earlier runs that are to be deleted."""
        self.outbox: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
        self._waiting_for = ""
        self._limited_for: Callable[[], float] = lambda: 0.0  # seconds that the client waits after a 429
        self._plan = plan
        self._requests = Requests()
        self._queues = Queues(items)
        self._opening = 0
        self._asking = 0
        self._failures = 0
        self._finished: list[Result] = []  # not yet recorded
        self._unneeded = list(leftovers)  # sessions to be deleted
        self._deleting = 0
        self._label = plan.label
        self._rate = Rate(plan.rate)
        self._trouble = Trouble()
        self._heard = time.monotonic()  # when the server has last answered
        self._probing = False
        self._agent = plan.agent_id  # any that exists: to be asked for
        self._handed: dict[Future[Any], Item] = {}  # to the executor
        self._name = uuid.uuid4().hex
        self._serial = itertools.count(1)
        # Sessions are opened a little ahead, so that no row that could wait for a reply waits for that.
        self._ahead = max(1, plan.concurrency // 4)
        self.thread = BatchThread(self._run, plan.results.path if plan.results is not None else None)

    @property
    def waiting_for(self) -> str:
        if self._waiting_for:
            return self._waiting_for
        seconds = self._limited_for()
        return f"429: next in {seconds:.0f} s" if seconds >= 0.5 else ""

    def stop(self) -> None:
        """As soon as possible: rows in flight stay resumable. Takes no lock; for any thread, and for a finalizer."""
        self.thread.stopping = True
        self._requests.interrupt()

    # -- the thread

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            # Leaving it closes the client, which wakes all threads that wait for replies.
            with self._plan.config.client() as self._api, worker.serving(self._name, self._api):
                self._limited_for = lambda: self._api.stats().limited_for
                try:
                    self._loop()
                finally:
                    # Nobody waits for them any more; those that an executor begins all the same find the client gone.
                    for future in list(self._handed):
                        future.cancel()
                    self._record()
        except BaseException as error:
            end = error
        finally:
            self._requests.stop(_CLOSING)
            for file in (self._plan.results, self._plan.journal):
                if file is not None:
                    file.close()
            self._waiting_for, self._limited_for = "", lambda: 0.0
            self.outbox.put(end)

    def _loop(self) -> None:
        while (self._queues.left or self._unneeded or self._deleting) and not self.thread.stopping:
            self._queues.wake()
            if not self._enough_failed():
                self._hand_out()
                self._open_some()  # in place of those that were handed out just now, too
            elif not self._asking:
                return
            self._record()  # only now: no row that could wait for a reply waits for the disk
            self._clean_up()
            self._probe_if_silent()
            self._fetch_late_replies()
            self._describe()
            self._check_patience()
            self._collect(self._idle_for())
        self._collect(0.0)

    def _collect(self, timeout: float | None) -> None:
        for stage, item, future in self._requests.news(timeout):
            self._take(stage, item, future)

    def _enough_failed(self) -> bool:
        return self._plan.max_failures is not None and self._failures >= self._plan.max_failures

    def _idle_for(self) -> float | None:
        """How long nothing has to be done; None: until something is heard."""
        now = time.monotonic()
        waits: list[float] = []
        if not self._enough_failed():
            if (wake := self._queues.next_wake()) is not None:
                waits.append(wake)
            if self._queues.waiting and (closed := self._opens_in()) > 0:
                waits.append(closed)
            if self._queues.ready and self._asking < self._plan.concurrency:
                waits.append(self._posts_in())
        if (silent := self._probes_in()) is not None:
            waits.append(silent)
        waits += [item.deadline + _GRACE - now for item in self._handed.values() if item.deadline is not None]
        if self._trouble or self._probing:
            waits.append(1.0)  # what is displayed counts the seconds
        return max(0.0, min(waits)) if waits else None

    # -- the server's trouble

    def _probes_in(self) -> float | None:
        """Seconds until the server is to be asked whether it is there; None: not, or it is being asked."""
        if self._agent is None or self._probing or not (self._asking or self._trouble):
            return None
        return max(self._heard + _PROBE_AFTER - time.monotonic(), self._trouble.pause_left())

    def _probe_if_silent(self) -> None:
        """Turns may take minutes: a server that goes away meanwhile is not noticed by their ends."""
        if self._agent is not None and (seconds := self._probes_in()) is not None and seconds <= 0:
            self._probing = True
            self._requests.submit("probe", None, worker.probe, self._api, self._agent)

    def _heard_from_server(self, stage: str) -> None:
        self._heard = time.monotonic()
        self._trouble.succeeded(write=stage in ("open", "post", "ask"))

    def _note_trouble(self, stage: str, error: BaseException, seconds: float) -> None:
        self._trouble.failed(error, write=stage in ("open", "post", "ask"), seconds=seconds)
        self._check_patience()

    def _check_patience(self) -> None:
        """Raises what ends the run, if the server has been in trouble for too long."""
        cause = self._trouble.gave_up()
        if cause is None:
            return
        if isinstance(cause, (ps.TransportError, ps.RateLimitedError, ps.ServerError)):
            raise cause
        raise ps.TransportError(f"the server stayed away; something else answered in its place: {cause}")

    def _describe(self) -> None:
        text = self._trouble.text()
        if not text and self._probing and (silent := time.monotonic() - self._heard) > _PROBE_AFTER + 2:
            text = f"no answer from the server for {silent:.0f} s"
        if not text and not self._asking and not self._opening and (left := self._queues.next_wake()) is not None:
            count = self._queues.delayed
            text = f"{count} message{'' if count == 1 else 's'} may be on the way: looking in {left:.0f} s"
        if not text and not self._queues.left and (left := len(self._unneeded) + self._deleting):
            text = f"{left} sessions to delete"
        self._waiting_for = text

    # -- open

    def _opens_in(self) -> float:
        """Seconds until a session may be opened."""
        return max(self._trouble.pause_left(), self._rate.wait() - _LEAD, 0.0)

    def _open_some(self) -> None:
        room = self._plan.concurrency - self._asking + self._ahead
        if self._plan.rate is not None:
            room = min(room, int(self._plan.rate / 60) + 1)
        at_once = room if self._plan.concurrency > 1 else 1  # one row at a time means in their order, too
        if self._trouble:
            at_once = 1  # the others follow when that has gone well
        while self._queues.waiting and self._opening < at_once and self._opening + len(self._queues.ready) < room:
            if self._opens_in() > 0:
                return
            item = self._queues.waiting.popleft()
            self._opening += 1
            if item.at:
                # With an executor the session is not used here, but where the reply is waited for.
                task = self._task(item, timeout=0.0, leave=self._plan.executor is not None)
                self._requests.submit("look", item, worker.locate, self._api, task, item.turn, item.own)
            else:
                agent = item.row.agent_id or self._plan.agent_id
                customer = item.row.customer_id or self._plan.customer_id
                self._requests.submit(
                    "open", item, worker.open_session, self._api, item.row, agent, customer, self._label
                )

    def _opened(self, item: Item, session_id: str, agent_id: str, labelled: bool) -> None:
        item.session, self._agent = session_id, self._agent or agent_id or None
        if not labelled:
            self._label = None  # this server drops them; the client has said so once
        if self._plan.journal is not None:
            self._plan.journal.keep_guest_token(getattr(self._api, "guest_token", None))
        self._queues.ready.append(item)

    def _looked(self, item: Item, event: ps.Event | None) -> None:
        item.event = event
        left = item.settle_left(self._plan.settle)
        if event is not None or left <= 0:
            self._queues.ready.append(item)
        else:
            self._queues.delay(item, left)

    # -- ask

    def _posts_in(self) -> float:
        """Seconds until a message may be posted."""
        return max(self._rate.wait(), self._trouble.pause_left())

    def _hand_out(self) -> None:
        batch: list[Item] = []
        while self._queues.ready and self._asking + len(batch) < self._plan.concurrency:
            item = self._queues.ready[0]
            if item.event is None:
                if self._posts_in() > 0:
                    break
                self._rate.take()
            batch.append(self._queues.ready.popleft())
        entries = [item.entry(self._plan.agent_id) for item in batch if item.event is None]
        if self._plan.journal is not None:
            self._plan.journal.write(entries)
        for item in batch:
            self._asking += 1
            self._ask(item)

    def _task(self, item: Item, *, timeout: float, leave: bool) -> worker.Task:
        assert item.session is not None
        return worker.Task(
            session_id=item.session,
            message=item.message,
            key=item.key,
            metadata=item.row.metadata,
            timeout=timeout,
            event=item.event,
            leave=leave,
            run=self._name,
            serial=next(self._serial),
        )

    def _ask(self, item: Item) -> None:
        task = self._task(item, timeout=item.time_left(), leave=item.last_turn or self._plan.executor is not None)
        if self._plan.executor is None:
            self._requests.submit("ask", item, worker.ask, self._api, task)
        elif item.event is None:
            self._requests.submit("post", item, worker.post, self._api, task)
        else:
            future: Future[Any] = self._plan.executor.submit(worker.remote, self._plan.config, task)
            self._handed[future] = item
            self._requests.watch("wait", item, future)

    def _posted(self, item: Item, event: ps.Event) -> None:
        item.event = event
        self._ask(item)

    def _fetch_late_replies(self) -> None:
        """A row's time is over, and the executor has not answered: the reply is read here, if there is one by now."""
        now = time.monotonic()
        for future, item in list(self._handed.items()):
            if item.deadline is not None and item.deadline + _GRACE <= now:
                del self._handed[future]
                future.cancel()
                logger.warning("row %s: no worker has answered in time; its reply is read here", item.row.id)
                self._requests.submit("late", item, worker.ask, self._api, self._task(item, timeout=_GRACE, leave=True))

    # -- collect

    def _record(self) -> None:
        """What is finished goes to the file, in one write, and then to the thread that iterates."""
        finished, self._finished = self._finished, []
        if self._plan.results is not None:
            self._plan.results.append(result.to_json() for result in finished)
        for result in finished:
            self.outbox.put(result)

    def _clean_up(self) -> None:
        """Only sessions whose result is on the disk."""
        while self._unneeded and self._deleting < self._plan.concurrency:
            self._deleting += 1
            self._requests.submit("delete", None, worker.delete, self._api, self._unneeded.pop())

    def _take(self, stage: str, item: Item | None, future: Future[Any]) -> None:
        if stage == "wait" and self._handed.pop(future, None) is None:
            return  # too late: its reply was read here
        if stage == "delete":
            self._deleting -= 1
            if (failed := future.exception()) is not None:
                logger.info("a session was not deleted: %s", failed)
            return
        if item is None:
            self._probed(future.exception())
            return
        if future.cancelled():
            raise ps.ParlantSyncError("the executor cancelled rows that were under way; run the batch again to go on")
        if stage in ("open", "look"):
            self._opening -= 1
        elif stage != "post":
            self._asking -= 1
        error = future.exception()
        if error is None:
            value = future.result()
            if isinstance(value, worker.Answer):
                self._answered(stage, item, value)
                return
            self._heard_from_server(stage)
            if stage == "open":
                self._opened(item, *value)
            elif stage == "look":
                self._looked(item, value)
            else:
                self._posted(item, value)
            return
        if stage == "wait" or not isinstance(error, Exception):
            raise error  # the executor's own trouble: rows stay as they are
        if stage == "post":
            self._asking -= 1
        self._answered(stage, item, worker.failure(error, 0.0, item.message))

    def _probed(self, error: BaseException | None) -> None:
        self._probing = False
        if error is None or not is_away(error):
            self._heard_from_server("probe")
        else:
            self._note_trouble("probe", error, time.monotonic() - self._heard - _PROBE_AFTER)

    # -- what became of it

    def _answered(self, stage: str, item: Item, answer: worker.Answer) -> None:
        if self.thread.stopping and answer.status == "closed":
            return
        result = self._carry_out(stage, item, answer)
        if result is not None:
            self._finished.append(result)
            if self._plan.cleanup and result.ok and item.own and item.session is not None:
                self._unneeded.append(item.session)
            self._failures += bool(result.failure(empty_fails=self._plan.empty_fails))
            self._queues.finished(item)

    def _carry_out(self, stage: str, item: Item, answer: worker.Answer) -> Result | None:
        """The row's result, or None if it goes on."""
        # Before this failure is noted: trouble during the turn, which has taken at most the row's time.
        was_away = self._trouble.was_there(item.timeout)
        cause = answer.cause
        if cause is not None and is_away(cause):
            self._note_trouble(stage, cause, answer.seconds if stage in ("open", "look") else 0.0)
        verdict = judge(
            stage, answer, own=item.own, tries_left=self._tries_left(stage, item, answer), was_away=was_away
        )
        if verdict is Verdict.STOP:
            assert cause is not None
            raise cause
        if verdict is Verdict.OVER:
            return self._over(stage, item, answer)
        if verdict is Verdict.ANEW:
            item.begin_again()
            self._queues.waiting.appendleft(item)
            return None
        if stage not in ("open", "look"):
            item.look_again()
        self._queues.waiting.append(item)
        return None

    def _tries_left(self, stage: str, item: Item, answer: worker.Answer) -> bool:
        """Counts a failure that may be this row's alone: one while the rows of others are taken."""
        if stage in ("open", "look") and item.writes_seen == self._trouble.writes:
            return True
        if not isinstance(answer.cause, (ps.TransportError, ps.RateLimitedError, ps.TurnTimeout)):
            item.tries, item.writes_seen = item.tries + 1, self._trouble.writes
        return item.tries < _TRIES

    def _over(self, stage: str, item: Item, answer: worker.Answer) -> Result | None:
        status = answer.status if answer.status in STATUSES else "failed"
        if stage in ("open", "look"):
            return item.result(status, "", answer.error)
        if answer.cause is None or isinstance(answer.cause, (ps.AgentError, ps.ApiError)):
            self._heard_from_server(stage)
        over_without_answer = isinstance(answer.cause, ps.AgentError) or status == "empty"
        if item.again and over_without_answer:
            # The reply of an earlier run's message, and none that helps: now the question is asked once more.
            item.begin_again(attempt=True)
            self._queues.waiting.append(item)
            return None
        result = item.take(worker.Answer(status, answer.turn, answer.error))
        if result is None:
            self._queues.ready.appendleft(item)
        return result
