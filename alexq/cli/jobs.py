"""Commands about jobs: ``submit``, ``result``, ``jobs list|show|cancel|redrive``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from alexq.cli.options import (
    Class,
    CropCount,
    DataDir,
    Deadline,
    Json,
    MinProbability,
    Pin,
    Reuse,
    Server,
    Temperature,
    given,
)
from alexq_schema.job import TOP_K, Job, JobState
from alexq_schema.names import DEFAULT_QUEUE
from alexq_schema.options import MAX_TOP_K, OptionFields

if TYPE_CHECKING:
    from alexq.cli.desk import Desk, Handed
    from alexq.cli.output import Output

TopK = Annotated[int, typer.Option("--top-k", min=1, max=MAX_TOP_K, help="Labels to show for each image.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the results and show them as they come.")]
Ids = Annotated[list[UUID], typer.Argument(metavar="ID...", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(submit)
    app.command()(result)
    group = typer.Typer(help="Look at jobs, cancel them, or queue dead ones again.", no_args_is_help=True)
    group.command("list")(list_jobs)
    group.command()(show)
    group.command()(cancel)
    group.command()(redrive)
    app.add_typer(group, name="jobs")


def _desk(server: Server, data_dir: DataDir) -> AbstractContextManager[Desk]:
    from alexq.cli.desk import Local, Remote
    from alexq_schema import tracing

    tracing.begin("cli")
    if server:
        from alexq_producer.client import Client

        return Remote(Client(server))
    from alexq_producer import Producer
    from alexq_schema.settings import Settings

    return Local(Producer(Settings.connected(**given(data_dir=data_dir))))


def submit(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Images, folders, patterns, or - for names on standard input.",
            show_default=False,
        ),
    ],
    wait: Wait = False,
    top_k: TopK = TOP_K,
    deadline: Deadline = None,
    model: Pin = None,
    queue: Class = DEFAULT_QUEUE,
    crops: CropCount = 1,
    min_probability: MinProbability = 0.0,
    temperature: Temperature = 1.0,
    reuse: Reuse = False,
    as_json: Json = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Submit images. Inputs that are refused are named, and the others go on."""
    from alexq.cli.inputs import expand, names_from_stdin
    from alexq.cli.output import Output

    options: OptionFields = {
        "crops": crops,
        "min_probability": min_probability,
        "temperature": temperature,
        "reuse": reuse,
    }
    if top_k > TOP_K:  # fewer are shown of those that are kept
        options["top_k"] = top_k
    with _desk(server, data_dir) as desk, Output(as_json=as_json, top_k=top_k) as output:
        output.begin("reading", None)
        images = _ticking(expand(paths, names_from_stdin()), output)
        submission, rejected = desk.submit(images, deadline, queue, model, options)
        for job in rejected:
            output.show(job)
        if submission.job_ids and wait:
            _warn_of_no_worker(desk, output, queue)
            _follow(submission, output)
        elif submission.job_ids:
            _list_accepted(desk, submission, output, as_json=as_json)
    if output.has_failures:
        raise typer.Exit(1)


def _warn_of_no_worker(desk: Desk, output: Output, queue: str | None = None) -> None:
    if desk.workers_alive(queue):
        return
    if queue:
        output.say(
            f"no worker of the queue {queue} is alive: the jobs wait until one starts "
            f"(alexq worker --queue {queue})"
        )
    else:
        output.say("no worker is alive: the jobs wait until one starts (alexq worker, or alexq up)")


def _ticking(paths: Iterable[str], output: Output) -> Iterator[str]:
    for path in paths:
        yield path
        output.advance()


def _follow(submission: Handed, output: Output) -> None:
    """Show results as they come; Ctrl-C leaves the jobs running."""
    output.begin("classifying", len(submission))
    try:
        for job in submission.results():
            output.show(job)
            output.advance()
    except KeyboardInterrupt:
        output.say(f"the jobs go on; fetch them with: alexq result --wait {submission.id}")
        raise


def _list_accepted(desk: Desk, submission: Handed, output: Output, *, as_json: bool) -> None:
    from alexq.cli.output import printable

    for job in desk.jobs_of(submission):
        if as_json:
            typer.echo(job.model_dump_json())
        else:
            typer.echo(printable(f"{job.job_id}  {job.source}"))
    output.say(
        f"accepted {len(submission)} images as submission {submission.id}; "
        f"fetch the results with: alexq result --wait {submission.id}"
    )


