"""The one bridge from async clients to sync ones: a shared event loop on a background thread.

A sync client names each async method once, and gets its signature from it:

    class SyncJobClient(SyncClient[JobClient]):
        client_class = JobClient
        get_job = Blocking(JobClient.get_job)
        watch_job = BlockingStream(JobClient.watch_job)

One loop serves every sync client of the process; it ends with the last. gRPC's asyncio side wants a single loop in a
process: a program that runs one already (a service, a notebook's asyncio code) uses the async clients there.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from moontune.clients.credentials import Credentials
from moontune.clients.retry import RetryPolicy
from moontune.clients.service_client import ServiceClient

P = ParamSpec("P")
T = TypeVar("T")


C = TypeVar("C", bound=ServiceClient)


class SyncClient(Generic[C]):
    """Calls an async client from ordinary code. Use it in a `with`, or call `close`."""

    client_class: type[C]

    def __init__(
        self,
        address: str,
        credentials: Credentials | None = None,
        *,
        deadline_s: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Connect on the first call; the arguments are those of `ServiceClient`."""
        self.client = self.client_class(address, credentials, deadline_s=deadline_s, retry=retry)
        self._loop = _LOOP.acquire()
        self._streams: set[AsyncGenerator[Any, None]] = set()

    @contextlib.contextmanager
    def holding(self, items: AsyncGenerator[T, None]) -> Generator[None]:
        """Keep a stream open for the length of a `with`; the client's own end closes it too."""
        self._streams.add(items)
        try:
            yield
        finally:
            if items in self._streams:
                self._streams.remove(items)
                self.run(items.aclose())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the background loop and wait; Ctrl-C cancels it there."""
        if self._loop is None:
            work.close()
            raise RuntimeError("this client is closed")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the streams that are still open and close the channel; again is harmless."""
        if self._loop is not None:
            while self._streams:
                self.run(self._streams.pop().aclose())
            self.run(self.client.close())
            self._loop = None
            _LOOP.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Blocking(Generic[C, P, T]):
    """The sync form of an async method: same parameters, waits for the result."""

    def __init__(self, method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: SyncClient[C], owner: type[object]) -> Callable[P, T]:
        """Bind to a client."""

        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return instance.run(self._method(instance.client, *args, **kwargs))

        call.__doc__ = self.__doc__
        return call


class BlockingStream(Generic[C, P, T]):
    """The sync form of an async generator method: same parameters, an ordinary iterator."""

    def __init__(self, method: Callable[Concatenate[C, P], AsyncGenerator[T, None]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: SyncClient[C], owner: type[object]) -> Callable[P, Generator[T, None, None]]:
        """Bind to a client."""

        def call(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
            items = self._method(instance.client, *args, **kwargs)
            with instance.holding(items):
                while True:
                    try:
                        item = instance.run(_next(items))
                    except StopAsyncIteration:
                        return
                    yield item

        call.__doc__ = self.__doc__
        return call


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)


class _SharedLoop:
    """The background loop, alive while somebody holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def acquire(self) -> asyncio.AbstractEventLoop | None:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="moontune-clients", daemon=True)
                self._thread.start()
            self._holders += 1
            return self._loop

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders or self._loop is None or self._thread is None:
                return
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None


_LOOP = _SharedLoop()
