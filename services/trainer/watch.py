"""The flow of watching a finetune: its present state, then what happens to it, until it is deleted or we stop."""

import asyncio
from collections.abc import AsyncGenerator

from moontune.errors import Draining, ResourceExhausted
from moontune.values.finetune import FinetuneEvent
from services.trainer.news import News
from services.trainer.turns import Turns

LOOK_AGAIN_S = 30.0
"""A watcher looks by itself this often, should the end of a turn ever be missed."""


class Watch:
    """Streams of events. Each holds a place in the database and no queue."""

    def __init__(self, news: News, turns: Turns, draining: asyncio.Event, most: int) -> None:
        """most: watchers at a time."""
        self._news, self._turns, self._draining, self._most = news, turns, draining, most

    async def events(
        self, organisation: str, finetune_id: str, after_step: int | None
    ) -> AsyncGenerator[FinetuneEvent]:
        """The finetune, then its events in order; the caller's pace is ours.

        Raises:
            FinetuneNotFound: there is none, or it was deleted meanwhile. ResourceExhausted: too many watch.
            Draining: the service stops; watch again with `after_step`.
        """
        if self._turns.watchers >= self._most:
            raise ResourceExhausted(f"{self._most} calls watch finetunes now; poll GetFinetune, or try again later")
        with self._turns.ends(finetune_id) as changed:
            finetune, place = await asyncio.to_thread(self._news.start, organisation, finetune_id, after_step)
            yield finetune
            while True:
                changed.clear()
                events, place = await asyncio.to_thread(self._news.since, organisation, finetune_id, place)
                for event in events:
                    yield event
                if self._draining.is_set():
                    raise Draining(f"the trainer is stopping; watch again with after_step {place.step}")
                if not events:
                    await self._next_change(changed)

    async def _next_change(self, changed: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (changed, self._draining)]
        try:
            await asyncio.wait(waits, timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
