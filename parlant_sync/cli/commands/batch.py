"""``parlant-sync batch``, and its two companions ``batch report`` and ``batch compare``."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click

from parlant_sync import ConfigurationError, NotFoundError
from parlant_sync import batch as batches
from parlant_sync.batch.input_file import Format, InputFile, read_file
from parlant_sync.batch.progress import Failures, duration, left_line, progress_line, summary_lines
from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import LOCKED, ROWS, CommandError, usage
from parlant_sync.cli.lookup import agent_called, agent_of_that_name
from parlant_sync.cli.options import Command, RateType, Seconds, complete, option, pass_app
from parlant_sync.cli.signals import Terminated
from parlant_sync.cli.terminal import Waiting

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from click.shell_completion import CompletionItem


# Seconds between two looks at a batch that runs, and between two lines about it if stderr is not a terminal.
_TICK = 0.5
_LINE_EVERY = 60.0
# What a turn is assumed to take, for an estimate, before one has been seen.
_TYPICAL_TURN = 5.0


_WITH_VALUE = ("-s", "--server", "--token-file", "-o", "--output", "--profile")


class _Rate(RateType):
    """Messages a minute: ``30`` or ``30/min``."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            rate = float(str(value).removesuffix("/min"))
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            self.fail(f"{value!r} is not a number of messages a minute, as in 30 or 30/min", param, ctx)
        return rate


