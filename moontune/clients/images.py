"""Sends an image's bytes to a service once, then its digest; and the bytes again when the service lacks them."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from moontune.errors import ImageUnknown
from moontune.values.request import SkillRequest

T = TypeVar("T")

REMEMBERED = 4096
MISSES_BEFORE_GIVING_UP = 3


class SentImages:
    """The digests that one service was sent, most recent last.

    A service that answers IMAGE_UNKNOWN to MISSES_BEFORE_GIVING_UP digests in a row keeps none; from then on every
    call carries the bytes.
    """

    def __init__(self) -> None:
        self._sent: OrderedDict[str, None] = OrderedDict()
        self._misses = 0

    async def call(self, request: SkillRequest, send: Callable[[SkillRequest], Awaitable[T]]) -> T:
        """Call `send` with the request, its image named or in full, and once more in full on IMAGE_UNKNOWN."""
        image = request.image
        if image is None or image.data is None:
            return await send(request)
        if self._misses < MISSES_BEFORE_GIVING_UP and image.sha256 in self._sent:
            try:
                answer = await send(replace(request, image=image.named()))
            except ImageUnknown:
                self._sent.pop(image.sha256, None)
                self._misses += 1
            else:
                self._misses = 0
                self._sent.move_to_end(image.sha256)
                return answer
        answer = await send(request)
        self._sent[image.sha256] = None
        if len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)
        return answer
