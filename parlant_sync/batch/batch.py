"""``run()``: a batch of questions, as an iterator of results."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import Any

from parlant_sync import Client, ConfigurationError, PermissionDeniedError
from parlant_sync.batch.ending import wait_for_the_ending
from parlant_sync.batch.files import LineFile
from parlant_sync.batch.items import Item
from parlant_sync.batch.journal import Journal
from parlant_sync.batch.plan import Plan
from parlant_sync.batch.results import Result, Summary, Tally
from parlant_sync.batch.rows import Row, check_rows
from parlant_sync.batch.runner import Runner
from parlant_sync.batch.worker import Config

CONCURRENCY = 4
SETTLE = 10.0
TIMEOUT = 300.0


@dataclass(frozen=True)
class Outlook:
    """What a run would do with its rows, by their ids."""

    fresh: tuple[str, ...]
    finished: tuple[str, ...]
    failed: tuple[str, ...]  # finished without an answer by earlier runs, and not to be asked again
    retried: tuple[str, ...]
    in_flight: tuple[str, ...]


class Batch:
    """A batch that is running: an iterator of :class:`Result`, in the order they are finished. Made by :func:`run`.

    It works on, whether results are taken or not, in threads of its own. Leaving the ``with`` block, ``close()``, or
    letting go of it stops it: rows in flight stay resumable where files are kept. For one thread at a time.
    """

    def __init__(self, rows: list[Row], found: _Found, start: Callable[[], Runner]) -> None:
        self._tally = Tally(len(rows))
        for result in found.counted.values():
            self._tally.add(result, earlier=True)
        self.outlook = found.outlook
        self._begun = time.monotonic()
        self._seconds: float | None = None
        self._runner = start()
        self._runner.thread.start()
        # Only asks it to stop: a finalizer joins nothing. Nothing is left to be done at exit: the journal has it.
        weakref.finalize(self, self._runner.stop).atexit = False  # type: ignore[misc]

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        result = self.next()
        assert result is not None
        return result

    def next(self, timeout: float | None = None) -> Result | None:
        """The next result; None where there is none after ``timeout`` seconds. Raises StopIteration at the end."""
        if self._seconds is not None:
            raise StopIteration
        try:
            news = self._runner.outbox.get(timeout=timeout)
        except Empty:
            return None
        if isinstance(news, Result):
            self._tally.add(news)
            return news
        self._seconds = time.monotonic() - self._begun
        self._runner.thread.join()
        if news is None:
            raise StopIteration
        raise news

    @property
    def summary(self) -> Summary:
        """How the batch stands, by the results taken so far and those of earlier runs."""
        seconds = time.monotonic() - self._begun if self._seconds is None else self._seconds
        return self._tally.summary(seconds)

    def close(self) -> None:
        """Stop at once. What was finished until then is in the files and in ``summary``. Idempotent."""
        self._runner.stop()
        self._runner.thread.join()
        while self._seconds is None:
            try:
                self.next()
            except StopIteration:
                return
            except Exception:
                return  # what ended it early: nobody waits for it any more

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run(
    rows: Iterable[Row | Mapping[str, Any] | str],
    *,
    results: str | os.PathLike[str] | None = None,
    agent_id: str | None = None,
    customer_id: str | None = None,
    base_url: str | None = None,
    token: str | Callable[[], str] | None = None,
    client_options: Mapping[str, Any] | None = None,
    concurrency: int = CONCURRENCY,
    rate: float | None = None,
    timeout: float = TIMEOUT,
    max_failures: int | None = None,
    settle: float = SETTLE,
    retry_failed: bool = False,
    executor: Executor | None = None,
) -> Batch:
    """Ask every row; gives an iterator of results in the order they are finished.

    ``rows``: mappings as in the input file, :class:`Row` objects, or plain texts. ``results``: a file that every result
    is appended to, with a journal beside it; run again with the same rows and file, a batch goes on where it stopped.
    ``base_url``, ``token`` and ``client_options`` are the arguments of ``Client``. ``concurrency`` rows are in flight
    at a time; ``rate`` messages a minute are posted at most; ``timeout`` seconds has a row without one of its own.
    After ``max_failures`` failed rows no further ones are begun. ``settle``: seconds after which a message that a
    crash left uncertain is posted again where the server does not list it. ``retry_failed`` asks rows that failed in
    earlier runs again, in a new session. ``executor`` waits for the replies: any ``concurrent.futures.Executor``, also
    one of many machines; messages are posted, and files written, by this process alone.

    Raises before anything is sent: ConfigurationError (rows, options, files that are not a batch's), BatchLocked,
    NotFoundError for an unknown agent, TransportError and ApiError where the server cannot be asked, OSError. While
    iterating: OSError where a file cannot be written (the files stay whole), TransportError or ServerError where the
    server stayed away, AuthenticationError, and what ends the executor; rows in flight can be resumed then.
    """
    checked = check_rows(rows)
    _check_numbers(concurrency=concurrency, rate=rate, timeout=timeout, max_failures=max_failures, settle=settle)
    options = dict(client_options or {})
    if token is None and "auth" not in options:
        # Worker processes may have another environment.
        token = os.environ.get("PARLANT_TOKEN") or None
    if token is not None:
        options["token"] = token
    path = Path(os.path.realpath(results)) if results is not None else None
    if path is not None:
        wait_for_the_ending(path)
    with Client(base_url, **options) as client:
        config = Config(client.base_url, options)
        files = _Files(path)
        try:
            found = _Found(checked, files, retry_failed)
            if files.journal is not None:
                files.journal.begin(config.base_url, in_flight=bool(found.outlook.in_flight))
            todo = [row for row in checked if row.id in found.todo]
            agent_id = _check_agents(client, todo, agent_id)
        except BaseException:
            files.discard()
            raise
    items = [
        Item.resume(row, row.timeout or timeout, found.entries[row.id])
        if row.id in found.entries
        else Item(row, row.timeout or timeout)
        for row in todo
    ]
    plan = Plan(
        config=config,
        agent_id=agent_id,
        customer_id=customer_id,
        concurrency=concurrency,
        rate=rate,
        max_failures=max_failures,
        settle=settle,
        executor=executor,
        results=files.results,
        journal=files.journal,
    )
    return Batch(checked, found, lambda: Runner(plan, items))


def outlook(
    rows: Iterable[Row | Mapping[str, Any] | str],
    *,
    results: str | os.PathLike[str] | None = None,
    retry_failed: bool = False,
) -> Outlook:
    """What ``run()`` would do with these rows; asks no server, locks and changes no file. Raises ConfigurationError."""
    path = Path(os.path.realpath(results)) if results is not None else None
    files = _Files(path, look_only=True)
    try:
        return _Found(check_rows(rows), files, retry_failed).outlook
    finally:
        files.discard()  # looking only, it has made none


class _Files:
    """The results and the journal beside them, the journal's lock taken before either is read."""

    def __init__(self, path: Path | None, *, look_only: bool = False) -> None:
        self.path = path
        self.journal: Journal | None = None
        self.results: LineFile | None = None
        if path is None:
            return
        self.journal = Journal(Journal.beside(path), look_only=look_only)
        try:
            self.results = LineFile(path, "id", look_only=look_only)
        except BaseException:
            self.discard()
            raise

    def earlier(self) -> list[Result]:
        found: list[Result] = []
        if self.results is not None:
            self.results.read(lambda value: found.append(Result.read(value)))
        return found

    def discard(self) -> None:
        """Nothing was sent: what was not there before is not left there. The journal last, with the lock."""
        for file in (self.results, self.journal):
            if file is not None:
                file.discard()


class _Found:
    """What earlier runs left: which rows are finished, which were in flight, which are to be asked."""

    def __init__(self, rows: list[Row], files: _Files, retry_failed: bool) -> None:
        earlier = files.earlier()
        last = {result.id: result for result in earlier}  # the last line of an id counts
        self.entries = files.journal.in_flight(rows, earlier) if files.journal is not None else {}
        done = {row.id: last[row.id] for row in rows if row.id in last and row.id not in self.entries}
        again = {name for name, result in done.items() if retry_failed and not result.ok}
        self.counted = {name: result for name, result in done.items() if name not in again}
        self.todo = {row.id for row in rows if row.id not in self.counted}
        names = [row.id for row in rows]
        known = again | self.entries.keys()
        self.outlook = Outlook(
            fresh=tuple(name for name in names if name in self.todo and name not in known),
            finished=tuple(name for name in names if name in self.counted and self.counted[name].ok),
            failed=tuple(name for name in names if name in self.counted and not self.counted[name].ok),
            retried=tuple(name for name in names if name in again),
            in_flight=tuple(name for name in names if name in self.entries),
        )


def _check_agents(client: Client, rows: list[Row], agent_id: str | None) -> str | None:
    """The agent of rows that name none, after all that are needed were found on the server."""
    wanted = {row.agent_id or agent_id for row in rows if row.session_id is None}
    if None in wanted:
        try:
            agents = client.agents()
        except PermissionDeniedError:
            raise ConfigurationError(
                "say which agent to ask: --agent-id (agent_id=); this server does not list them"
            ) from None
        if len(agents) != 1:
            names = ", ".join(agent.id for agent in agents[:10]) or "none"
            raise ConfigurationError(f"say which agent to ask: --agent-id (agent_id=); this server has: {names}")
        agent_id = agents[0].id
    for name in sorted(name for name in wanted if name is not None):
        client.agent(name)
    return agent_id


def _check_numbers(*, concurrency: object, rate: object, timeout: object, max_failures: object, settle: object) -> None:
    for name, value in (("concurrency", concurrency), ("max_failures", max_failures)):
        if not (value is None and name == "max_failures") and (type(value) is not int or value < 1):
            raise ConfigurationError(f"{name} must be a whole number, at least 1, not {value!r}")
    for name, value, least in (("rate", rate, False), ("timeout", timeout, False), ("settle", settle, True)):
        if value is None and name == "rate":
            continue
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
        if not math.isfinite(number) or number < 0 or (number == 0 and not least):
            raise ConfigurationError(f"{name} must be a number {'not below' if least else 'above'} 0, not {value!r}")
