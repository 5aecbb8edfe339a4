"""The ranks that train as one: orders go from the leader to all, groups are divided, gradients are summed.

Every rank plans the whole step from the same files, takes its share of the groups, and keeps the same optimiser: with
the gradient summed over ranks (the weights are normalised over the whole step already) all of them take the same step,
and rank 0 alone writes it. The ranks share the data folder: one machine, or one volume.

A gang that has lost a rank cannot go on: each process that notices ends itself, its supervisor starts it again, and the
ranks meet in a new generation, counted in torchrun's store. The call that was under way fails as a dead worker does
(not applied, retryable), and the next one reads the step from its files.
"""

import os
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from moontune.model.device import collective_backend
from moontune.telemetry.logs import get_logger
from services.trainer.batch import PlannedGroup
from services.trainer.ranks import Ranks

log = get_logger(__name__)

BROKEN_EXIT = 75
"""Exit code of a rank that has lost the others (EX_TEMPFAIL)."""
POLL_S = 0.2
COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Longer than any rank's share of a pass: the others wait for the slowest."""
BUCKET_ELEMENTS = 16 * 2**20
KEPT_ORDERS = 8

Value = TypeVar("Value")


class Gang(Protocol):
    """What the learner asks of the other ranks."""

    rank: int
    size: int

    def share(self, order: object) -> None:
        """Give an order to the other ranks; on rank 0, before it begins itself."""
        ...

    def gather(self, value: Value) -> list[Value]:
        """Every rank's value, by rank; each waits for all."""
        ...

    def reduce(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Sum the gradients over the ranks; one that no rank has stays None."""
        ...


class Alone:
    """The gang of one."""

    rank = 0
    size = 1

    def share(self, order: object) -> None:
        """Nobody to give it to."""

    def gather(self, value: Value) -> list[Value]:
        """Its own."""
        return [value]

    def reduce(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """They are the sum."""


class TorchGang:
    """Ranks under torchrun: orders over its store, values and gradients over gloo (nccl between GPUs)."""

    def __init__(self, ranks: Ranks, device: str) -> None:
        """Meet the other ranks; returns when all are there."""
        self.rank, self.size = ranks.rank, ranks.world_size
        self._orders = 0
        store = TCPStore(ranks.master_addr, ranks.master_port, is_master=False, timeout=COLLECTIVE_TIMEOUT)
        self._store = PrefixStore(ranks.key, store)
        self._generation = _meet(self._store, self.rank, self.size)
        dist.init_process_group(
            collective_backend(device),
            store=PrefixStore(f"group/{self._generation}", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=COLLECTIVE_TIMEOUT,
        )
        log.info("gang complete", rank=self.rank, size=self.size, generation=self._generation)

    def share(self, order: object) -> None:
        """As in `Gang`."""
        if self.rank:
            return
        self._orders += 1
        self._store.set(self._order_key(self._orders), pickle.dumps(order))  # pyright: ignore[reportArgumentType]  (takes bytes)
        if self._orders > KEPT_ORDERS:
            self._store.delete_key(self._order_key(self._orders - KEPT_ORDERS))

    def next_order(self) -> object:
        """The leader's next order; waits for it. Ends the process where the gang has been given up meanwhile."""
        self._orders += 1
        key = self._order_key(self._orders)
        while not self._or_end(lambda: self._store.check([key])):
            if self._or_end(lambda: int(self._store.get("generation"))) != self._generation:
                self.give_up("the leader has gone on without this rank")
            time.sleep(POLL_S)
        return cast("object", pickle.loads(self._or_end(lambda: self._store.get(key))))  # noqa: S301  (our leader's)

    def gather(self, value: Value) -> list[Value]:
        """As in `Gang`."""
        found: list[Value | None] = [None] * self.size
        self._or_end(lambda: dist.all_gather_object(found, value))  # pyright: ignore[reportUnknownMemberType]
        return cast("list[Value]", found)

    def reduce(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """As in `Gang`; in buckets, so that a full finetune's gradient is not there twice."""
        having = {name for name, parameter in parameters.items() if parameter.grad is not None}
        somewhere = set[str]().union(*self.gather(having))
        named = [(name, parameter) for name, parameter in parameters.items() if name in somewhere]
        for bucket in _buckets([parameter for _, parameter in named]):
            gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self._add_up(flat)
            for each, summed in zip(bucket, torch.split(flat, [each.numel() for each in bucket]), strict=True):
                each.grad = summed.reshape(each.shape).clone()

    def _add_up(self, flat: Tensor) -> None:
        self._or_end(lambda: cast("object", dist.all_reduce(flat)))  # pyright: ignore[reportUnknownMemberType]

    def give_up(self, reason: str) -> None:
        """End this process: the others notice, end too, and all meet again."""
        log.error("gang broken; this rank ends and is started again", rank=self.rank, reason=reason)
        os._exit(BROKEN_EXIT)

    def _order_key(self, number: int) -> str:
        return f"order/{self._generation}/{number}"

    def _or_end(self, talk: Callable[[], Value]) -> Value:
        """What talking to the others gives; where they are gone this process ends."""
        try:
            return talk()
        except RuntimeError as error:  # every fault of torch.distributed is one
            self.give_up(str(error))
            raise AssertionError("unreachable") from error


def _meet(store: PrefixStore, rank: int, size: int) -> int:
    """Agree on a generation: the leader opens one, waits for all, and says go; the others follow the newest."""
    if rank == 0:
        generation = store.add("generation", 1)
        while not store.check([f"here/{generation}/{other}" for other in range(1, size)]):
            time.sleep(POLL_S)
        store.set(f"go/{generation}", "1")
        return generation
    seen = 0
    while True:
        newest = int(store.get("generation")) if store.check(["generation"]) else 0
        if newest > seen:
            seen = newest
            store.set(f"here/{seen}/{rank}", "1")
        # A generation that had begun before this process did is one that lost its predecessor: wait for the next.
        if seen and store.check([f"go/{seen}"]) and not store.check([f"began/{seen}/{rank}"]):
            store.set(f"began/{seen}/{rank}", "1")
            return seen
        time.sleep(POLL_S)


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    buckets: list[list[nn.Parameter]] = [[]]
    elements = 0
    for parameter in parameters:
        if buckets[-1] and elements + parameter.numel() > BUCKET_ELEMENTS:
            buckets.append([])
            elements = 0
        buckets[-1].append(parameter)
        elements += parameter.numel()
    return [bucket for bucket in buckets if bucket]


def share_of(groups: Sequence[PlannedGroup], rank: int, size: int) -> list[PlannedGroup]:
    """The groups that a rank takes: in order, each to the rank with the fewest positions so far."""
    loads = [0] * size
    mine: list[PlannedGroup] = []
    for group in groups:
        to = loads.index(min(loads))
        loads[to] += group.shared + sum(group.positions[index] for index in group.kept)
        if to == rank:
            mine.append(group)
    return mine
