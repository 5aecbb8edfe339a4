"""What a service over an engine measures of each generation. No torch."""

from moontune.engine.order import Generation
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics


def measure(metrics: ServiceMetrics, generation: Generation, seconds: float) -> None:
    """Count and time one generation. seconds: from the request's arrival in the service to its answer."""
    usage, rollouts = generation.usage, generation.group.rollouts
    skill = str(generation.group.request.skill)
    for rollout in rollouts:
        metrics.counter(names.ROLLOUTS, skill=skill, finish_reason=str(rollout.finish_reason)).inc()
    metrics.counter(names.GENERATED_TOKENS, skill=skill).inc(usage.output_tokens)
    metrics.histogram(names.GROUP_SECONDS, skill=skill).observe(seconds)
    metrics.histogram(names.QUEUE_SECONDS).observe(usage.queue_s)
    metrics.histogram(names.FIRST_TOKEN_SECONDS, skill=skill).observe(usage.queue_s + usage.prefill_s)
    longest = max((len(rollout.decisions) for rollout in rollouts), default=0)
    if longest:
        metrics.histogram(names.TOKEN_SECONDS, skill=skill).observe(usage.decode_s / longest)
