"""The base's own answers while it is being made: every step runs the whole row again, so that nothing can go stale.

The services sample with a cache and record what they did; this is only for scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.model.codec import bin_to_coord, bin_to_size
from moontune.model.moondream import Moondream, normalise
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Box, Point
from moontune.values.skill import Skill
from tools.tiny_base.losses import hidden_of
from tools.tiny_base.packing import Segment, pack, prompt
from tools.tiny_base.questions import Question

_MAX_OBJECTS = 10
_MAX_TOKENS = 48


@dataclass(slots=True)
class Answer:
    """boxes of detect, points of point, text of query and caption (thought and answer apart)."""

    boxes: list[Box]
    points: list[Point]
    text: str = ""
    thought: str = ""


class Answerer:
    """Answers questions about images in batches, greedily or at a temperature."""

    def __init__(self, model: Moondream, tokenizer: Tokenizer, temperature: float = 0.0, seed: int = 0) -> None:
        """Temperature 0 is greedy; the seed is for the others."""
        self._model, self._tokenizer, self._temperature = model, tokenizer, temperature
        self._generator = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def encode(self, pixels_NHWC: Tensor) -> Tensor:
        """Image tokens [N, P, D] of uint8 pictures of the crop's size."""
        features = self._model.encode_crops(normalise(pixels_NHWC))
        return self._model.project(features, features)

    @torch.inference_mode()
    def answer(self, image_BPD: Tensor, questions: Sequence[Question]) -> list[Answer]:
        """One answer per row; all questions are of one skill, with or without reasoning."""
        parts = [prompt(question, self._model.config, self._tokenizer) for question in questions]
        if questions[0].skill in (Skill.DETECT, Skill.POINT):
            return self._objects(image_BPD, parts, questions[0].skill)
        return self._text(image_BPD, parts)

    def _last(self, image_BPD: Tensor, parts: list[Segment], alive: list[int]) -> Tensor:
        """Hidden states [n, D] from which the next decision of each living row is read."""
        rows = pack([[parts[index]] for index in alive], self._model.config.prefix_length)
        hidden = hidden_of(self._model, rows, image_BPD[alive])
        ends = torch.tensor([len(parts[index].ids) - 1 for index in alive])
        return hidden[torch.arange(len(alive)), ends]

    def _choose(self, logits: Tensor) -> Tensor:
        if self._temperature == 0.0:
            return logits.argmax(-1)
        flat = (logits / self._temperature).softmax(-1).flatten(0, -2)
        return torch.multinomial(flat, 1, generator=self._generator).view(logits.shape[:-1])

    def _objects(self, image_BPD: Tensor, parts: list[Segment], skill: Skill) -> list[Answer]:
        model, special = self._model, self._model.config.tokenizer
        answers = [Answer([], []) for _ in parts]
        alive = list(range(len(parts)))
        for _ in range(_MAX_OBJECTS):
            hidden = self._last(image_BPD, parts, alive)
            go, x = self._choose(model.go_logits(hidden)).tolist(), self._choose(model.coord_logits(hidden)).tolist()
            kept = [(index, bin_to_coord(bin_x)) for index, on, bin_x in zip(alive, go, x, strict=True) if on]
            if not kept:
                break
            alive = [index for index, _ in kept]
            for index, value in kept:
                parts[index].feed(special.coord_id, value)
            y = self._choose(model.coord_logits(self._last(image_BPD, parts, alive))).tolist()
            points = [Point(value, bin_to_coord(bin_y)) for (_, value), bin_y in zip(kept, y, strict=True)]
            for index, point in zip(alive, points, strict=True):
                parts[index].feed(special.coord_id, point.y)
                answers[index].points.append(point)
            if skill is Skill.DETECT:
                sizes = self._choose(model.size_logits(self._last(image_BPD, parts, alive))).tolist()
                for index, point, (bin_w, bin_h) in zip(alive, points, sizes, strict=True):
                    width, height = bin_to_size(bin_w), bin_to_size(bin_h)
                    parts[index].feed(special.size_id, size=(width, height))
                    answers[index].boxes.append(Box.from_centre(point.x, point.y, width, height))
        return answers

    def _text(self, image_BPD: Tensor, parts: list[Segment]) -> list[Answer]:
        special = self._model.config.tokenizer
        written: list[list[int]] = [[] for _ in parts]
        thoughts: list[list[int]] = [[] for _ in parts]
        alive = list(range(len(parts)))
        for _ in range(_MAX_TOKENS):
            chosen = self._choose(self._model.token_logits(self._last(image_BPD, parts, alive))).tolist()
            for index, token in zip(alive, chosen, strict=True):
                if token == special.answer_id:
                    thoughts[index], written[index] = written[index], []
                elif token != special.eos_id:
                    written[index].append(token)
                parts[index].feed(token)
            alive = [index for index, token in zip(alive, chosen, strict=True) if token != special.eos_id]
            if not alive:
                break
        decode = self._tokenizer.decode
        return [
            Answer([], [], decode(text).strip(), decode(thought).strip())
            for text, thought in zip(written, thoughts, strict=True)
        ]
