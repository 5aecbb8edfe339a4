"""How long a new step takes to reach those who generate with it."""

from datetime import UTC, datetime

from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics


class Publication:
    """Observes, once a step, the seconds from its commit until its adapter has been downloaded whole.

    Only steps newer than every one downloaded before count: an old step that somebody asks for is no publication.
    """

    def __init__(self, metrics: ServiceMetrics) -> None:
        self._metrics = metrics
        self._newest: dict[str, int] = {}

    def downloaded(self, finetune_id: str, step: int, applied_at: datetime) -> None:
        """A download of this step has ended well."""
        if step > self._newest.get(finetune_id, 0):
            self._newest[finetune_id] = step
            seconds = (datetime.now(UTC) - applied_at).total_seconds()
            self._metrics.histogram(names.PUBLISH_SECONDS).observe(max(0.0, seconds))
