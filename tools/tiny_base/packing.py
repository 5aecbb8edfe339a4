"""Questions to rows: several questions about one image share its prefix, each a segment that sees only itself.

A row is the prefix (BOS and the image tokens) and then the segments; positions restart after the prefix in each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from moontune.model.codec import bin_to_coord, bin_to_size, coord_to_bin, size_to_bin
from moontune.model.config import MoondreamConfig
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Box, Point
from moontune.values.skill import Skill
from tools.tiny_base.questions import Question

NONE = -100
"""No target here."""
_THOUGHT_WEIGHT = 0.3
"""Of thought and caption tokens beside those of answers, which are few."""


@dataclass(slots=True)
class Segment:
    """What is fed (a token id, or a coordinate, or a size) and what is decided at each position.

    tokens: weight of the language loss. go: 1 another object, 0 stop. x, width...: bins.
    """

    ids: list[int] = field(default_factory=list)
    coords: list[float] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    token_targets: list[int] = field(default_factory=list)
    token_weights: list[float] = field(default_factory=list)
    go_targets: list[int] = field(default_factory=list)
    coord_targets: list[int] = field(default_factory=list)
    size_targets: list[tuple[int, int]] = field(default_factory=list)

    def feed(self, token: int, coord: float = -1.0, size: tuple[float, float] = (-1.0, -1.0)) -> None:
        """Append an input; a coordinate or size of 0 or more replaces the token's embedding."""
        self.ids.append(token)
        self.coords.append(coord)
        self.sizes.append(size)
        self.token_targets.append(NONE)
        self.token_weights.append(0.0)
        self.go_targets.append(NONE)
        self.coord_targets.append(NONE)
        self.size_targets.append((NONE, NONE))

    def write(self, ids: Sequence[int], weight: float) -> None:
        """Decide these tokens, one after another; the last is decided but not fed."""
        for index, token in enumerate(ids):
            self.token_targets[-1], self.token_weights[-1] = token, weight
            if index < len(ids) - 1:
                self.feed(token)


def prompt(question: Question, config: MoondreamConfig, tokenizer: Tokenizer) -> Segment:
    """What is asked, without any decision."""
    special, made = config.tokenizer, Segment()
    if question.skill is Skill.CAPTION:
        for token in getattr(special.caption, question.text):
            made.feed(token)
        return made
    template = {Skill.QUERY: special.query, Skill.DETECT: special.detect, Skill.POINT: special.point}[question.skill]
    for token in template.prefix:
        made.feed(token)
    if question.ref is not None:
        _feed_ref(made, question.ref, config)
    text = question.text if question.skill is Skill.QUERY else special.object_text.format(object=question.text)
    suffix = special.reasoning_suffix if question.reasoning is not None else template.suffix
    for token in (*tokenizer.encode(text), *suffix):
        made.feed(token)
    return made


def segment(question: Question, config: MoondreamConfig, tokenizer: Tokenizer) -> Segment:
    """The prompt of a question and its right decisions. Texts are written with a space before them, as upstream."""
    special, made = config.tokenizer, prompt(question, config, tokenizer)
    if question.skill in (Skill.DETECT, Skill.POINT):
        _write_objects(made, question, config)
        return made
    weight = 1.0 if question.skill is Skill.QUERY else _THOUGHT_WEIGHT
    if question.reasoning is not None:
        made.write([*tokenizer.encode(f" {question.reasoning}"), special.answer_id], _THOUGHT_WEIGHT)
        made.feed(special.answer_id)
    made.write([*tokenizer.encode(f" {question.answer}"), special.eos_id], weight)
    return made


def _feed_ref(made: Segment, ref: Point | Box, config: MoondreamConfig) -> None:
    centre = ref if isinstance(ref, Point) else ref.centre
    made.feed(config.tokenizer.coord_id, centre.x)
    made.feed(config.tokenizer.coord_id, centre.y)
    if isinstance(ref, Box):
        made.feed(config.tokenizer.size_id, size=(ref.width, ref.height))


def _write_objects(made: Segment, question: Question, config: MoondreamConfig) -> None:
    """Decide the objects; what is fed back is the value of the decided bin, as when sampling."""
    special, bins = config.tokenizer, config.region.bins
    for box in question.boxes:
        x, y = coord_to_bin(box.centre.x, bins), coord_to_bin(box.centre.y, bins)
        made.go_targets[-1], made.coord_targets[-1] = 1, x
        made.feed(special.coord_id, bin_to_coord(x, bins))
        made.coord_targets[-1] = y
        made.feed(special.coord_id, bin_to_coord(y, bins))
        if question.skill is Skill.DETECT:
            width, height = size_to_bin(box.width, bins), size_to_bin(box.height, bins)
            made.size_targets[-1] = (width, height)
            made.feed(special.size_id, size=(bin_to_size(width, bins), bin_to_size(height, bins)))
    made.go_targets[-1] = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of rows behind their prefix; T positions after it, S = prefix + T.

    ids [B, T]; coords [B, T] and sizes [B, T, 2], below 0 where the token is fed; positions [B, S]; mask [B, S, S],
    True where a query may attend; targets as in Segment, NONE where nothing is decided.
    """

    ids_BT: Tensor
    coords_BT: Tensor
    sizes_BT2: Tensor
    positions_BS: Tensor
    mask_BSS: Tensor
    token_targets_BT: Tensor
    token_weights_BT: Tensor
    go_targets_BT: Tensor
    coord_targets_BT: Tensor
    size_targets_BT2: Tensor


def pack(rows: Sequence[Sequence[Segment]], prefix: int) -> Rows:
    """Lay each row's segments one after another behind a prefix of that many positions, padded to the longest row."""
    length = max(sum(len(part.ids) for part in row) for row in rows)
    batch = len(rows)
    owner = np.full((batch, length), -1, np.int64)
    positions = np.full((batch, length), prefix, np.int64)
    ids = np.zeros((batch, length), np.int64)
    tokens, go, coord = (np.full((batch, length), NONE, np.int64) for _ in range(3))
    coords, weights = np.full((batch, length), -1.0, np.float32), np.zeros((batch, length), np.float32)
    sizes, size = np.full((batch, length, 2), -1.0, np.float32), np.full((batch, length, 2), NONE, np.int64)
    for index, row in enumerate(rows):
        start = 0
        for number, part in enumerate(row):
            here = (index, slice(start, start + len(part.ids)))
            owner[here], positions[here] = number, prefix + np.arange(len(part.ids))
            ids[here], coords[here], sizes[here] = part.ids, part.coords, part.sizes
            tokens[here], weights[here], go[here] = part.token_targets, part.token_weights, part.go_targets
            coord[here], size[here] = part.coord_targets, part.size_targets
            start += len(part.ids)
    whole = np.concatenate((np.broadcast_to(np.arange(prefix), (batch, prefix)), positions), 1)
    arrays = (ids, coords, sizes, whole, _mask(owner, prefix), tokens, weights, go, coord, size)
    return Rows(*(torch.from_numpy(array) for array in arrays))


def _mask(owner: np.ndarray, prefix: int) -> np.ndarray:
    """[B, S, S]: the prefix sees itself; a segment sees the prefix and its own past; padding only the prefix."""
    batch, length = owner.shape
    mask = np.zeros((batch, prefix + length, prefix + length), bool)
    mask[:, :, :prefix] = True
    same = (owner[:, :, None] == owner[:, None, :]) & (owner[:, :, None] >= 0)
    mask[:, prefix:, prefix:] = same & np.tri(length, dtype=bool)
    return mask
