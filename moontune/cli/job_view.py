"""A job on the screen: one line that moves (step, reward, dead groups, held-out score, time left) and what happens."""

import json
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from moontune.telemetry.names import JobKey, TrainKey
from moontune.values.job import ENDED_STATES, Job, JobEvent, JobProgress, JobState

COLOURS = {JobState.SUCCEEDED: "green", JobState.FAILED: "red", JobState.CANCELLED: "yellow", JobState.PAUSED: "yellow"}


def progress_bars(console: Console) -> Progress:
    """The frame that `JobView`s draw their bars in; use it in a `with`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
        refresh_per_second=5,
    )


class JobView:
    """One job's bar. Takes the job's events in order.

    name: shown before the bar. messages: whether lines for what happens are printed above the bars.
    """

    def __init__(self, bars: Progress, name: str = "", *, messages: bool = True) -> None:
        self._messages = messages
        self._rewards: list[float] = []
        self._held_out: float | None = None
        self._first: tuple[float, int] | None = None
        self._progress = bars
        self._bar: TaskID = bars.add_task(escape(name) or "job", total=1, figures="", left="")

    def take(self, event: JobEvent) -> None:
        """Show one event."""
        if isinstance(event, Job):
            self._take_job(event)
        else:
            self._take_point(event)

    def _take_job(self, job: Job) -> None:
        self._progress.update(self._bar, total=job.config.steps)
        if job.state in ENDED_STATES or job.detail:
            colour = COLOURS.get(job.state, "cyan")
            self._say(f"[{colour}]{job.state}[/] {escape(job.detail or job.model)}")
        elif job.state in (JobState.QUEUED, JobState.VALIDATING, JobState.PAUSED):
            self._progress.update(self._bar, figures=f"[cyan]{job.state}[/]")

    def _take_point(self, point: JobProgress) -> None:
        metrics = point.metrics
        if TrainKey.REWARD_MEAN in metrics and point.stage == "train":
            self._rewards.append(metrics[TrainKey.REWARD_MEAN])
        if JobKey.HELD_OUT in metrics:
            self._held_out = metrics[JobKey.HELD_OUT]
            self._say(f"held-out {self._held_out:.3f} at step {point.step}")
        elif point.message:
            self._say(escape(point.message))
        self._progress.update(
            self._bar,
            completed=point.step,
            total=point.total_steps,
            figures=self._figures(point),
            left=self._left(point),
        )

    def _figures(self, point: JobProgress) -> str:
        parts: list[str] = []
        if self._rewards:
            recent = self._rewards[-8:]  # single steps are noisy; eight are shown as one
            parts.append(f"reward {sum(recent) / len(recent):.3f}")
        if TrainKey.DEAD_GROUP_SHARE in point.metrics:
            parts.append(f"dead {point.metrics[TrainKey.DEAD_GROUP_SHARE]:.0%}")
        if self._held_out is not None:
            parts.append(f"held-out [bold]{self._held_out:.3f}[/]")
        return "  ".join(parts)

    def _left(self, point: JobProgress) -> str:
        """Time left from the pace of the steps seen in this watch; evaluations to come are not counted."""
        now = time.monotonic()
        if point.stage != "train":
            return ""
        if self._first is None:
            self._first = (now, point.step)
        since, step = self._first
        if point.step - step < 3:
            return ""
        seconds = (now - since) / (point.step - step) * (point.total_steps - point.step)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def _say(self, line: str) -> None:
        if self._messages:
            self._progress.console.print(line)


def event_line(event: JobEvent) -> str:
    """An event as one line of JSON."""
    if isinstance(event, Job):
        return json.dumps({"event": "job", **job_record(event)})
    return json.dumps({"event": "progress", **progress_record(event)})


def job_record(job: Job) -> dict[str, object]:
    """A job in plain types."""
    return {
        "id": job.id,
        "name": job.config.name,
        "state": str(job.state),
        "step": job.step,
        "total_steps": job.config.steps,
        "finetune_id": job.finetune_id,
        "model": job.model,
        "detail": job.detail,
        "results": dict(job.results),
        "created_at": job.created_at.isoformat(),
        "updated_at": job.updated_at.isoformat(),
    }


def progress_record(point: JobProgress) -> dict[str, object]:
    """A point of a history in plain types."""
    return {
        "sequence": point.sequence,
        "step": point.step,
        "total_steps": point.total_steps,
        "stage": point.stage,
        "message": point.message,
        "metrics": dict(point.metrics),
        "logged_at": point.logged_at.isoformat(),
    }