class _BatchCommand(Command):
    """``batch INPUT``, but ``batch report ...`` and ``batch compare ...`` are commands of their own."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        at = 0
        while at < len(args) and (args[at] in _WITH_VALUE or args[at].startswith("-v")):  # the common options
            at += 2 if args[at] in _WITH_VALUE else 1
        if len(args) > at + 1 and not os.path.exists(args[at]):
            meant = difflib.get_close_matches(args[at], ("report", "compare"), 1)
            if meant and meant[0] != args[at]:
                raise click.UsageError(f"no file {args[at]!r}; did you mean '{info_name} {meant[0]}'?")
        if args[at : at + 1] in (["report"], ["compare"]):
            from parlant_sync.cli.commands import batch_report

            command: click.Command = getattr(batch_report, args[at])
            return command.make_context(f"{info_name} {args[at]}", args[:at] + args[at + 1 :], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _offer(start: str) -> list[CompletionItem]:
    """For INPUT: the two commands that may stand in its place, and files."""
    from click.shell_completion import CompletionItem

    commands = [CompletionItem(name) for name in ("report", "compare") if start and name.startswith(start)]
    return commands + complete("file", start)


@click.command(cls=_BatchCommand)
@click.argument("source", metavar="INPUT", shell_complete=lambda ctx, param, start: _offer(start))
@option("--results", metavar="FILE", help="Append the results here; FILE.journal is kept beside it.")
@option("--agent-id", metavar="ID", help="The agent for rows that name none.  [the only one]")
@option("--customer-id", metavar="ID", help="The customer for rows that name none.  [a guest]")
@option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Rows in flight at a time.  [4]")
@option("--rate", type=_Rate(), metavar="N[/min]", help="Post at most N messages a minute.")
@option("--timeout", type=Seconds(), default=300, metavar="SECONDS", help="Time for a row, all its turns.  [300]")
@option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows of INPUT.")
@option("--max-failures", type=click.IntRange(min=1), metavar="N", help="Begin no more rows after N failed ones.")
@option("--retry-failed", is_flag=True, help="Give rows that failed earlier another try.")
@option("--retry-empty", is_flag=True, help="Ask rows again that got no text earlier.")
@option("--empty-fails", is_flag=True, help="A row without text counts as failed (exit code 9).")
@option(
    "--settle",
    type=Seconds(),
    default=10,
    metavar="SECONDS",
    help="After a crash, wait this long before posting a message again that the server does not list.  [10]",
)
@option("--input-format", type=click.Choice(["jsonl", "csv"]), help="Form of INPUT.  [by its ending; stdin: jsonl]")
@option("--encoding", metavar="NAME", help="Encoding of INPUT.  [detected: UTF-8, UTF-16 or CP949]")
@option("--delimiter", metavar="CHAR", help="What separates the cells.  [detected: comma, semicolon or tab]")
@option("--message-column", metavar="NAME", help="The column that holds the message.  [message]")
@option("--name", metavar="NAME", help="Sessions get the label batch:NAME.  [from --results]")
@option("--cleanup", is_flag=True, help="Delete the sessions of rows that went well.")
@option("--junit", metavar="FILE", help="Also write the results as a JUnit report, for CI.")
@option("--dask", metavar="ADDRESS", help="Wait for the replies on this Dask cluster.")
@option("--dry-run", is_flag=True, help="Check the rows, report what would happen, and send nothing.")
@option("-q", "--quiet", is_flag=True, help="No progress, no summary. Failed rows are still listed on stderr.")
@pass_app
def batch(app: App, /, source: str, results: str | None, **options: Any) -> int | None:
    """Ask agents many questions, resumably; a file of results.

    INPUT is JSONL or CSV, - is stdin. A row has message, or messages (several
    turns of one session), and may have id, agent_id, customer_id, session_id,
    metadata, timeout, and what is expected of the answer: expect_contains,
    expect_regex, expect_outcome, expect_tool, expect_seconds. Run the same
    command again to continue a batch that was stopped: no question is asked
    twice.

    \b
      parlant-sync batch questions.jsonl --results answers.jsonl
      parlant-sync batch cases.csv --results r.jsonl --concurrency 16 --dry-run
      parlant-sync batch report r.jsonl              what came out; also --html
      parlant-sync batch compare old.jsonl new.jsonl           what got worse
    """
    for name in ("timeout", "settle"):
        if options[name] is None:
            raise usage(f"--{name} must be a finite number of seconds")
    if not options["timeout"]:
        raise usage("--timeout must be more than 0 seconds")
    if results is None and not options["dry_run"]:
        raise usage("say where the results go: --results FILE")
    if options["junit"] is not None and not os.path.isdir(os.path.dirname(options["junit"]) or "."):
        raise usage(f"--junit {options['junit']}: there is no such folder; make it first")
    found = _read(source, options)
    rows = found.rows[: options["limit"]]
    if options["dry_run"]:
        _preview(app, found, rows, results, options)
        return None
    app.start_logging()
    for note in found.notes:
        output.note(note)
    if found.unused and not options["quiet"]:
        output.note(f"kept with the results, and not used: {', '.join(found.unused)}")
    try:
        with (
            _executor(options.pop("dask"), options["concurrency"]) as (executor, threads),
            _start(app, rows, results, executor, threads, options) as running,
        ):
            return _follow(app, running, rows, {**options, "results": results})
    except batches.BatchLocked as error:
        raise CommandError(LOCKED, str(error)) from error


def _read(source: str, options: dict[str, Any]) -> InputFile:
    input_format: Format | None = options["input_format"]
    try:
        return read_file(
            source,
            input_format=input_format,
            encoding=options["encoding"],
            delimiter=options["delimiter"],
            message_column=options["message_column"],
        )
    except OSError as error:
        raise usage(f"{source}: {error.strerror}") from None


def _start(
    app: App,
    rows: list[batches.Row],
    results: str | None,
    executor: Executor | None,
    threads: int | None,
    options: dict[str, Any],
) -> batches.Batch:
    token: Any = app.token()
    if executor is not None and token is not None:
        token = token()  # the file may be on this machine alone
    given = "agent_id customer_id rate timeout max_failures settle retry_failed retry_empty empty_fails name cleanup"

    def begin() -> batches.Batch:
        return batches.run(
            rows,
            results=results,
            base_url=app.server,
            token=token,
            executor=executor,
            concurrency=options["concurrency"] or threads or 4,
            **{name: options[name] for name in given.split()},
        )

    try:
        return begin()
    except (NotFoundError, ConfigurationError) as error:  # an agent's name is not the id that earlier runs have noted
        with app.client() as client:
            agent_id = agent_called(client, options["agent_id"]) if options["agent_id"] is not None else None
            if agent_id is None:
                if isinstance(error, NotFoundError):  # before a batch begins, nothing but agents is asked for
                    wanted = unquote(error.path.rpartition("/")[2])
                    meant = agent_of_that_name(app, client, wanted, error)
                    raise usage(f"a row asks the agent {wanted!r} by its name; rows need the id: {meant}") from error
                raise
    options["agent_id"] = agent_id
    return begin()


@contextlib.contextmanager
def _executor(address: str | None, concurrency: int | None) -> Iterator[tuple[Executor | None, int | None]]:
    """The cluster's executor and how many threads it has."""
    if address is None:
        yield None, None
        return
    try:
        import distributed
    except ImportError:
        raise usage("--dask needs the package distributed: pip install 'parlant-sync[dask]'") from None
    cluster_class: Any = distributed.Client  # not typed on every version
    try:
        cluster = cluster_class(address, timeout=5, set_as_default=False)
    except (OSError, ValueError) as error:
        raise usage(f"--dask {address}: no cluster there ({error})") from None
    with cluster:
        threads = sum(cluster.nthreads().values())
        if not threads:
            output.note("the cluster has no workers now: replies are read here, each when its row's time is over")
        elif concurrency is not None and concurrency > threads:
            output.note(
                f"--concurrency {concurrency} is more than the {threads} threads of the cluster: "
                f"at most {threads} replies are waited for at a time"
            )
        yield cluster.get_executor(pure=False), threads or None


