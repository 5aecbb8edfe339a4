"""The device tier: adapters in the stacks that the batch computes with, and the layers that use them."""

from collections.abc import Mapping, Sequence
from weakref import WeakValueDictionary

import numpy as np
import torch

from moontune.engine.adapted_layers import Acting, AdaptedRegion, wrap
from moontune.engine.blocks import blocks_of
from moontune.engine.host_adapters import HostAdapter
from moontune.engine.lora_stack import AdapterStack, StackForm, form_of, slot_bytes
from moontune.engine.residency import Residency
from moontune.errors import InvalidField
from moontune.model.lora_layers import REGION
from moontune.model.moondream import Moondream
from moontune.values.engine import CacheStatus


class DeviceAdapters:
    """Adapters by digest within a budget in bytes, least recently used out; those in use or pinned stay.

    The model thread alone uses it. Each distinct form (rank rounded up to a power of two, and layers) has a stack.
    """

    def __init__(self, module: Moondream, layers: Sequence[str], budget_bytes: int) -> None:
        """`layers` are those that adapters may act on; they are wrapped, and so is the region head."""
        self.acting: list[Acting] = []
        self._device = module.device
        self._tier = Residency(budget_bytes)
        self._stacks: dict[StackForm, AdapterStack] = {}
        self._slots: dict[str, tuple[AdapterStack, int]] = {}
        self._known: WeakValueDictionary[str, HostAdapter] = WeakValueDictionary()
        self._acted: tuple[str, ...] = ()
        self._dtypes = {name: wrap(module, name, self.acting) for name in layers}
        setattr(module, REGION, AdaptedRegion(module.region, module.config.text.dim, self.acting))

    def size_bytes(self, adapter: HostAdapter) -> int:
        """What the adapter takes here; raises InvalidField when it could never fit."""
        size_bytes = slot_bytes(form_of(adapter), adapter, self._dtypes)
        if size_bytes > self._tier.budget_bytes:
            allowed = f"at most {self._tier.budget_bytes} bytes, the engine's budget for adapters on its device"
            raise InvalidField.of("adapter", f"{size_bytes} bytes", allowed)
        return size_bytes

    def know(self, adapter: HostAdapter) -> None:
        """Let `reserve` find the adapter by its digest for as long as somebody else holds it."""
        self._known[adapter.digest] = adapter

    def load(self, adapter: HostAdapter, size_bytes: int, *, pinned: bool) -> bool:
        """Put an adapter here ahead of its first use; False when those in use leave no room now."""
        self.know(adapter)
        if not self.reserve(adapter.digest, size_bytes):
            return False
        self.release(adapter.digest)
        if pinned:
            self._tier.pin(adapter.digest)
        return True

    def reserve(self, digest: str, size_bytes: int) -> bool:
        """Put a known adapter into a slot, or find it there; False when those in use leave no room."""
        evicted = self._tier.reserve(digest, size_bytes)
        if evicted is None:
            return False
        for each in evicted:
            del self._slots[each]
        if digest not in self._slots:
            adapter = self._known[digest]
            stack, slot = self._slot_for(form_of(adapter), adapter)
            stack.write(slot, adapter)
            self._slots[digest] = (stack, slot)
            self._lay_out_anew()
        return True

    def release(self, digest: str) -> None:
        """One user less."""
        self._tier.release(digest)

    def remove(self, digest: str) -> bool:
        """Let go of an idle adapter; False when it was not here."""
        return self._tier.remove(digest) and self._slots.pop(digest, None) is not None

    def act(self, digests: tuple[str, ...]) -> None:
        """In the coming passes, row i of the input uses the adapter `digests[i]`; "" is the bare base."""
        if digests == self._acted:
            return
        self._acted = digests
        self.acting.clear()
        rows_of: dict[StackForm, tuple[list[int], list[int]]] = {}
        for row, digest in enumerate(digests):
            if digest:
                stack, slot = self._slots[digest]
                rows, slots = rows_of.setdefault(stack.form, ([], []))
                rows.append(row)
                slots.append(slot)
        for form, (rows, slots) in rows_of.items():
            blocks = blocks_of(np.array(rows), np.array(slots), len(digests), self._device)
            slot_B = np.full(len(digests), -1)
            slot_B[rows] = slots
            self.acting.append(Acting(self._stacks[form], blocks, torch.from_numpy(slot_B).to(self._device)))

    def rest_from_region(self) -> None:
        """Let nothing act if what acts now, for whatever pass it was, has a part in the region head."""
        if any(each.stack.form.adapts_region for each in self.acting):
            self._lay_out_anew()

    @property
    def resident(self) -> Mapping[str, int]:
        """Bytes by digest, least recently used first."""
        return self._tier.resident

    def status(self) -> CacheStatus:
        """Counters and bytes."""
        tier = self._tier
        return CacheStatus(
            "adapter_device", tier.resident_bytes, tier.budget_bytes, tier.hits, tier.misses, tier.evictions
        )

    def _lay_out_anew(self) -> None:
        """Slots have changed: the next pass must not take the last one's layout, though it names the same digests."""
        self._acted = ()
        self.acting.clear()

    def _slot_for(self, form: StackForm, example: HostAdapter) -> tuple[AdapterStack, int]:
        """A free slot; the stack grows by doubling within the budget, and other stacks give back what they spare."""
        stack = self._stacks.get(form)
        if stack is None:
            stack = self._stacks[form] = AdapterStack(form, example, self._dtypes, self._device)
        used = {slot for other, slot in self._slots.values() if other is stack}
        free = next((slot for slot in range(stack.slots) if slot not in used), None)
        if free is not None:
            return stack, free
        spare_bytes = self._tier.budget_bytes - sum(each.slots * each.slot_bytes for each in self._stacks.values())
        if spare_bytes < stack.slot_bytes:
            for other in tuple(self._stacks.values()):
                if other is not stack:
                    self._trim(other)
            spare_bytes = self._tier.budget_bytes - sum(each.slots * each.slot_bytes for each in self._stacks.values())
        more = max(1, min(stack.slots, spare_bytes // stack.slot_bytes))
        stack.rearrange(list(range(stack.slots)), stack.slots + more)
        return stack, stack.slots - more

    def _trim(self, stack: AdapterStack) -> None:
        """Give a stack's free slots back; its adapters move together."""
        mine = {digest: slot for digest, (owner, slot) in self._slots.items() if owner is stack}
        if len(mine) == stack.slots:
            return
        stack.rearrange(list(mine.values()), len(mine))
        self._lay_out_anew()
        for slot, digest in enumerate(mine):
            self._slots[digest] = (stack, slot)
        if not mine:
            del self._stacks[stack.form]