def result(
    ids: Ids,
    wait: Wait = False,
    top_k: TopK = TOP_K,
    as_json: Json = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Show what became of submissions or jobs, by their ids."""
    from alexq.cli.output import Output

    with _desk(server, data_dir) as desk, Output(as_json=as_json, top_k=top_k) as output:
        for given_id in ids:
            submission = desk.find(given_id)
            if wait:
                _warn_of_no_worker(desk, output)
                _follow(submission, output)
            else:
                for job in desk.jobs_of(submission):
                    output.show(job)
    if output.has_failures:
        raise typer.Exit(1)


def list_jobs(
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    label: Annotated[str | None, typer.Option(help="Only jobs whose best label is this.")] = None,
    submission: Annotated[UUID | None, typer.Option(help="Only jobs of this submission.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Jobs to show, at most.")] = 50,
    as_json: Json = False,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """List jobs, newest first."""
    with _desk(server, data_dir) as desk:
        found = desk.newest(state=state, label=label, submission_id=submission, limit=limit)
    if as_json:
        for job in found:
            typer.echo(job.model_dump_json())
    else:
        _table(found, _DEAD if state is JobState.DEAD else _ANY)


Column = tuple[str, Callable[[Job], str]]

_ANY: tuple[Column, ...] = (
    ("state", lambda job: str(job.state)),
    ("attempt", lambda job: str(job.attempt)),
    ("label", lambda job: _told(job)),
)
_DEAD: tuple[Column, ...] = (
    ("error", lambda job: job.error.code if job.error else ""),
    ("attempts", lambda job: str(job.attempt)),
    ("errors", lambda job: str(job.errors)),
    ("crashes", lambda job: str(job.crashes)),
    ("worker", lambda job: job.worker or ""),
    ("image", lambda job: (job.image_key or "")[:12]),
)


def _told(job: Job) -> str:
    if job.error is not None:
        return f"[{job.error.code}]"
    return f"{job.label} {job.probability:.1%}" if job.probability is not None else ""


def _table(found: Sequence[Job], columns: tuple[Column, ...]) -> None:
    from rich import table
    from rich.console import Console
    from rich.text import Text

    from alexq.cli.output import printable

    shown = table.Table(
        table.Column("job", min_width=36),
        *(name for name, _ in columns),
        table.Column("source", ratio=1),
        box=None,
    )
    for job in found:
        cells = (str(job.job_id), *(text(job) for _, text in columns), job.source)
        shown.add_row(*(Text(printable(cell)) for cell in cells))
    # Into a pipe, a row is one whole line; on a terminal it is as wide as that.
    Console(width=None if sys.stdout.isatty() else 2_000).print(shown)


def show(ids: Ids, server: Server = None, data_dir: DataDir = None) -> None:
    """Show everything about jobs, as JSON for reading."""
    with _desk(server, data_dir) as desk:
        for job in desk.jobs(ids):
            typer.echo(job.model_dump_json(indent=2))


def cancel(ids: Ids, server: Server = None, data_dir: DataDir = None) -> None:
    """Cancel jobs: a queued one at once, a running one's result is discarded."""
    from alexq.cli.desk import known_to, require_known

    with _desk(server, data_dir) as desk:
        known = known_to(desk, ids)
        cancelled = set(desk.cancel(sorted(known)))
    for job_id in ids:
        if job_id in known:
            typer.echo(f"{job_id}  {'cancelled' if job_id in cancelled else 'had already ended'}")
    require_known(ids, known)


def redrive(
    ids: Annotated[list[UUID] | None, typer.Argument(metavar="[ID...]", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Every dead job.")] = False,
    error: Annotated[str | None, typer.Option(help="Every dead job with this error code.")] = None,
    submission: Annotated[UUID | None, typer.Option(help="Every dead job of this submission.")] = None,
    server: Server = None,
    data_dir: DataDir = None,
) -> None:
    """Queue dead jobs again with fresh attempts: those named, those that match, or all."""
    from alexq.cli.desk import known_to, require_known
    from alexq_schema.errors import UsageError

    if bool(ids) + (every or bool(error or submission)) != 1 or (every and (error or submission)):
        raise UsageError("name the jobs to redrive, or give --error or --submission or both, or --all")
    with _desk(server, data_dir) as desk:
        known = known_to(desk, ids or [])
        redriven = desk.redrive(ids, error, submission)
    for job_id in redriven:
        typer.echo(f"{job_id}  queued")
    not_dead = sorted(known - set(redriven))
    for job_id in not_dead:
        typer.echo(f"{job_id}  is not dead: nothing was done")
    typer.echo(f"{len(redriven)} dead jobs queued again", err=True)
    require_known(ids or [], known)
    if not_dead:
        raise typer.Exit(1)
