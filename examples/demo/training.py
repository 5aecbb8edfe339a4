"""Runs jobs through the jobs service, with a live bar each, and collects what they did."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress

from examples.demo.stack import Stack
from moontune.cli.job_view import JobView, progress_bars
from moontune.clients.jobs import JobClient
from moontune.data.predictions import Prediction, read_predictions
from moontune.telemetry.names import JobKey, TrainKey
from moontune.values.job import Job, JobConfig, JobProgress, JobState


@dataclass(frozen=True, slots=True)
class Trained:
    """An ended job with its history and its held-out answers before the first step and after the last."""

    job: Job
    history: tuple[JobProgress, ...]
    before: tuple[Prediction, ...]
    after: tuple[Prediction, ...]

    @property
    def rewards(self) -> list[tuple[int, float]]:
        """(step, mean reward of its attempts) of each step."""
        return [(p.step, p.metrics[TrainKey.REWARD_MEAN]) for p in self.history if TrainKey.LOSS in p.metrics]

    @property
    def held_out(self) -> list[tuple[int, float]]:
        """(step, held-out score) of each evaluation."""
        return [(p.step, p.metrics[JobKey.HELD_OUT]) for p in self.history if JobKey.HELD_OUT in p.metrics]

    @property
    def outlook(self) -> JobProgress:
        """What the base did on training prompts before the first step."""
        return next(point for point in self.history if point.stage == "base")


def train_all(stack: Stack, configs: Sequence[JobConfig], console: Console) -> list[Trained]:
    """Run the jobs (the service runs two at a time) and return them in the order given; SystemExit if one fails."""

    async def run() -> list[Trained]:
        async with JobClient(stack.jobs) as client:
            with progress_bars(console) as bars:
                jobs = [await client.create_job(config) for config in configs]
                return await asyncio.gather(*(_follow(client, job, bars, stack) for job in jobs))

    return asyncio.run(run())


async def _follow(client: JobClient, job: Job, bars: Progress, stack: Stack) -> Trained:
    view = JobView(bars, job.config.name, messages=False)
    history: list[JobProgress] = []
    async for event in client.watch_job(job.id):
        view.take(event)
        if isinstance(event, Job):
            job = event
        else:
            history.append(event)
    if job.state is not JobState.SUCCEEDED:
        raise SystemExit(f"the job {job.config.name!r} {job.state}: {job.detail}")
    folder = stack.data_dir / "jobs" / job.id / "predictions"
    before, after = (tuple(read_predictions(folder / f"step-{step:08d}.jsonl")) for step in (0, job.step))
    return Trained(job, tuple(history), before, after)
