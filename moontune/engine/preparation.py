"""From admitted rollouts to rows that can join the batch: image tokens, then the prompt's keys and values.

One piece of work at a time, a pass of the vision tower or one over prompts, so that a step of those who decode comes
after each. Prefixes that are held need no work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from moontune.engine.entry import Entry
from moontune.engine.features import Fresh, ImageFeatures
from moontune.engine.kv_pool import PrefixKv
from moontune.engine.prefixes import Prefixes, Wanted
from moontune.engine.scheduler import Start
from moontune.imaging.crops import ImageCrops

CROPS_AT_ONCE = 64
"""Most crops that are encoded before the next decode step, but for one image of more."""


@dataclass(frozen=True, slots=True, eq=False)
class Ready:
    """Rollouts that can join the batch, all of them behind one prefix."""

    start: Start[Entry]
    prefix: PrefixKv


@dataclass(slots=True, eq=False)
class _Pass:
    """Prompts being run together: the starts behind each, and the pieces that are left."""

    groups: list[list[Start[Entry]]]
    pieces: Iterator[list[PrefixKv] | None]


class Preparation:
    """The starts whose prefix is not there yet, oldest first."""

    def __init__(self, features: ImageFeatures, prefixes: Prefixes, *, share: bool) -> None:
        """`share` off runs every rollout's prompt by itself."""
        self._features, self._prefixes, self._share = features, prefixes, share
        self._waiting: list[Start[Entry]] = []
        self._pass: _Pass | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting) or self._pass is not None

    def add(self, start: Start[Entry]) -> None:
        """Prepare this after what came before."""
        if self._share:
            self._waiting.append(start)
        else:
            rollouts = range(start.first, start.first + start.count)
            self._waiting += [Start(start.order, rollout, 1) for rollout in rollouts]

    def drop(self, entry: Entry) -> None:
        """Its caller has left; a pass under way goes on without it."""
        self._waiting = [start for start in self._waiting if start.order is not entry]
        if self._pass is not None:
            self._pass.groups = [[each for each in group if each.order is not entry] for group in self._pass.groups]

    def advance(self) -> list[Ready]:
        """Do one piece of work; who is ready now."""
        ready = self._held()
        if self._pass is None and self._waiting:
            fresh = self._fresh()
            if fresh:
                self._encode(fresh)
            else:
                self._pass = self._begin()
        elif self._pass is not None:
            made = next(self._pass.pieces)
            if made is not None:
                ready += self._share_out(self._pass.groups, made)
                self._pass = None
        return ready

    def fail(self) -> list[Entry]:
        """The last piece of work failed: forget everybody it may have been for, and say who they are."""
        starts = [*self._waiting, *(start for group in (self._pass.groups if self._pass else ()) for start in group)]
        self._waiting, self._pass = [], None
        return list(dict.fromkeys(start.order for start in starts))

    def _held(self) -> list[Ready]:
        """Those whose prefix is in the cache, or with their order because other rollouts of it run already."""
        ready: list[Ready] = []
        waiting: list[Start[Entry]] = []
        for start in self._waiting:
            entry = start.order
            if entry.prefix is None and self._share and not entry.alone:
                entry.prefix = self._prefixes.held(entry.plan.prefix)
            if entry.prefix is None:
                waiting.append(start)
            else:
                ready.append(Ready(start, entry.prefix))
        self._waiting = waiting
        return ready

    def _fresh(self) -> dict[tuple[str, str], list[Entry]]:
        """Who lacks image tokens, by image and vision adapter; as many images as one pass takes."""
        fresh: dict[tuple[str, str], list[Entry]] = {}
        crops = 0
        for entry in dict.fromkeys(start.order for start in self._waiting):
            if isinstance(entry.image, ImageCrops):
                key = (entry.plan.prefix.image, entry.vision_digest)
                tokens_PD = self._features.held(*key)  # another order may have had it encoded meanwhile
                if tokens_PD is not None:
                    entry.image = tokens_PD
                    continue
                crops += len(entry.image.pixels) if key not in fresh else 0
                if fresh and crops > CROPS_AT_ONCE:
                    break
                fresh.setdefault(key, []).append(entry)
        return fresh

    def _encode(self, fresh: dict[tuple[str, str], list[Entry]]) -> None:
        images: list[Fresh] = []
        for entry, *_ in fresh.values():
            assert entry.order.request.image is not None and isinstance(entry.image, ImageCrops)
            images.append(Fresh(entry.order.request.image, entry.image, entry.vision_digest))
        for tokens_PD, entries in zip(self._features.encode(images), fresh.values(), strict=True):
            for entry in entries:
                entry.image = tokens_PD

    def _begin(self) -> _Pass:
        """The oldest starts that fit one pass; those that share a prefix count once."""
        groups: dict[object, list[Start[Entry]]] = {}
        for start in self._waiting:
            if groups and (start.order.alone or self._waiting[0].order.alone):
                break
            groups.setdefault(start.order.plan.prefix if self._share else start, []).append(start)
        chosen = list(groups.values())
        wanted = [_wanted(group[0].order) for group in chosen]
        count = self._prefixes.fill_pass(wanted)
        chosen = chosen[:count]
        taken = {id(start) for group in chosen for start in group}
        self._waiting = [start for start in self._waiting if id(start) not in taken]
        return _Pass(chosen, self._prefixes.run(wanted[:count]))

    def _share_out(self, groups: list[list[Start[Entry]]], made: list[PrefixKv]) -> list[Ready]:
        ready: list[Ready] = []
        for group, prefix in zip(groups, made, strict=True):
            for start in group:
                entry = start.order
                if self._share:
                    entry.prefix = prefix
                    if not entry.alone:
                        self._prefixes.keep(entry.plan.prefix, prefix)
                ready.append(Ready(start, prefix))
        return ready


def _wanted(entry: Entry) -> Wanted:
    assert entry.image is None or isinstance(entry.image, Tensor)
    return Wanted(entry.plan.prompt, entry.image, entry.digest)
