"""The flow of logging and listing a finetune's numbers."""

import asyncio
from collections.abc import Sequence

from moontune.values.finetune import MetricPoint
from moontune.values.page import Page
from services.trainer.answers import Answer, Answers
from services.trainer.history import History
from services.trainer.ledger import Ledger
from services.trainer.paging import numbers_of
from services.trainer.turns import Turns, uninterrupted

LOG = "LogMetrics"


class MetricsLog:
    """Callers' numbers beside the steps' own."""

    def __init__(self, ledger: Ledger, answers: Answers, history: History, turns: Turns) -> None:
        self._ledger, self._answers, self._history, self._turns = ledger, answers, history, turns

    async def log(
        self, organisation: str, request_id: str, finetune_id: str, points: Sequence[MetricPoint], payload_digest: str
    ) -> None:
        """Add points once, however often the request comes."""
        async with self._turns.of(finetune_id, LOG):
            # Within the turn: a retry may come while the first call still runs.
            stored = await asyncio.to_thread(self._answers.replay, organisation, LOG, request_id, payload_digest)
            if stored is None:
                await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
                answer = Answer(organisation, LOG, request_id, payload_digest, {})
                await uninterrupted(self._history.log, finetune_id, points, answer)

    async def list(
        self,
        organisation: str,
        finetune_id: str,
        page_size: int,
        page_token: str,
        names: Sequence[str] = (),
        after_step: int | None = None,
    ) -> Page[MetricPoint]:
        """By step, then as they came; the token is `<step>:<row>` of the page's last point."""
        await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
        after = numbers_of(page_token, 2) if page_token else None
        found = await asyncio.to_thread(self._history.points, finetune_id, page_size + 1, names, after_step, after)
        items = found[:page_size]
        more = len(found) > page_size
        token = f"{items[-1][1].step}:{items[-1][0]}" if more else ""
        return Page(tuple(point for _, point in items), token)