class _ProgressBar(Waiting):
    """The line at the bottom of a terminal."""

    def _text(self, seconds: float) -> str:
        return self._describe()


def _follow(app: App, running: batches.Batch, rows: list[batches.Row], options: dict[str, Any]) -> int | None:
    """Show progress, and report failures as they come. The exit code."""
    quiet, terminal = options["quiet"], output.is_terminal(sys.stderr) and output.knows_escapes()
    failures = Failures(empty_fails=options["empty_fails"])
    next_line = time.monotonic() + _LINE_EVERY
    bar = _ProgressBar(lambda: progress_line(running.summary, running.waiting_for))
    try:
        with bar if terminal and not quiet else contextlib.nullcontext():
            while True:
                try:
                    result = running.next(_TICK)
                except StopIteration:
                    break
                if result is not None and (line := failures.add(result)):
                    with bar.above():
                        output.note(line)
                if not quiet and not terminal and time.monotonic() >= next_line:
                    next_line += _LINE_EVERY
                    output.note(progress_line(running.summary, running.waiting_for, bar=False))
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, Terminated)):
            # Before it is closed: that may take longer than a process has after a signal.
            with contextlib.suppress(Exception):
                while running.next(0.0) is not None:
                    pass  # finished, and not reported here yet
        _report_end(running, rows, failures, options)
        raise
    _report_end(running, rows, failures, options)
    summary = running.summary
    if app.json:
        output.answer_json(summary.to_json())
    elif not quiet:
        output.answer("\n".join(summary_lines(summary, empty_fails=options["empty_fails"])))
    empty = summary.counts.get("empty", 0) if options["empty_fails"] else 0
    return ROWS if summary.failed or summary.left or empty else None


def _report_end(running: batches.Batch, rows: list[batches.Row], failures: Failures, options: dict[str, Any]) -> None:
    for line in failures.rest():
        output.note(line)
    if left := left_line(running.summary):
        output.note(left)
    if options["junit"] is not None:
        from parlant_sync.cli.commands.batch_report import write_junit

        write_junit(options["junit"], options["results"], rows, empty_fails=options["empty_fails"])


def _preview(app: App, found: InputFile, rows: list[batches.Row], results: str | None, options: dict[str, Any]) -> None:
    """What a run would do; no server is asked."""
    plan = batches.outlook(
        rows, results=results, retry_failed=options["retry_failed"], retry_empty=options["retry_empty"]
    )
    asked = {*plan.fresh, *plan.retried, *plan.in_flight}
    messages = sum(len(row.messages) for row in rows if row.id in asked)
    turn = plan.p50 or _TYPICAL_TURN
    at_once = options["concurrency"] or 4
    seconds = max(math.ceil(messages / at_once) * turn, 60 * messages / options["rate"] if options["rate"] else 0.0)
    facts = {
        "rows": len(rows),
        "to_ask": len(plan.fresh),
        "to_ask_again": len(plan.retried),
        "to_resume": len(plan.in_flight),
        "finished": len(plan.finished),
        "failed_earlier": len(plan.failed),
    }
    if app.json:
        output.answer_json({**facts, "unused_fields": found.unused, "messages": messages, "seconds": round(seconds)})
        return
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in facts.items() if count or name == "rows")
    output.answer(f"{words}; nothing was sent")
    if messages:
        why = f"turns took {turn:.1f} s in earlier runs" if plan.p50 else f"if a turn takes {turn:.0f} s"
        output.answer(f"{messages} messages, {at_once} at a time: about {duration(seconds)} ({why})")
    if found.unused:
        output.answer(f"kept with the results, and not used: {', '.join(found.unused)}")
    for note in found.notes:
        output.answer(note)
    if results is not None and os.path.exists(results):
        output.answer(f"results are appended to {results}")
