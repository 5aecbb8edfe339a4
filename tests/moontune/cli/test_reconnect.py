"""A watched job outlives the service that tells of it: the events go on where they stopped."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from moontune.cli.train import _events
from moontune.errors import Draining, Unavailable
from moontune.values.job import JobProgress


def progress(sequence: int) -> JobProgress:
    return JobProgress(sequence, sequence, 3, "train", "", {}, datetime.now(UTC))


class CutClient:
    """Tells one event a call and then fails as a killed service does, until it has told three."""

    def __init__(self, failure: Exception) -> None:
        self.failure, self.asked = failure, list[int]()

    async def watch_job(self, job_id: str, *, after_sequence: int) -> AsyncIterator[JobProgress]:
        self.asked.append(after_sequence)
        yield progress(after_sequence + 1)
        if after_sequence < 2:
            raise self.failure


async def test_events_go_on_after_the_last_one_seen():
    client = CutClient(Unavailable("Socket closed"))
    assert [event.sequence async for event in _events(client, "job", 0)] == [1, 2, 3]
    assert client.asked == [0, 1, 2]


async def test_a_service_that_stops_on_purpose_is_not_waited_for():
    client = CutClient(Draining("the jobs service is stopping"))
    with pytest.raises(Draining):
        async for _ in _events(client, "job", 0):
            pass
    assert client.asked == [0]
