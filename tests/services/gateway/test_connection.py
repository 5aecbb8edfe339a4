"""Whether an answer reached its caller, decided byte by byte on a scripted ASGI channel."""

import asyncio

import pytest

from moontune.errors import Cancelled
from services.gateway.connection import Departure, WatchedResponse, while_connected
from tests.fakes.chassis import until


class Channel:
    """An ASGI channel: `leave` ends it; leaves_at or breaks_at name the message during which that happens."""

    def __init__(self, leaves_at: int | None = None, breaks_at: int | None = None) -> None:
        self.sent: list[dict] = []
        self.gone = asyncio.Event()
        self.leaves_at, self.breaks_at = leaves_at, breaks_at

    async def receive(self) -> dict:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict) -> None:
        if len(self.sent) == self.breaks_at:
            raise OSError("reset")
        self.sent.append(message)
        if len(self.sent) - 1 == self.leaves_at:
            self.gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def answered(channel: Channel) -> list[bool]:
    told: list[bool] = []

    async def written(delivered: bool) -> None:
        told.append(delivered)

    response = WatchedResponse({"step": 1}, Departure(channel.receive), written)
    await response({"type": "http"}, channel.receive, channel.send)
    return told


async def test_a_whole_answer_counts_and_its_last_byte_goes_last():
    channel = Channel()
    assert await answered(channel) == [True]
    assert channel.body == b'{"step": 1}'
    assert channel.sent[-1]["body"] == b"}"
    assert channel.sent[-1]["more_body"] is False


@pytest.mark.parametrize("leaves_at", [0, 1, 2])
async def test_a_caller_that_leaves_before_the_last_byte_has_not_got_it(leaves_at):
    assert await answered(Channel(leaves_at=leaves_at)) == [False]


@pytest.mark.parametrize("breaks_at", [0, 1, 2, 3])
async def test_a_connection_that_breaks_is_a_lost_answer(breaks_at):
    assert await answered(Channel(breaks_at=breaks_at)) == [False]


async def test_a_caller_may_close_once_it_has_everything():
    assert await answered(Channel(leaves_at=3)) == [True]


async def test_the_next_request_waits_for_the_count():
    """The lock is held from the last byte until the count is stored: who has the answer reads the new count."""
    channel, lock, order = Channel(), asyncio.Lock(), []

    async def written(delivered: bool) -> None:
        await asyncio.sleep(0.02)
        order.append("counted")

    async def next_request() -> None:
        await until(lambda: channel.body.endswith(b"}"))
        async with lock:
            order.append("read")

    response = WatchedResponse({}, Departure(channel.receive), written, last_byte=lock)
    await asyncio.gather(response({"type": "http"}, channel.receive, channel.send), next_request())
    assert order == ["counted", "read"]


async def test_work_ends_with_its_caller():
    channel, ended = Channel(), []

    class Request:
        def __init__(self, channel: Channel) -> None:
            self.receive = channel.receive

    async def work() -> int:
        try:
            await asyncio.sleep(5)
        finally:
            ended.append(True)
        return 1

    asyncio.get_running_loop().call_later(0.02, channel.gone.set)
    with pytest.raises(Cancelled):
        await while_connected(Request(channel), work())
    assert ended == [True]

    async def quick() -> int:
        return 7

    assert await while_connected(Request(Channel()), quick()) == 7
