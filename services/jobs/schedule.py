"""The learning rate over a job's steps."""

from moontune.values.job import JobConfig, Schedule


def learning_rate(config: JobConfig, step: int) -> float:
    """The rate of the update from `step` to `step + 1`, for step 0..steps-1.

    Warm-up: peak * (step + 1) / warmup_steps over the first `warmup_steps` updates (all of them, if the job is
    shorter). After it: the peak (constant), or linear: peak * (steps - step) / (steps - warmup_steps), so that the
    first update after the warm-up has the peak and the last one peak / (steps - warmup_steps), never 0.
    """
    peak, warmup = config.settings.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.schedule is Schedule.CONSTANT:
        return peak
    return peak * max(1, config.steps - step) / max(1, config.steps - warmup)
