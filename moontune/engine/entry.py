"""An order on its way through the engine, shared by its caller's thread and the model thread."""

import queue
import time
from dataclasses import dataclass, field

from torch import Tensor

from moontune.engine.host_adapters import HostAdapter
from moontune.engine.kv_pool import PrefixKv
from moontune.engine.order import CallContext, GenerationOrder
from moontune.engine.plan import Plan
from moontune.engine.scheduler import Demand
from moontune.engine.trace import Record
from moontune.errors import Cancelled, MoontuneError
from moontune.imaging.crops import ImageCrops


@dataclass(slots=True, eq=False)
class Times:
    """On the monotonic clock. first_decision: when the first rollout's first decision had been taken."""

    queued: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_decision: float = 0.0
    ended: float = 0.0


@dataclass(slots=True, eq=False)
class Entry:
    """The caller's thread fills in what the model needs, then only reads `news` and, after its end, the rest.

    image: tokens [P, D] where they were held, else the crops to encode. news: what a streamed rollout has decided
    since; None when the entry has an outcome: every record, or an error.
    """

    order: GenerationOrder
    context: CallContext
    plan: Plan
    adapter: HostAdapter | None
    adapter_bytes: int
    image: Tensor | ImageCrops | None = None
    records: list[Record | None] = field(default_factory=list[Record | None])
    error: Exception | None = None
    news: queue.SimpleQueue[Record | None] = field(default_factory=queue.SimpleQueue[Record | None])
    times: Times = field(default_factory=Times)
    prefix: PrefixKv | None = None
    told: int = 0
    alone: bool = False
    close: bool = False

    def __post_init__(self) -> None:
        """One place per rollout."""
        self.records = [None] * self.order.num_rollouts

    @property
    def digest(self) -> str:
        """Of its adapter; "" for the base."""
        return "" if self.adapter is None else self.adapter.digest

    @property
    def vision_digest(self) -> str:
        """What its image tokens depend on: its adapter when that touches the vision tower, else ""."""
        return self.digest if self.adapter is not None and self.adapter.adapts_vision else ""

    @property
    def demand(self) -> Demand:
        """What it asks of the scheduler."""
        return Demand(
            self.order.num_rollouts, self.plan.room, self.plan.length, self.digest, self.adapter_bytes, self.alone
        )

    def left(self) -> bool:
        """Whether the caller has left; asked once at every turn of the model thread."""
        return self.context.cancelled()

    def tell(self, since: Record | None) -> None:
        """More of a streamed rollout's decisions."""
        if since is not None:
            self.told += len(since.heads)
            self.news.put(since)

    def start_over(self) -> None:
        """Decode it once more, by itself: a greedy choice was so close that what else ran, or runs, has a say in it."""
        self.alone, self.close, self.prefix = True, False, None
        self.records = [None] * self.order.num_rollouts

    def finish(self, error: Exception | None = None) -> None:
        """The outcome is there."""
        self.times.ended = time.monotonic()
        self.error, self.prefix = error, None
        self.news.put(None)


def left_error() -> MoontuneError:
    """What an order gets whose caller is no longer there."""
    return Cancelled("the caller left, or its deadline passed, before the generation ended")
