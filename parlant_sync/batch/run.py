"""``run()``: a batch of questions, as an iterator of results."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty
from types import TracebackType
from typing import Any

from parlant_sync import ApiError, Client, ConfigurationError, PermissionDeniedError, UnsupportedByServer
from parlant_sync.batch.items import Item
from parlant_sync.batch.journal import Entry, Journal, LineFile
from parlant_sync.batch.results import BAD, GOOD, Result, Summary, Tally
from parlant_sync.batch.rows import Row, check_rows
from parlant_sync.batch.runner import Plan, Runner
from parlant_sync.batch.threads import wait_for_the_ending
from parlant_sync.batch.worker import Config

logger = logging.getLogger(__name__)

CONCURRENCY = 4
SETTLE = 10.0
TIMEOUT = 300.0


@dataclass(frozen=True)
class Outlook:
    """What a run would do with its rows, by their ids."""

    fresh: tuple[str, ...]
    finished: tuple[str, ...]
    failed: tuple[str, ...]  # finished by earlier runs, not well, and not to be asked again
    retried: tuple[str, ...]
    in_flight: tuple[str, ...]
    p50: float | None = None  # seconds of a turn in earlier runs


class Batch:
    """A batch that is running: an iterator of ``Result``, in the order they are finished. Made by ``run``.

    It runs in threads of its own, whether results are taken or not. Leaving the ``with`` block, ``close()``, or
    dropping it stops it: rows in flight stay resumable if files are kept. For one thread at a time.
    """

    def __init__(self, rows: list[Row], found: _Found, start: Callable[[], Runner]) -> None:
        self._tally = Tally(len(rows), found.counted.values())
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
        """The next result, or None if none comes within ``timeout`` seconds. Raises StopIteration at the end."""
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
    def waiting_for(self) -> str:
        """A few words about what all rows wait for now (a 429, a server that is away); empty if they do not."""
        return self._runner.waiting_for

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
                return  # what ended it early: no caller waits for it any more

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
    retry_empty: bool = False,
    empty_fails: bool = False,
    name: str | None = None,
    cleanup: bool = False,
    executor: Executor | None = None,
) -> Batch:
    """Ask every row; returns an iterator of results in the order they are finished.

    ``rows``: mappings as in the input file, ``Row`` objects, or plain texts. ``results``: a file that every result
    is appended to, with a journal beside it; run again with the same rows and file, a batch continues where it
    stopped. ``base_url``, ``token`` and ``client_options`` are the arguments of ``Client``. ``concurrency`` rows are in
    flight at a time; at most ``rate`` messages a minute are posted; a row without a timeout of its own has ``timeout``
    seconds, from its first post. After ``max_failures`` failed rows (with ``empty_fails`` also empty ones) no further
    ones are begun. ``settle``: seconds after which a message that a crash left uncertain is posted again if the server
    does not list it. ``retry_failed`` (``retry_empty``): rows that failed (were empty) in earlier runs get another try.
    A message that may have no reply yet is looked up first: its reply counts, if there is one by now, and only a turn
    that is over without an answer is asked again, in a new session. ``name``: sessions get the label ``batch:NAME``
    (3.2 and later; default: the name of the results file). ``cleanup`` deletes the sessions of rows that went well.
    ``executor`` waits for the replies: any ``concurrent.futures.Executor``, also one of many machines; messages are
    posted, and files written, by this process alone.

    Raises before anything is sent: ConfigurationError (rows, options, files that are not this batch's), BatchLocked,
    NotFoundError for an unknown agent, TransportError and ApiError if the server cannot be asked, OSError. While
    iterating: OSError if a file cannot be written (the files stay whole), TransportError, RateLimitedError or
    ServerError if the server stayed away, AuthenticationError, and what ends the executor; rows in flight can be
    resumed then.
    """
    checked = check_rows(rows)
    _check_numbers(concurrency=concurrency, rate=rate, timeout=timeout, max_failures=max_failures, settle=settle)
    options = dict(client_options or {})
    if token is None and "auth" not in options:
        # Worker processes may have another environment.
        token = os.environ.get("PARLANT_TOKEN") or None
    path = results_path(results)
    if path is not None:
        wait_for_the_ending(path)
    stem = name or (path.stem if path is not None else "")
    label = f"batch:{stem}" if stem else None
    files = _Files(path)
    try:
        if token is None and "auth" not in options and files.journal is not None:
            token = files.journal.guest_token
        if token is not None:
            options["token"] = token
        found = _Found(checked, files, retry_failed, retry_empty)
        with Client(base_url, **options) as client:
            config = Config(client.base_url, options)
            if files.journal is not None:
                files.journal.check_agents(checked, agent_id)
                files.journal.begin(config.base_url, used=bool(found.counted or found.entries))
            todo = [row for row in checked if row.id in found.todo]
            agent_id = _check_agents(client, todo, agent_id)
            leftovers = _leftovers(client, label, checked, found.counted) if cleanup else []
        if files.journal is not None:
            files.journal.check_agents(checked, agent_id)
        if files.results is not None:
            files.results.append(result.to_json() for result in found.judged_anew)
    except BaseException:
        files.discard()
        raise
    items = [
        Item.resume(row, row.timeout or timeout, found.entries[row.id], again=row.id in found.again)
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
        label=label,
        cleanup=cleanup,
        empty_fails=empty_fails,
        executor=executor,
        results=files.results,
        journal=files.journal,
    )
    try:
        return Batch(checked, found, lambda: Runner(plan, items, leftovers))
    except RuntimeError:  # the system starts no thread for it: nothing was sent
        files.discard()
        raise


def outlook(
    rows: Iterable[Row | Mapping[str, Any] | str],
    *,
    results: str | os.PathLike[str] | None = None,
    retry_failed: bool = False,
    retry_empty: bool = False,
) -> Outlook:
    """What ``run()`` would do with these rows; asks no server, locks and changes no file. Raises ConfigurationError."""
    files = _Files(results_path(results), look_only=True)
    try:
        return _Found(check_rows(rows), files, retry_failed, retry_empty).outlook
    finally:
        files.discard()  # looking only, it has made none


def results_path(results: str | os.PathLike[str] | None) -> Path | None:
    """The file that is meant, without links. Raises ConfigurationError if results cannot be kept there."""
    if results is None:
        return None
    given = os.fspath(results)
    path = Path(os.path.realpath(given))
    if given in ("-", ""):
        raise ConfigurationError("results must go to a file, so that the batch can be resumed; name one")
    if path.suffix.lower() in (".csv", ".tsv", ".xlsx"):
        raise ConfigurationError(
            f"{given}: results are JSON, one object a line; name the file {path.stem}.jsonl "
            "(parlant-sync batch report --csv makes a table of it)"
        )
    if not path.parent.is_dir():
        raise ConfigurationError(f"{given}: there is no folder {path.parent}; make it first")
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{given}: not a regular file; results are kept in one")
    return path


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
        """Nothing was sent: remove what was not there before. The journal last, with the lock."""
        for file in (self.results, self.journal):
            if file is not None:
                file.discard()


class _Found:
    """What earlier runs left: which rows are finished, which were in flight, which are to be asked."""

    def __init__(self, rows: list[Row], files: _Files, retry_failed: bool, retry_empty: bool) -> None:
        earlier = files.earlier()
        last = {result.id: result for result in earlier}  # the last line of an id counts
        self.entries = files.journal.in_flight(rows, earlier) if files.journal is not None else {}
        done: dict[str, Result] = {}
        self.judged_anew: list[Result] = []  # the row's expectations have changed since
        for row in rows:
            result = last.get(row.id)
            if result is None or row.id in self.entries:
                continue
            unmet = row.expect.unmet(result.status, result.text, result.turns) if result.status in GOOD else ()
            if unmet != result.unmet:
                result = replace(result, unmet=unmet)
                self.judged_anew.append(result)
            done[row.id] = result
        in_flight = set(self.entries)
        self.again = {
            name
            for name, result in done.items()
            if (retry_failed and not result.ok) or (retry_empty and result.status == "empty")
        }
        for row in rows:
            # Without an answer so far: what was posted is looked up before anything is asked again.
            entry = files.journal.last.get(row.id) if files.journal is not None else None
            if row.id in self.again and entry is not None and self._may_be_there(done[row.id], entry, row):
                self.entries[row.id] = entry
        self.counted = {name: result for name, result in done.items() if name not in self.again}
        self.todo = {row.id for row in rows if row.id not in self.counted}
        names = [row.id for row in rows]
        known = self.again | in_flight
        self.outlook = Outlook(
            fresh=tuple(name for name in names if name in self.todo and name not in known),
            finished=tuple(name for name in names if name in self.counted and self.counted[name].ok),
            failed=tuple(name for name in names if name in self.counted and not self.counted[name].ok),
            retried=tuple(name for name in names if name in self.again),
            in_flight=tuple(name for name in names if name in in_flight),
            p50=Tally(0, done.values()).summary(0.0).p50,
        )

    @staticmethod
    def _may_be_there(result: Result, entry: Entry, row: Row) -> bool:
        """Whether the last attempt may have a reply that nobody has read. (A corrected row is another question.)"""
        return result.status in BAD and entry.started == result.started and entry.digest == row.digest


def _check_agents(client: Client, rows: list[Row], agent_id: str | None) -> str | None:
    """The agent of rows that name none, after all that are needed were found on the server."""
    wanted = {row.agent_id or agent_id for row in rows if row.session_id is None}
    if None in wanted:
        try:
            agents = client.agents()
        except PermissionDeniedError:
            raise ConfigurationError("say which agent to ask with agent_id=; this server does not list them") from None
        if len(agents) != 1:
            names = ", ".join(agent.id for agent in agents[:10]) or "none"
            raise ConfigurationError(f"say which agent to ask with agent_id=; this server has: {names}")
        agent_id = agents[0].id
    for name in sorted(name for name in wanted if name is not None):
        client.agent(name)
    return agent_id


def _leftovers(client: Client, label: str | None, rows: list[Row], counted: Mapping[str, Result]) -> list[str]:
    """Sessions of earlier runs that were made for rows that went well, and that the server still has."""
    own = {row.id for row in rows if row.session_id is None}
    mine = {result.session_id for name, result in counted.items() if result.ok and name in own}
    if label is None or not mine:
        return []
    try:
        return [session.id for session in client.list_sessions(labels=[label]) if session.id in mine]
    except (ApiError, UnsupportedByServer) as error:
        logger.warning("sessions of earlier runs are not deleted: %s", error)
        return []


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
