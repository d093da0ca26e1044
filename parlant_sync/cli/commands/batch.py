"""``parlant-sync batch``."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import click

from parlant_sync import NotFoundError
from parlant_sync import batch as batches
from parlant_sync.batch.progress import Progress, summary_lines
from parlant_sync.batch.reading import Format, read_objects, unknown_fields
from parlant_sync.cli import output
from parlant_sync.cli.errors import LOCKED, REFUSED, ROWS, CommandError, usage
from parlant_sync.cli.options import App, Command, RateType, Seconds, complete, log_to_stderr, option, pass_app
from parlant_sync.cli.signals import Terminated
from parlant_sync.cli.target import no_parlant

if TYPE_CHECKING:
    from concurrent.futures import Executor


# How often the progress is drawn while nothing is finished.
_TICK = 1.0


class _Rate(RateType):
    """Messages a minute: ``30``, or ``30/min`` as one says it."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            rate = float(str(value).removesuffix("/min"))
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            self.fail(f"{value!r} is no number of messages a minute, as in 30 or 30/min", param, ctx)
        return rate


@click.command(cls=Command)
@click.argument("source", metavar="INPUT", shell_complete=lambda ctx, param, start: complete("file", start))
@option("--results", metavar="FILE", help="Append the results here; FILE.journal is kept beside it.")
@option("--input-format", type=click.Choice(["jsonl", "csv"]), help="Form of INPUT.  [by its ending; stdin: jsonl]")
@option("--agent-id", metavar="ID", help="The agent for rows that name none; may be left out where there is one.")
@option("--customer-id", metavar="ID", help="The customer for rows that name none.  [a guest]")
@option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Rows in flight at a time.  [4]")
@option("--rate", type=_Rate(), metavar="N[/min]", help="Post at most N messages a minute.")
@option("--timeout", type=Seconds(), default=300, metavar="SECONDS", help="Time for a row, all its turns.  [300]")
@option("--max-failures", type=click.IntRange(min=1), metavar="N", help="Begin no more rows after N failed ones.")
@option("--settle", type=Seconds(), default=10, metavar="SECONDS", help="Ask a lost message again after that.  [10]")
@option("--retry-failed", is_flag=True, help="Ask rows that failed earlier again, in a new session.")
@option("--dask", metavar="ADDRESS", help="Wait for the replies on this Dask cluster.")
@option("--dry-run", is_flag=True, help="Check the rows, say what would happen, and send nothing.")
@option("-q", "--quiet", is_flag=True, help="No progress and no summary.")
@pass_app
def batch(app: App, /, source: str, results: str | None, input_format: Format | None, **options: Any) -> int | None:
    """Put many questions to agents, resumably.

    INPUT is JSONL or CSV, - is stdin. A row has message, or messages (several
    turns of one session), and may have id, agent_id, customer_id, session_id,
    metadata and timeout. Run again with the same INPUT and FILE, a batch that
    was cut short goes on: no question is asked twice.

    \b
      parlant-sync batch questions.jsonl --results answers.jsonl
      parlant-sync batch cases.csv --results r.jsonl --concurrency 16 --dry-run
    """
    for name in ("timeout", "settle"):
        if options[name] is None:
            raise usage(f"--{name} must be a finite number of seconds")
    if results is None and not options["dry_run"]:
        raise usage("say where the results go: --results FILE")
    try:
        objects = read_objects(source, input_format=input_format)
    except OSError as error:
        raise usage(f"{source}: {error.strerror}") from None
    if options["dry_run"]:
        _tell(app, objects, results, retry_failed=options["retry_failed"])
        return None
    if app.verbose:
        log_to_stderr(app.verbose)
    try:
        with (
            _executor(options.pop("dask")) as (executor, threads),
            _start(app, objects, results, executor, threads, options) as running,
        ):
            return _follow(app, running, quiet=options["quiet"])
    except batches.BatchLocked as error:
        raise CommandError(LOCKED, str(error)) from error


def _start(
    app: App,
    objects: list[dict[str, Any]],
    results: str | None,
    executor: Executor | None,
    threads: int | None,
    options: dict[str, Any],
) -> batches.Batch:
    token: Any = app.token()
    if executor is not None and token is not None:
        token = token()  # the file may be on this machine alone
    given = ("agent_id", "customer_id", "rate", "timeout", "max_failures", "settle", "retry_failed")
    try:
        return batches.run(
            objects,
            results=results,
            base_url=app.server,
            token=token,
            executor=executor,
            concurrency=options["concurrency"] or threads or 4,
            **{name: options[name] for name in given},
        )
    except NotFoundError as error:  # nothing but agents is asked for before a batch begins
        raise CommandError(REFUSED, _no_agent(app, error)) from error


def _no_agent(app: App, error: NotFoundError) -> str:
    wanted = unquote(error.path.rpartition("/")[2])
    with app.client() as client:
        if wanted in error.detail:
            return f"no agent {wanted!r} on {client.base_url}; {app.again('agents')} lists them"
        return no_parlant(app, client, error)


@contextlib.contextmanager
def _executor(address: str | None) -> Iterator[tuple[Executor | None, int | None]]:
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
        yield cluster.get_executor(pure=False), sum(cluster.nthreads().values()) or None


def _follow(app: App, running: batches.Batch, *, quiet: bool) -> int | None:
    """Draws, and tells failures as they come. The exit code."""
    drawn = output.is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" and not quiet
    progress = Progress(output.note_raw if drawn else None)
    try:
        while True:
            progress.show(running.summary)
            try:
                result = running.next(_TICK)
            except StopIteration:
                break
            if result is not None and not result.ok:
                progress.clear()
                output.note(f"row {result.id}: {result.status}: {result.error}")
    except (KeyboardInterrupt, Terminated):
        progress.clear()
        # Before it is closed: that may take longer than a process has after a signal.
        with contextlib.suppress(Exception):
            while running.next(0.0) is not None:
                pass  # finished, and not told here yet
        if running.summary.left:
            output.note(f"{running.summary.left} rows are not finished; the same command again goes on with them")
        raise
    finally:
        progress.clear()
    summary = running.summary
    if app.json:
        output.answer_json(summary.to_json())
    elif not quiet:
        output.answer("\n".join(summary_lines(summary)))
    return ROWS if summary.failed or summary.left else None


def _tell(app: App, objects: list[dict[str, Any]], results: str | None, *, retry_failed: bool) -> None:
    """What a run would do; no server is asked."""
    found = batches.outlook(objects, results=results, retry_failed=retry_failed)
    unused = unknown_fields(objects)
    facts = {
        "rows": len(objects),
        "to_ask": len(found.fresh),
        "to_ask_again": len(found.retried),
        "to_resume": len(found.in_flight),
        "finished": len(found.finished),
        "failed_earlier": len(found.failed),
    }
    if app.json:
        output.answer_json({**facts, "unused_fields": unused})
        return
    words = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in facts.items() if count or name == "rows")
    output.answer(f"{words}; nothing was sent")
    if unused:
        output.answer(f"not looked at: {', '.join(unused)}")
    if results is not None and os.path.exists(results):
        output.answer(f"results are appended to {results}")
