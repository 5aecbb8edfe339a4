"""A stream of questions answered in the order in which the answers are ready, with a bound on those under way."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


async def in_completion_order(
    questions: AsyncIterator[Question], answer: Callable[[Question], Awaitable[Answer]], most: int
) -> AsyncGenerator[Answer, None]:
    """Yield answers as they are ready.

    A question is taken only while fewer than `most` are unanswered or unread, so a reader that stops reading stops
    its own questions from being taken. Closing the generator cancels what is under way.
    """
    tasks: set[asyncio.Task[Answer]] = set()
    taking: asyncio.Task[Question] | None = None
    try:
        ended = False
        while tasks or not ended:
            if taking is None and not ended and len(tasks) < most:
                taking = asyncio.ensure_future(_next(questions))
            waiting: set[asyncio.Task[Answer] | asyncio.Task[Question]] = {*tasks} | ({taking} if taking else set())
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if taking is not None and taking.done():
                try:
                    tasks.add(asyncio.ensure_future(answer(taking.result())))
                except _Ended:
                    ended = True
                taking = None
            for task in [task for task in tasks if task.done()]:
                tasks.discard(task)
                yield task.result()
    finally:
        for task in (*tasks, *([taking] if taking else [])):
            task.cancel()
        await asyncio.gather(*tasks, *([taking] if taking else []), return_exceptions=True)


class _Ended(Exception):
    """No more questions; StopAsyncIteration may not leave a task."""


async def _next(questions: AsyncIterator[Question]) -> Question:
    try:
        return await anext(questions)
    except StopAsyncIteration:
        raise _Ended from None
