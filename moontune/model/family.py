"""What a model family is: everything that the engine and the learner ask of a base, and nothing else.

`MoondreamFamily` is one (Moondream 2, Moondream 3, moontune-tiny). Another architecture comes in as a class with these
members that passes `tests/moontune/model/test_conformance.py`; `docs/adding_a_model.md` walks through it.

    request ──prompt──▶ Prompt ─┐
    pixels ──crop──▶ ImageCrops │
              └─encode_images─▶ tokens ─┴─prefill─▶ Prefilled ─head_logits─▶ choice ─step─▶ Prefilled ─▶ ...
    decisions ──read_output──▶ answer          groups of decisions ──score──▶ log-probabilities with gradients
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moontune.imaging.crops import ImageCrops
from moontune.model.config import GoOn, LimitsConfig, TokenizerConfig
from moontune.model.conventions import OURS, Conventions
from moontune.model.decisions import Input, Phase
from moontune.model.inputs import Prefilled
from moontune.model.prompt import Prompt
from moontune.model.scoring import ScoredBatch, ScoringGroup
from moontune.values.finetune import LoraTarget
from moontune.values.geometry import Box, Point
from moontune.values.output import Output
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill


class Family(Protocol):
    """One loaded base, as the rest of the system sees it. Shapes: CONTRIBUTING, "Notation"."""

    @property
    def name(self) -> str:
        """Of the base, for messages."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the parameters are; tensors given must be there, tensors returned are."""
        ...

    # Limits

    @property
    def limits(self) -> LimitsConfig:
        """Objects of one answer, rank of an adapter."""
        ...

    @property
    def max_context(self) -> int:
        """Positions of the longest sequence: prefix, prompt and completion."""
        ...

    @property
    def prefix_length(self) -> int:
        """Positions before the prompt of a request with an image; without one it is 1."""
        ...

    @property
    def special(self) -> TokenizerConfig:
        """Special ids: what ends a text, what separates thinking from answer, what marks a coordinate."""
        ...

    # Prompt templates

    def prompt(self, request: SkillRequest) -> Prompt:
        """The prompt of a validated request; raises InvalidField for what the base was not trained for."""
        ...

    # Image

    def crop(self, pixels: NDArray[np.uint8]) -> ImageCrops:
        """The crops of an RGB image [H, W, 3] that the vision tower reads."""
        ...

    def encode_images(self, images: Sequence[ImageCrops]) -> list[Tensor]:
        """Image tokens [P, D] of each, whatever else is in the call; with gradients where parameters require them."""
        ...

    # Generation

    def prefill(self, image_tokens: Sequence[Tensor | None], prompts: Sequence[Prompt], capacity: int = 0) -> Prefilled:
        """Run prefix and prompt of B requests of any lengths as one batch; None is a request without an image."""
        ...

    def step(self, ready: Prefilled, inputs: Sequence[Input], conventions: Conventions = OURS) -> Prefilled:
        """Feed each of the B rows one decided input; the cache of `ready` is appended to."""
        ...

    def head_logits(self, head: Head, hidden_ND: Tensor, go_on: GoOn | None = None) -> Tensor:
        """fp32 logits [N, K] of one head; `go_on` None is the base's own rule."""
        ...

    def suppressed(self, phase: Phase) -> tuple[int, ...]:
        """Token ids that are never sampled in this part of a text."""
        ...

    # Learning

    def score(self, groups: Sequence[ScoringGroup], *, distributions: bool = False) -> ScoredBatch:
        """Log-probabilities, with gradients, of decisions already taken; equal to the sampler's to 1e-4 in fp32."""
        ...

    def lora_targets(self) -> Mapping[LoraTarget, tuple[str, ...]]:
        """Full names of the layers that each target covers."""
        ...

    # Coordinates: answers from decisions, decisions from labels

    def read_output(
        self,
        skill: Skill,
        decisions: Sequence[Decision],
        *,
        reasoning: bool = False,
        thinking_count: int = 0,
        conventions: Conventions = OURS,
    ) -> Output:
        """What decisions say, coordinates in 0..1; an object cut short by a limit is left out."""
        ...

    def box_decisions(self, boxes: Sequence[Box], *, canonical: bool = True) -> tuple[Decision, ...]:
        """The decisions of a rollout that finds exactly these boxes and stops; canonical: in the family's order."""
        ...

    def point_decisions(self, points: Sequence[Point], *, canonical: bool = True) -> tuple[Decision, ...]:
        """The decisions of a rollout that names exactly these points and stops."""
        ...
