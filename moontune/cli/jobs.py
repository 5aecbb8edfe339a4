"""`moontune jobs ...`."""

import asyncio
import json as jsonlib
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from moontune.cli.failure import plain_errors
from moontune.cli.job_view import event_line, job_record, progress_record
from moontune.cli.server import DEFAULT_SERVER, CaOption, JsonOption, KeyOption, ServerOption, address, credentials
from moontune.cli.train import follow
from moontune.clients.jobs import JobClient
from moontune.values.job import Job, JobProgress

T = TypeVar("T")
QUIET_S = 1.0
"""A history that brings nothing for so long has come to its present end."""

app = typer.Typer(help="Jobs on a server.", no_args_is_help=True)
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]


@app.command("list")
@plain_errors
def list_jobs(
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Newest this many.")] = 20,
) -> None:
    """List jobs, newest first."""

    async def ask(client: JobClient) -> tuple[Job, ...]:
        return tuple((await client.list_jobs(page_size=limit)).items)

    jobs = _call(server, key, ca, ask)
    if json:
        for job in jobs:
            print(event_line(job))  # noqa: T201
        return
    table = Table(box=None, pad_edge=False)
    for name in ("id", "name", "state", "step", "model"):
        table.add_column(name, no_wrap=name == "id", overflow="fold")  # ids and models are there to be pasted
    for job in jobs:
        table.add_row(job.id, escape(job.config.name), job.state, f"{job.step}/{job.config.steps}", escape(job.model))
    Console(highlight=False, soft_wrap=True).print(table if jobs else "no jobs yet; moontune train CONFIG makes one")


@app.command()
@plain_errors
def show(
    job_id: JobArgument,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
) -> None:
    """Show one job."""
    job = _call(server, key, ca, lambda client: client.get_job(job_id))
    if json:
        print(jsonlib.dumps(job_record(job)))  # noqa: T201
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in job_record(job).items():
        shown = "\n".join(f"{k} {v:.4g}" for k, v in job.results.items()) if name == "results" else str(value)
        table.add_row(name, escape(shown))
    Console(highlight=False, soft_wrap=True).print(table)


@app.command()
@plain_errors
def logs(
    job_id: JobArgument,
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
    after: Annotated[int, typer.Option(min=0, help="Only what came after this sequence number.")] = 0,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print a job's history."""
    console = Console(highlight=False, soft_wrap=True)

    async def ask(client: JobClient) -> None:
        if follow_it:
            await follow(client, job_id, console, json=json, after_sequence=after)
            return
        events = client.watch_job(job_id, after_sequence=after)
        while True:
            try:
                event = await asyncio.wait_for(anext(events), QUIET_S)
            except (TimeoutError, StopAsyncIteration):
                return
            if isinstance(event, JobProgress):
                print(jsonlib.dumps(progress_record(event)) if json else _line(event))  # noqa: T201

    _call(server, key, ca, ask)


@app.command()
@plain_errors
def cancel(
    job_id: JobArgument, server: ServerOption = DEFAULT_SERVER, key: KeyOption = "", ca: CaOption = None
) -> None:
    """End a job after the step in flight; what was saved stays."""
    _order(server, key, ca, lambda client: client.cancel_job(job_id))


@app.command()
@plain_errors
def pause(job_id: JobArgument, server: ServerOption = DEFAULT_SERVER, key: KeyOption = "", ca: CaOption = None) -> None:
    """Stop a job after the step in flight until it is resumed."""
    _order(server, key, ca, lambda client: client.pause_job(job_id))


@app.command()
@plain_errors
def resume(
    job_id: JobArgument, server: ServerOption = DEFAULT_SERVER, key: KeyOption = "", ca: CaOption = None
) -> None:
    """Go on with a paused job, or with a failed one from its last step."""
    _order(server, key, ca, lambda client: client.resume_job(job_id))


def _order(server: str, key: str, ca: CaOption, ask: Callable[[JobClient], Awaitable[Job]]) -> None:
    job = _call(server, key, ca, ask)
    print(f"{job.id} {job.state} at step {job.step}/{job.config.steps}")  # noqa: T201


def _line(point: JobProgress) -> str:
    shown = " ".join(f"{name}={value:.4g}" for name, value in sorted(point.metrics.items()))
    when = point.logged_at.astimezone().strftime("%H:%M:%S")
    return (
        f"{when} {point.sequence:>5} {point.stage:<8} {point.step}/{point.total_steps} {point.message} {shown}".rstrip()
    )


def _call(server: str, key: str, ca: CaOption, ask: Callable[[JobClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with JobClient(address(server, "jobs"), credentials(key, ca)) as client:
            return await ask(client)

    return asyncio.run(run())
