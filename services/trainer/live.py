"""Finetunes in memory: adapter, optimiser and generator, exactly as their files say.

A live finetune is named by the folder it equals. A step takes it out, changes it in place, and puts it back under its
new folder once the files are written; after an error it stays out and the next call reads the files again. So nothing
half-done is ever trained on, whatever failed. (The adapter's digest would not do: a step at learning rate 0 changes
the moments alone.)
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from moontune.checkpoints.folder import verify_folder
from moontune.errors import CheckpointCorrupt
from moontune.model.lora import Adapters
from moontune.values.finetune import Finetune
from moontune.values.training import OptimiserKind, TrainSettings
from services.trainer.memory import finetune_bytes, refuse_beyond
from services.trainer.optimisers import configure, kept_state, kind_of, new_optimiser
from services.trainer.step_folder import OptimiserState, load_moments, read_optimiser
from services.trainer.trainer_state import TrainerState


class LiveFinetune:
    """One finetune's parameters and optimiser. client_state: the caller's bytes of its present step."""

    def __init__(self, finetune_id: str, parameters: dict[str, nn.Parameter]) -> None:
        self.finetune_id = finetune_id
        self.parameters = parameters
        self._use(OptimiserKind.ADAMW)
        self.generator = torch.Generator()
        self.client_state: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """Of parameters, gradients and moments, as training needs them."""
        return finetune_bytes(sum(parameter.numel() for parameter in self.parameters.values()))

    def configure(self, settings: TrainSettings) -> None:
        """Take the step's optimiser and its parameters; another one than before begins without state."""
        if settings.optimiser is not self._kind:
            self._use(settings.optimiser)
        configure(self.optimiser, settings)

    def state(self) -> OptimiserState:
        """What a resume needs beside the adapter."""
        return OptimiserState(kept_state(self.optimiser, self.parameters), self.generator.get_state())

    def load(self, folder: Path) -> None:
        """Take moments, generator and caller's bytes from a verified step folder."""
        stored = read_optimiser(folder)
        self._use(kind_of(stored.moments))
        load_moments(self.optimiser, self._kind, self.parameters, stored.moments)
        self.generator.set_state(stored.rng)
        self.client_state = TrainerState.read(folder).client_state

    def _use(self, kind: OptimiserKind) -> None:
        self._kind, self.optimiser = kind, new_optimiser(kind, self.parameters.values())


class LiveFinetunes:
    """The finetunes that are in memory, within a number and a budget; the least recently used leaves first."""

    def __init__(self, adapters: Adapters, capacity: int, budget_bytes: int) -> None:
        """Hold at most `capacity` finetunes, of at most `budget_bytes` together."""
        self._adapters = adapters
        self._capacity, self._budget_bytes = capacity, budget_bytes
        self._held: OrderedDict[Path, LiveFinetune] = OrderedDict()

    def create(self, finetune: Finetune, source: str = "") -> LiveFinetune:
        """A fresh one, which answers as the base does or as the PEFT folder `source`; `keep` or `drop` it."""
        self.forget(finetune.id)
        self._make_room(finetune)
        if source:
            self._adapters.load(finetune.id, Path(source))
        else:
            self._adapters.attach(finetune.id, finetune.lora, finetune.kind)
        live = LiveFinetune(finetune.id, self._adapters.parameters(finetune.id))
        live.generator.manual_seed(finetune.lora.seed)
        return live

    def take(self, finetune: Finetune, folder: Path) -> LiveFinetune:
        """Take one out at its present step, from memory or, verified, from its files; `keep` or `drop` it after."""
        live = self._held.pop(folder, None)
        if live is not None:
            return live
        self.forget(finetune.id)
        self._make_room(finetune)
        manifest = verify_folder(folder)
        if manifest.adapter_digest != finetune.adapter_digest:
            raise CheckpointCorrupt(
                f"{folder} holds adapter {manifest.adapter_digest}; {finetune.id}@{finetune.step} is "
                f"{finetune.adapter_digest}"
            )
        self._adapters.load(finetune.id, folder)
        live = LiveFinetune(finetune.id, self._adapters.parameters(finetune.id))
        try:
            live.load(folder)
        except BaseException:
            self.drop(live)
            raise
        return live

    def keep(self, live: LiveFinetune, folder: Path) -> None:
        """Put one back; it equals the files of this folder."""
        self._held[folder] = live

    def drop(self, live: LiveFinetune) -> None:
        """Let go of one that was taken out, whatever became of it."""
        if live.finetune_id in self._adapters.names:
            self._adapters.remove(live.finetune_id)

    def forget(self, finetune_id: str) -> None:
        """Let go of a finetune at whatever step it is held."""
        for folder in [folder for folder, live in self._held.items() if live.finetune_id == finetune_id]:
            self.drop(self._held.pop(folder))

    def _make_room(self, finetune: Finetune) -> None:
        needed = finetune_bytes(self._adapters.size(finetune.lora, finetune.kind))
        refuse_beyond(needed, self._budget_bytes, finetune)
        while self._held and (len(self._held) >= self._capacity or self._held_bytes + needed > self._budget_bytes):
            _, oldest = self._held.popitem(last=False)
            self.drop(oldest)

    @property
    def _held_bytes(self) -> int:
        return sum(live.size_bytes for live in self._held.values())
