"""Moondream behind the family interface: each call goes to the file that holds the algorithm."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moontune.imaging.crops import ImageCrops, cut_crops
from moontune.model import answers, scoring
from moontune.model import inputs as sequences
from moontune.model.config import GoOn, LimitsConfig, MoondreamConfig, TokenizerConfig
from moontune.model.conventions import OURS, Conventions
from moontune.model.decisions import Input, Phase, suppressed_ids
from moontune.model.inputs import Prefilled
from moontune.model.lora_layers import adaptable_layers, target_of
from moontune.model.moondream import Moondream
from moontune.model.prompt import Prompt, build_prompt
from moontune.model.scoring import ScoredBatch, ScoringGroup
from moontune.model.tokenizer import Tokenizer
from moontune.model.vision import crops_per_pass
from moontune.values.finetune import LoraTarget
from moontune.values.geometry import Box, Point
from moontune.values.output import Output
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill


class MoondreamFamily:
    """A `Family` over one module tree and its tokenizer."""

    def __init__(self, module: Moondream, tokenizer: Tokenizer) -> None:
        """Takes them as they are; adapters on the tree act."""
        self.module, self.tokenizer = module, tokenizer

    @property
    def config(self) -> MoondreamConfig:
        """Every size and id of the base."""
        return self.module.config

    @property
    def name(self) -> str:
        """Of the base."""
        return self.config.name

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self.module.device

    @property
    def limits(self) -> LimitsConfig:
        """Of the config."""
        return self.config.limits

    @property
    def max_context(self) -> int:
        """Of the config."""
        return self.config.text.max_context

    @property
    def prefix_length(self) -> int:
        """BOS and the image tokens."""
        return self.config.prefix_length

    @property
    def special(self) -> TokenizerConfig:
        """Of the config."""
        return self.config.tokenizer

    def prompt(self, request: SkillRequest) -> Prompt:
        """See `prompt.build_prompt`."""
        return build_prompt(request, self.config, self.tokenizer)

    def crop(self, pixels: NDArray[np.uint8]) -> ImageCrops:
        """A crop of the whole and, of a large image, overlapping local ones."""
        return cut_crops(pixels, self.config.vision.crop_layout)

    def encode_images(self, images: Sequence[ImageCrops]) -> list[Tensor]:
        """All crops through the vision tower together, then each image's projected on their own."""
        if not images:
            return []
        pixels = torch.cat([torch.from_numpy(crops.pixels) for crops in images]).to(self.device)
        features_NPE = torch.cat(
            [self.module.encode_pixels(part) for part in torch.split(pixels, crops_per_pass(self.device))]
        )
        parts = torch.split(features_NPE, [len(crops.pixels) for crops in images])
        return [self.module.join_crops(part, crops.tiling) for part, crops in zip(parts, images, strict=True)]

    def prefill(self, image_tokens: Sequence[Tensor | None], prompts: Sequence[Prompt], capacity: int = 0) -> Prefilled:
        """See `inputs.prefill`."""
        return sequences.prefill(self.module, image_tokens, prompts, capacity)

    def step(self, ready: Prefilled, inputs: Sequence[Input], conventions: Conventions = OURS) -> Prefilled:
        """See `inputs.step`."""
        return sequences.step(self.module, ready, inputs, conventions.decoding)

    def head_logits(self, head: Head, hidden_ND: Tensor, go_on: GoOn | None = None) -> Tensor:
        """See `scoring.head_logits`."""
        return scoring.head_logits(self.module, head, hidden_ND, go_on)

    def suppressed(self, phase: Phase) -> tuple[int, ...]:
        """The separator while answering; end of text and sizes while thinking."""
        return suppressed_ids(phase, self.config)

    def score(self, groups: Sequence[ScoringGroup], *, distributions: bool = False) -> ScoredBatch:
        """See `scoring.score_groups`."""
        return scoring.score_groups(self.module, groups, distributions=distributions)

    def lora_targets(self) -> Mapping[LoraTarget, tuple[str, ...]]:
        """Text attention, text MLP (dense or experts), region head, vision tower and projection."""
        layers = adaptable_layers(self.config)
        return {target: tuple(name for name in layers if target_of(name) is target) for target in LoraTarget}

    def read_output(
        self,
        skill: Skill,
        decisions: Sequence[Decision],
        *,
        reasoning: bool = False,
        thinking_count: int = 0,
        conventions: Conventions = OURS,
    ) -> Output:
        """See `answers.read_output`."""
        return answers.read_output(
            skill,
            decisions,
            self.config,
            self.tokenizer,
            reasoning=reasoning,
            thinking_count=thinking_count,
            conventions=conventions,
        )

    def box_decisions(self, boxes: Sequence[Box], *, canonical: bool = True) -> tuple[Decision, ...]:
        """Bins of centre and size, ordered by x, then y."""
        return answers.box_decisions(boxes, self.config, canonical=canonical)

    def point_decisions(self, points: Sequence[Point], *, canonical: bool = True) -> tuple[Decision, ...]:
        """Bins, ordered by x, then y."""
        return answers.point_decisions(points, self.config, canonical=canonical)
