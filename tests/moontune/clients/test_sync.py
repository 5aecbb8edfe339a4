import asyncio
import inspect
import sys
from asyncio.subprocess import PIPE, STDOUT

import pytest

from moontune.clients import sync
from moontune.clients.blocking import Blocking, BlockingStream, SyncClient
from moontune.errors import Unavailable

CLASSES = [kind for _, kind in inspect.getmembers(sync, inspect.isclass) if issubclass(kind, SyncClient)][:]
CLASSES.remove(SyncClient)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_async_method_has_its_sync_form(kind):
    methods = inspect.getmembers(kind.client_class, inspect.isfunction)
    public = {name: method for name, method in methods if not name.startswith("_") and name != "close"}
    for name, method in public.items():
        expected = BlockingStream if inspect.isasyncgenfunction(method) else Blocking
        assert type(vars(kind)[name]) is expected, name
        assert vars(kind)[name].__doc__ == method.__doc__
    assert len(public) >= 3


SCRIPT = """
import sys
from moontune.clients.retry import RetryPolicy
from moontune.clients.sync import SyncTrainerClient
from moontune.errors import FinetuneNotFound
from moontune.values.finetune import StepApplied
import threading

FT = "01J00000000000000000000000"
with SyncTrainerClient(sys.argv[1], retry=RetryPolicy(first_s=0.01)) as client:
    assert client.get_finetune(FT).id == FT
    try:
        client.get_finetune("missing")
        raise AssertionError("it is missing")
    except FinetuneNotFound as error:
        assert "no finetune 'missing'" in error.message
    events = list(client.watch_finetune(FT))
    assert [event.step for event in events if isinstance(event, StepApplied)] == [1, 2, 3]
    for _ in client.watch_finetune(FT):
        break
    assert client.get_finetune(finetune_id=FT, deadline_s=5).name == "a"
    left, never_begun = client.watch_finetune(FT), client.watch_finetune(FT)
    next(left)
del never_begun
try:
    next(left)
    raise AssertionError("its client is closed")
except RuntimeError as error:
    assert "closed" in str(error), error
with SyncTrainerClient(sys.argv[1]) as second:
    dropped = second.watch_finetune(FT)
    next(dropped)
del dropped
try:
    client.get_finetune(FT)
    raise AssertionError("it is closed")
except RuntimeError as error:
    assert "closed" in str(error)
client.close()
assert "moontune-clients" not in {thread.name for thread in threading.enumerate()}
assert not {"torch", "sqlalchemy"} & set(sys.modules)
"""


async def test_a_sync_client_works_in_an_ordinary_script(fakes):
    """A process of its own, as users have it; the first call fails once and is retried."""
    fakes.trainer.failures.append(Unavailable("busy"))
    command = [sys.executable, "-W", "error", "-c", SCRIPT, fakes.address]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    output, _ = await process.communicate()
    assert (process.returncode, output.decode()) == (0, "")
    assert fakes.trainer.calls > 5
