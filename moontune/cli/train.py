"""`moontune train CONFIG`: run a job and watch it."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from moontune.cli.failure import EXIT_FAILED, plain_errors
from moontune.cli.job_view import JobView, event_line, progress_bars
from moontune.cli.server import DEFAULT_SERVER, CaOption, JsonOption, KeyOption, ServerOption, address, credentials
from moontune.clients.jobs import JobClient
from moontune.clients.reward import RewardClient
from moontune.data.job_file import read_job_file
from moontune.data.reward_file import is_reward_code, read_reward_code
from moontune.errors import Draining, Unavailable
from moontune.values.job import Job, JobConfig, JobEvent, JobProgress, JobState
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.reward_definition import RewardDefinition

RECONNECT_S = 60.0


@plain_errors
def train(
    config: Annotated[Path, typer.Argument(help="A job's config: .json, .yaml or .yml.")],
    reward: Annotated[
        str,
        typer.Option(help="In place of the config's: a name, or a .py or .js file of your own."),
    ] = "",
    reward_range: Annotated[tuple[float, float], typer.Option(help="Least and largest result of the file's code.")] = (
        0.0,
        1.0,
    ),
    server: ServerOption = DEFAULT_SERVER,
    key: KeyOption = "",
    ca: CaOption = None,
    json: JsonOption = False,
    detach: Annotated[bool, typer.Option("--detach", help="Only queue it and print its id.")] = False,
) -> None:
    """Run a job from a config file and show reward, dead groups and held-out score as it goes."""
    code = Path(reward) if reward and is_reward_code(Path(reward)) else None
    order = read_job_file(config, code.stem if code else reward)
    if code is not None:
        definition = read_reward_code(code, [order.skill], *reward_range)
        rewards = RewardClient(address(server, "reward"), credentials(key, ca))
        order = replace(order, reward=asyncio.run(_registered(rewards, definition, quiet=json or detach)))
    client = JobClient(address(server, "jobs"), credentials(key, ca))
    job = asyncio.run(_run(client, order, json=json, detach=detach))
    if job is not None and job.state is not JobState.SUCCEEDED and not detach:
        raise typer.Exit(EXIT_FAILED)


async def _registered(client: RewardClient, definition: RewardDefinition, *, quiet: bool) -> RewardSpec:
    """Register code; the job names this very version, so that a later one does not change it under way."""
    async with client:
        info, version = await client.register(definition)
    pinned = f"{info.name}@{version.removeprefix('sha256:')[:12]}"
    if not quiet:
        Console(highlight=False, soft_wrap=True).print(f"reward {pinned}")
    return RewardSpec((RewardComponent(pinned),))


async def _run(client: JobClient, order: JobConfig, *, json: bool, detach: bool) -> Job | None:
    console = Console(highlight=False, soft_wrap=True)
    async with client:
        job = await client.create_job(order)
        if detach:
            print(event_line(job) if json else job.id)  # noqa: T201  (the command's output)
            return job
        if not json:
            console.print(f"job {job.id} {escape(order.name)}; Ctrl-C leaves it running")
        try:
            return await follow(client, job.id, console, json=json, name=order.name)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if not json:
                console.print(
                    f"the job goes on: moontune jobs logs --follow {job.id}; end it: moontune jobs cancel {job.id}"
                )
            raise KeyboardInterrupt from None


async def follow(
    client: JobClient, job_id: str, console: Console, *, json: bool, name: str = "", after_sequence: int = 0
) -> Job | None:
    """Show a job's events until it ends; the job as it was last seen."""
    last: Job | None = None
    events = _events(client, job_id, after_sequence)
    if json:
        async for event in events:
            sys.stdout.write(event_line(event) + "\n")
            sys.stdout.flush()
            last = event if isinstance(event, Job) else last
        return last
    with progress_bars(console) as bars:
        view = JobView(bars, name)
        async for event in events:
            view.take(event)
            last = event if isinstance(event, Job) else last
    return last


async def _events(client: JobClient, job_id: str, after_sequence: int) -> AsyncIterator[JobEvent]:
    """A job's events; when the service is gone they go on where they stopped, once it is back within RECONNECT_S."""
    gone_since_s: float | None = None
    while True:
        try:
            async for event in client.watch_job(job_id, after_sequence=after_sequence):
                gone_since_s = None
                if isinstance(event, JobProgress):
                    after_sequence = event.sequence
                yield event
            return
        except Draining:  # stopped on purpose: it says so itself
            raise
        except Unavailable:
            now_s = time.monotonic()
            gone_since_s = now_s if gone_since_s is None else gone_since_s
            if now_s - gone_since_s > RECONNECT_S:
                raise
            await asyncio.sleep(0.5)
