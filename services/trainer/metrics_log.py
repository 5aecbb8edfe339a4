"""The flow of logging and listing a finetune's numbers."""

import asyncio
from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError

from moontune.errors import InvalidField
from moontune.values.finetune import MetricPoint
from moontune.values.page import Page
from services.trainer.history import History
from services.trainer.ledger import Answer, Ledger

LOG = "LogMetrics"


class MetricsLog:
    """Callers' numbers beside the steps' own."""

    def __init__(self, ledger: Ledger, history: History) -> None:
        self._ledger, self._history = ledger, history

    async def log(
        self, organisation: str, request_id: str, finetune_id: str, points: Sequence[MetricPoint], payload_digest: str
    ) -> None:
        """Add points once, however often the request comes."""
        if await asyncio.to_thread(self._ledger.replay, organisation, LOG, request_id, payload_digest) is not None:
            return
        await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
        answer = Answer(organisation, LOG, request_id, payload_digest, {})
        try:
            await asyncio.to_thread(self._history.log, finetune_id, points, answer)
        except IntegrityError:  # a retry came while the first call still ran: that one's points are there
            if await asyncio.to_thread(self._ledger.replay, organisation, LOG, request_id, payload_digest) is None:
                raise

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
        after = _position(page_token) if page_token else None
        found = await asyncio.to_thread(self._history.points, finetune_id, page_size + 1, names, after_step, after)
        items = found[:page_size]
        more = len(found) > page_size
        token = f"{items[-1][1].step}:{items[-1][0]}" if more else ""
        return Page(tuple(point for _, point in items), token)


def _position(page_token: str) -> tuple[int, int]:
    step, _, row = page_token.partition(":")
    if not (step.isdigit() and row.isdigit()):
        raise InvalidField.of("page_token", page_token, "next_page_token of the page before")
    return int(step), int(row)
