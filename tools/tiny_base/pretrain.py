"""Pre-training on the drawn scenes: two processes of one thread each, gradients averaged over gloo.

One process per core beats one process of two threads at this size: its operations are too small to share.
"""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from tokenizers import Tokenizer as FileTokenizer
from torch import Tensor, distributed

from moontune.model.config import MoondreamConfig
from moontune.model.moondream import Moondream, normalise
from moontune.model.tokenizer import Tokenizer
from tools.tiny_base.architecture import save_base, tiny_config
from tools.tiny_base.dataset import Scenes, load_or_draw
from tools.tiny_base.initialise import initialise
from tools.tiny_base.losses import DenseHead, DenseTargets, Losses, losses
from tools.tiny_base.optimisers import Optimisers
from tools.tiny_base.packing import Rows, Segment, pack, segment
from tools.tiny_base.questions import ask
from tools.tiny_base.scenes import Scene
from tools.tiny_base.tokenizer import make_tokenizer


@dataclass(frozen=True, slots=True)
class Plan:
    """One pre-training run.

    limit_s: seconds of training; the schedules follow the elapsed share of it. steps: if given, they decide instead,
    and a run repeats exactly. images: per process and step. row_tokens: of questions
    about one image, see fill_row. save_every_s: snapshots. bf16: the body computes in bf16, see losses.
    """

    out: Path
    cache: Path
    limit_s: float
    steps: int | None
    scenes: int
    processes: int = 2
    images: int = 20
    row_tokens: int = 80
    seed: int = 0
    vision_dim: int = 128
    text_dim: int = 128
    layers: tuple[int, int] = (4, 4)
    save_every_s: float = 180.0
    bf16: bool = True

    def progress(self, step: int, elapsed_s: float) -> float:
        """How much of the run is over, 0..1."""
        return step / self.steps if self.steps is not None else elapsed_s / self.limit_s


def pretrain(plan: Plan) -> None:
    """Draw the scenes unless cached, train, and leave the base in plan.out."""
    load_or_draw(plan.cache, plan.scenes, 0, plan.processes)
    rendezvous = plan.cache / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    torch.multiprocessing.spawn(_train, (plan, rendezvous), plan.processes)  # pyright: ignore[reportUnknownMemberType]


def _train(rank: int, plan: Plan, rendezvous: Path) -> None:
    """One process's part of the run."""
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=plan.processes)
    trainer = _Trainer(rank, plan)
    began, saved, step = time.monotonic(), 0.0, 0
    while True:
        elapsed = time.monotonic() - began
        progress = _agreed(plan.progress(step, elapsed))
        if progress >= 1:
            break
        parts = trainer.step(step, progress)
        step += 1
        if rank == 0 and step % 50 == 0:
            print(_line(step, progress, elapsed, parts, plan), flush=True)
        if rank == 0 and elapsed - saved > plan.save_every_s:
            saved = elapsed
            trainer.save()
    if rank == 0:
        trainer.save()
        print(f"done: {step} steps, {step * plan.images * plan.processes} image views", flush=True)
    distributed.barrier()
    # All is written. gloo's own teardown aborts the process about once in 40 runs, a thread of it being alive still.
    os._exit(0)


