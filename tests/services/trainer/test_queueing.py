"""Turns at the learner: in rotation between finetunes, whoever asks how much."""

import asyncio

from services.trainer.queueing import FairQueue


async def run(asked: list[str], leave: frozenset[int] = frozenset()) -> list[str]:
    """The order in which callers are served who all wait behind a first one; those of `leave` give up before."""
    queue, served = FairQueue(), list[str]()

    async def call(name: str) -> None:
        async with queue.turn(name):
            served.append(name)

    async with queue.turn("first"):
        tasks = []
        for name in asked:
            tasks.append(asyncio.create_task(call(name)))
            await asyncio.sleep(0)
        for index in leave:
            tasks[index].cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(5), queue.turn("after"):
        return served


async def test_one_that_asks_much_does_not_keep_the_others_waiting() -> None:
    assert await run(["a", "a", "a", "a", "b", "c", "b"]) == ["a", "b", "c", "a", "b", "a", "a"]


async def test_who_leaves_while_waiting_is_passed_over() -> None:
    assert await run(["a", "a", "b", "c"], leave=frozenset({0, 2})) == ["a", "c"]
    assert await run(["a"], leave=frozenset({0})) == []


async def test_who_leaves_as_it_is_called_up_passes_the_turn_on() -> None:
    queue = FairQueue()
    async with queue.turn("first"):
        gone = asyncio.create_task(queue.turn("a").__aenter__())
        await asyncio.sleep(0)
    gone.cancel()  # its place is set, it has not run yet
    await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(5), queue.turn("b"):
        pass


async def test_an_error_inside_frees_the_learner() -> None:
    queue = FairQueue()
    try:
        async with queue.turn("a"):
            raise ValueError
    except ValueError:
        pass
    async with asyncio.timeout(5), queue.turn("a"):
        pass
