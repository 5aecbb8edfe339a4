"""Who is next at the learner: finetunes take turns, however much each of them asks.

The learner does one call at a time. Without this, scores asked for by one caller in a row would keep everybody else's
steps waiting; with it a finetune that was served goes behind all others that wait.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class FairQueue:
    """One caller at a time; finetunes in rotation, the callers of one finetune in order of arrival."""

    def __init__(self) -> None:
        self._busy = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, finetune_id: str) -> AsyncGenerator[None]:
        """Hold the learner for the block."""
        if self._busy:
            await self._wait(finetune_id)
        self._busy = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, finetune_id: str) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(finetune_id, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._pass_on()  # called up and gone at the same moment: the next one's turn
            raise

    def _pass_on(self) -> None:
        """Wake the first caller of the finetune that has waited longest; that finetune goes to the end."""
        while self._waiting:
            finetune_id, places = self._waiting.popitem(last=False)
            there = deque(place for place in places if not place.done())
            if not there:
                continue  # all of them have left
            there.popleft().set_result(None)
            if there:
                self._waiting[finetune_id] = there
            return
        self._busy = False
