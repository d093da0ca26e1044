"""The one thread of a batch: hands rows out, writes the journal before and the results after, and lets nobody wait.

A message's way: *open* (make its session, or look for it after a crash) -> *ready* -> an entry in the journal -> *ask*
(post and wait for the reply; with an executor: post here, wait there) -> the next message of its row, or its result.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import parlant_sync as ps
from parlant_sync.batch import worker
from parlant_sync.batch.ending import BatchThread
from parlant_sync.batch.items import Item
from parlant_sync.batch.judge import Verdict, judge
from parlant_sync.batch.patience import Patience
from parlant_sync.batch.plan import Plan
from parlant_sync.batch.pool import Pool
from parlant_sync.batch.queues import Queues
from parlant_sync.batch.rate import Rate
from parlant_sync.batch.results import STATUSES, Result

# A message whose delivery stayed uncertain, or that the server failed over, is posted once more by one run.
_REPOSTS = 1
# A request that is under way cannot be woken; its thread is left to end by itself, the journal knows the message.
_CLOSING = 0.5
# Seconds: where the rate lets few messages go, the session for the next one is not opened earlier than that.
_LEAD = 5.0


class Runner:
    """Runs a batch in a daemon thread. What it has is in ``outbox``: results, then None or what ended it early."""

    def __init__(self, plan: Plan, items: Iterable[Item]) -> None:
        self.outbox: queue.SimpleQueue[Result | BaseException | None] = queue.SimpleQueue()
        self._plan = plan
        self._inbox: queue.SimpleQueue[tuple[str, Item, Future[Any]] | None] = queue.SimpleQueue()
        self._queues = Queues(items)
        self._opening = 0
        self._asking = 0
        self._failures = 0
        self._finished: list[Result] = []  # not yet recorded
        self._rate = Rate(plan.rate)
        self._patience = Patience(self._rate)
        self._handed: set[Future[Any]] = set()  # to the executor
        self._serial = itertools.count(1)
        # Sessions are opened a little ahead, so that nobody waits for that who could wait for a reply.
        self._ahead = max(1, plan.concurrency // 4)
        self._pool = Pool(plan.concurrency + self._ahead)
        self.thread = BatchThread(self._run, plan.results.path if plan.results is not None else None)

    def stop(self) -> None:
        """As soon as possible: rows in flight stay resumable. Takes no lock; for any thread, and for a finalizer."""
        self.thread.stopping = True
        self._inbox.put(None)

    # -- the thread

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            # Leaving it closes the client, which wakes all who wait for replies that nobody wants any more.
            with self._client() as self._api:
                try:
                    self._loop()
                finally:
                    # Before the client goes: a task that begins in this process after that would make one of its own.
                    for future in self._handed:
                        future.cancel()
                    self._record()
        except BaseException as error:
            end = error
        finally:
            self._pool.stop(_CLOSING)
            for file in (self._plan.results, self._plan.journal):
                if file is not None:
                    file.close()
            self.outbox.put(end)

    def _client(self) -> contextlib.AbstractContextManager[ps.Client]:
        # With an executor it may be shared with tasks in this process; else it is this batch's own.
        return self._plan.config.client() if self._plan.executor is None else worker.lease(self._plan.config)

    def _loop(self) -> None:
        while self._queues.left and not self.thread.stopping:
            self._queues.wake()
            limit = self._plan.max_failures
            if limit is None or self._failures < limit:
                self._hand_out()
                self._open_some()  # in place of those that were handed out just now, too
                self._record()  # only now: nobody who could wait for a reply waits for the disk
                self._collect(self._idle_for())
            elif self._asking:
                self._record()
                self._collect(None)
            else:
                return
        self._collect(0.0)

    def _idle_for(self) -> float | None:
        """How long nothing has to be done; None: until something is heard."""
        wake = self._queues.next_wake()
        waits = [wake] if wake is not None else []
        if self._queues.waiting and (closed := self._opens_in()) > 0:
            waits.append(closed)
        if self._queues.ready and self._asking < self._plan.concurrency:
            waits.append(self._rate.wait_for_message())
        return max(0.0, min(waits)) if waits else None

    # -- open

    def _opens_in(self) -> float:
        """Seconds until a session may be opened."""
        return max(self._rate.pause_left(), self._rate.wait_for_message() - _LEAD, 0.0)

    def _open_some(self) -> None:
        room = self._plan.concurrency - self._asking + self._ahead
        if self._plan.rate is not None:
            room = min(room, int(self._plan.rate / 60) + 1)
        at_once = room if self._plan.concurrency > 1 else 1  # one row at a time means in their order, too
        while self._queues.waiting and self._opening < at_once and self._opening + len(self._queues.ready) < room:
            if self._opens_in() > 0:
                return
            item = self._queues.waiting.popleft()
            self._opening += 1
            if item.at:
                # With an executor the session is not used here, but where the reply is waited for.
                task = self._task(item, timeout=0.0, leave=self._plan.executor is not None)
                self._submit("look", item, worker.locate, self._api, task, item.turn, item.own)
            else:
                agent = item.row.agent_id or self._plan.agent_id
                customer = item.row.customer_id or self._plan.customer_id
                self._submit("open", item, worker.open_session, self._api, item.row, agent, customer)

    def _looked(self, item: Item, event: ps.Event | None) -> None:
        item.event, item.found = event, event is not None
        left = item.settle_left(self._plan.settle)
        if event is not None or left <= 0:
            self._queues.ready.append(item)
        else:
            self._queues.delay(item, left)

    # -- ask

    def _hand_out(self) -> None:
        batch: list[Item] = []
        while self._queues.ready and self._asking + len(batch) < self._plan.concurrency:
            item = self._queues.ready[0]
            if item.event is None:
                if self._rate.wait_for_message() > 0:
                    break
                self._rate.take()
            batch.append(self._queues.ready.popleft())
        entries = [item.entry() for item in batch if item.event is None]
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
            serial=next(self._serial),
        )

    def _ask(self, item: Item) -> None:
        task = self._task(item, timeout=item.time_left(), leave=item.last_turn or self._plan.executor is not None)
        if self._plan.executor is None:
            self._submit("ask", item, worker.ask, self._api, task)
        elif item.event is None:
            self._submit("post", item, worker.post, self._api, task)
        else:
            future: Future[Any] = self._plan.executor.submit(worker.remote, self._plan.config, task)
            self._handed.add(future)
            future.add_done_callback(lambda done: self._inbox.put(("wait", item, done)))

    def _posted(self, item: Item, event: ps.Event) -> None:
        item.event = event
        self._ask(item)

    def _submit(self, stage: str, item: Item, call: Callable[..., Any], *arguments: Any) -> None:
        future = self._pool.submit(call, *arguments)
        future.add_done_callback(lambda done: self._inbox.put((stage, item, done)))

    # -- collect

    def _collect(self, timeout: float | None) -> None:
        """Wait for news, then take all there are."""
        block = timeout is None or timeout > 0
        with contextlib.suppress(queue.Empty):
            while (news := self._inbox.get(block, timeout)) is not None:
                block = False
                self._take(*news)

    def _record(self) -> None:
        """What is finished goes to the file, in one write, and then to whoever iterates."""
        finished, self._finished = self._finished, []
        if self._plan.results is not None:
            self._plan.results.append(result.to_json() for result in finished)
        for result in finished:
            self.outbox.put(result)

    def _take(self, stage: str, item: Item, future: Future[Any]) -> None:
        if stage == "wait":
            self._handed.discard(future)
        else:
            self._pool.done()
        if stage in ("open", "look"):
            self._opening -= 1
        elif stage in ("ask", "wait"):
            self._asking -= 1
        if future.cancelled():
            raise ps.ParlantSyncError("the executor cancelled rows that were under way; run the batch again to go on")
        error = future.exception()
        if error is None:
            value = future.result()
            if isinstance(value, worker.Answer):
                answer = value
            else:
                self._patience.succeeded(item)
                if stage == "open":
                    item.session = value
                    self._queues.ready.append(item)
                elif stage == "look":
                    self._looked(item, value)
                else:
                    self._posted(item, value)
                return
        else:
            if stage == "wait" or not isinstance(error, Exception):
                raise error  # the executor's own trouble: rows stay as they are
            if stage == "post":
                self._asking -= 1
            answer = worker.failure(error, 0.0)
        if self.thread.stopping and answer.status == "closed":
            return
        result = self._carry_out(stage, item, answer)
        if result is not None:
            self._finished.append(result)
            self._failures += not result.ok
            self._queues.finished(item)

    # -- what became of it

    def _carry_out(self, stage: str, item: Item, answer: worker.Answer) -> Result | None:
        """The row's result, or None where it goes on."""
        left = item.reposts < _REPOSTS
        verdict = judge(stage, answer, own=item.own, reposts_left=left)
        if verdict is Verdict.STOP or (verdict is Verdict.WAIT and self._patience.is_over(item, answer)):
            assert answer.cause is not None
            raise answer.cause
        if verdict is Verdict.WAIT and self._patience.may_wait(item, answer):
            self._queues.waiting.append(item)
        elif verdict is Verdict.LOOK:
            item.look_again()
            self._queues.waiting.append(item)
        elif verdict is Verdict.ANEW:
            item.begin_again()
            self._queues.waiting.appendleft(item)
        else:
            return self._over(stage, item, answer)
        return None

    def _over(self, stage: str, item: Item, answer: worker.Answer) -> Result | None:
        status = answer.status if answer.status in STATUSES else "failed"
        if stage in ("open", "look"):
            return item.result(status, "", answer.error)
        self._patience.succeeded(item)
        result = item.take(worker.Answer(status, answer.text, answer.duration, answer.error))
        if result is None:
            self._queues.ready.appendleft(item)
        return result