class _Trainer:
    """Model, optimisers and data of one process."""

    def __init__(self, rank: int, plan: Plan) -> None:
        self.plan = plan
        self.scenes = load_or_draw(plan.cache, plan.scenes, 0, plan.processes)
        self.file_tokenizer: FileTokenizer = make_tokenizer()
        self.tokenizer = Tokenizer(make_tokenizer())
        config = tiny_config(self.file_tokenizer.get_vocab_size(), plan.vision_dim, plan.text_dim, plan.layers)
        self.model = Moondream(config)
        initialise(self.model, plan.seed)
        self.dense = DenseHead(config.text.dim)
        self.parameters = [p for p in (*self.model.parameters(), *self.dense.parameters()) if p.requires_grad]
        self.optimisers = Optimisers(self.model, self.dense)
        self.rng = np.random.default_rng([plan.seed, rank])

    def step(self, step: int, progress: float) -> Losses:
        """One update from this process's batch and the others'."""
        crops, rows, targets = make_batch(self.scenes, self.model, self.tokenizer, self.plan, self.rng)
        parts = losses(self.model, self.dense, crops, rows, targets, sigma_bins(progress), bf16=self.plan.bf16)
        for parameter in self.parameters:
            parameter.grad = None
        parts.total(0.5 if progress < 0.6 else 0.3).backward()
        _average([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimisers.step(step, progress)
        return parts

    def save(self) -> None:
        """Write the base as it is now."""
        save_base(self.plan.out, self.model, self.file_tokenizer)


def sigma_bins(progress: float) -> float:
    """Width of the coordinate targets: 40 bins at first, 7 from 60 % on, geometric in between."""
    return 40.0 * (7.0 / 40.0) ** min(1.0, progress / 0.6)


def make_batch(
    scenes: Scenes, model: Moondream, tokenizer: Tokenizer, plan: Plan, rng: Generator
) -> tuple[Tensor, Rows, DenseTargets]:
    """Random scenes with random questions: crops, rows, dense labels."""
    chosen = np.sort(rng.integers(len(scenes.scenes), size=plan.images))
    pixels = torch.from_numpy(np.asarray(scenes.pixels[chosen]))
    rows = [fill_row(scenes.scenes[i], model.config, tokenizer, plan.row_tokens, rng) for i in chosen]
    targets = DenseTargets(
        torch.from_numpy(scenes.classes[chosen].astype(np.int64)),
        torch.from_numpy(scenes.colours[chosen].astype(np.int64)),
        torch.from_numpy(scenes.boxes[chosen].astype(np.float32)),
    )
    return _varied(normalise(pixels), rng), pack(rows, model.config.prefix_length), targets


def fill_row(
    scene: Scene, config: MoondreamConfig, tokenizer: Tokenizer, row_tokens: int, rng: Generator
) -> list[Segment]:
    """As many questions as fit into row_tokens: rows of nearly one length waste little on padding."""
    row: list[Segment] = []
    room, misfits = row_tokens, 0
    while misfits < 2:
        part = segment(ask(scene, rng), config, tokenizer)
        if len(part.ids) <= room:
            row.append(part)
            room -= len(part.ids)
        else:
            misfits += 1
    return row


def _varied(crops_NCHW: Tensor, rng: Generator) -> Tensor:
    """Other light: contrast, brightness and a slight tint per image."""
    batch = crops_NCHW.shape[0]
    contrast = rng.uniform(0.75, 1.15, (batch, 1, 1, 1)) * rng.uniform(0.95, 1.05, (batch, 3, 1, 1))
    brightness = rng.uniform(-0.12, 0.12, (batch, 1, 1, 1))
    changed = crops_NCHW * torch.from_numpy(contrast).float() + torch.from_numpy(brightness).float()
    return changed.clamp(-1, 1)


def _average(gradients: list[Tensor]) -> None:
    """Replace the gradients by their mean over all processes, in one message."""
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def _agreed(value: float) -> float:
    """The value of the first process, so that all follow one schedule and stop together."""
    shared = torch.tensor([value], dtype=torch.float64)
    distributed.broadcast(shared, 0)
    return float(shared)


def _line(step: int, progress: float, elapsed_s: float, parts: Losses, plan: Plan) -> str:
    values = " ".join(
        f"{name} {float(getattr(parts, name).detach()):.3f}" for name in ("language", "go", "coord", "size", "dense")
    )
    rate = step * plan.images * plan.processes / max(elapsed_s, 1e-6)
    floor = math.log(math.sqrt(2 * math.pi * math.e) * sigma_bins(progress))
    return f"step {step} {progress:.1%} {elapsed_s:.0f} s {rate:.0f} img/s {values} (coord floor {floor:.2f})"
