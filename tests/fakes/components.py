"""Fake components of a model worker: torch-free, each method shows one behaviour of the chassis."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from moontune.errors import Cancelled, InvalidField
from moontune.serving.worker_protocol import CallContext


@dataclass(frozen=True, slots=True)
class FakeBase:
    """Stands for a BaseModel: what the worker reports of it."""

    name: str
    digest: str = "sha256:fake"
    device: str = "cpu"


def load(base: str, device: str | None) -> FakeBase:
    """A loader; `base` "missing" fails as a wrong name does, "slow:<s>" takes its time."""
    if base == "missing":
        raise InvalidField.of("base", base, "a base that exists")
    if base.startswith("slow:"):
        time.sleep(float(base.removeprefix("slow:")))
    return FakeBase(base)


class Fake:
    """Methods that compute, stream, wait, burn, fail and die."""

    immediate = frozenset({"status"})

    def __init__(self, base: FakeBase, options: object) -> None:
        self.base = base
        self.options = options

    def add(self, ctx: CallContext, a: int, b: int) -> int:
        return a + b

    def where(self, ctx: CallContext) -> tuple[int, str]:
        return os.getpid(), self.base.name

    def seen(self, ctx: CallContext) -> tuple[str, float | None]:
        """What the context says of the rpc behind the call."""
        return ctx.request_id, ctx.remaining_s()

    def count(self, ctx: CallContext, n: int) -> None:
        for index in range(n):
            ctx.emit(index)

    def wait(self, ctx: CallContext, mark: str) -> None:
        """Poll until cancelled, then leave a file to show that it was noticed."""
        ctx.emit("begun")
        Path(mark + ".begun").touch()
        for _ in range(2000):
            if ctx.cancelled():
                Path(mark).touch()
                raise Cancelled("noticed")
            time.sleep(0.005)

    def burn(self, ctx: CallContext, seconds: float) -> int:
        """Hold the worker's interpreter lock with pure Python work, as a decode loop does."""
        end = time.monotonic() + seconds
        total = 0
        while time.monotonic() < end:
            total += sum(range(1000))
        return total

    def status(self, ctx: CallContext) -> str:
        return "fine"

    def refuse(self, ctx: CallContext) -> None:
        raise InvalidField.of("n", -1, "0 or more")

    def crash(self, ctx: CallContext) -> None:
        raise ValueError("a bug with a secret path /etc/passwd")

    def die(self, ctx: CallContext) -> None:
        os._exit(9)

    def unpicklable(self, ctx: CallContext) -> object:
        return lambda: None

    def spoilt(self, ctx: CallContext) -> object:
        return Spoilt()


class Spoilt:
    """Pickles, but cannot be unpickled on the other side of the pipe."""

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("not a number",)


def build(base: FakeBase, options: object) -> Fake:
    return Fake(base, options)
