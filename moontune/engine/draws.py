"""The draws of one decision step: rows that decide alike are read and drawn together, and copied to the host at once.

Three kinds of distribution: tokens over the vocabulary, go-on over two choices, and bins, which are the coordinates and
sizes of all rows together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moontune.engine.noise import uniforms
from moontune.engine.rows import Indices, Rows
from moontune.engine.trace import Nucleus
from moontune.model import decisions, sampling
from moontune.model.moondream import Moondream


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """One head's choices, in the order of the rows they were read for."""

    choices: NDArray[np.int64]
    logprobs: NDArray[np.float32]
    nuclei: Sequence[Nucleus] = ()


NOTHING = Drawn(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


class Draws:
    """One step: `read` once, then `ground` where a thought names a place, then `embeddings`."""

    tokens = goes = xs = ys = widths = heights = NOTHING

    def __init__(
        self,
        model: Moondream,
        rows: Rows,
        last_BD: Tensor,
        allowed_PV: Tensor,
        act_on_region: Callable[[Indices], None],
    ) -> None:
        """allowed_PV: what a token may be, by `decisions.Phase`. act_on_region: lets these rows' adapters act there."""
        self._model, self._rows, self._last_BD, self._allowed_PV = model, rows, last_BD, allowed_PV
        self._act_on_region = act_on_region
        self._uniform_B2 = uniforms(rows.column("seed"), rows.column("step"))
        self._greedy = bool((rows.column("temperature") == 0).any())
        self._embeds_BD = torch.zeros_like(last_BD)
        self._fed: list[tuple[Indices, Tensor]] = []

    def read(self, thinks: Indices, answers: Indices, objects: Indices, ys: Indices, sizes: Indices) -> None:
        """Read and draw for the rows of each phase; where each row's embedding will come from is fixed here too."""
        found: list[sampling.Sampled] = []
        if count := len(thinks) + len(answers):
            rows = np.concatenate((thinks, answers))
            found.append(self._read_tokens(rows, len(thinks)))
        if len(objects):
            found.append(self._draw(self._model.go_logits(self._pick(objects)), objects, 0))
        if len(objects) or len(ys) or len(sizes):
            found.append(self._read_bins(objects, ys, sizes))
        choices = torch.cat([each.choices_N for each in found]).cpu().numpy()
        logprobs = torch.cat([each.log_probs_N for each in found]).cpu().numpy()
        lengths = (count, len(objects), len(objects), len(ys), len(sizes), len(sizes))
        ends = np.cumsum(lengths)
        parts = [Drawn(choices[end - n : end], logprobs[end - n : end]) for n, end in zip(lengths, ends, strict=True)]
        _, self.goes, self.xs, self.ys, self.widths, self.heights = parts
        self.tokens = Drawn(parts[0].choices, parts[0].logprobs, found[0].nuclei if count else ())

    def ground(self, rows: Indices) -> Drawn:
        """The bin behind a coord marker in these rows' thoughts; it is fed instead of the marker."""
        self._act_on_region(rows)
        drawn = self._draw(self._model.coord_logits(self._pick(rows)), rows, 1)
        self._fed.append((rows, self._model.region.embed_coord_bins(drawn.choices_N)))
        return Drawn(drawn.choices_N.cpu().numpy(), drawn.log_probs_N.cpu().numpy())

    def embeddings(self) -> Tensor:
        """What each row feeds next, [B, D]."""
        if len(self._fed) == 1 and len(self._fed[0][0]) == len(self._rows):
            rows, embeds_BD = self._fed[0]
            if bool((rows == np.arange(len(rows))).all()):
                return embeds_BD.to(self._last_BD.dtype)
        for rows, embeds_RD in self._fed:
            self._embeds_BD[self._index(rows)] = embeds_RD.to(self._embeds_BD.dtype)
        return self._embeds_BD

    def _read_tokens(self, rows: Indices, thinking: int) -> sampling.Sampled:
        logits_RV = self._model.token_logits(self._pick(rows))
        phases = np.full(len(rows), int(decisions.Phase.ANSWER))
        phases[:thinking] = int(decisions.Phase.THINKING)
        top_p = self._rows.column("top_p")[rows]
        cut_R = self._tensor(top_p) if (top_p < 1).any() else None
        drawn = self._draw(logits_RV, rows, 0, self._allowed_PV[self._index(phases)], cut_R)
        self._fed.append((rows, self._model.embed_tokens(drawn.choices_N)))
        return drawn

    def _read_bins(self, objects: Indices, ys: Indices, sizes: Indices) -> sampling.Sampled:
        """Bins: x of `objects`, y of `ys`, then all widths and all heights of `sizes`."""
        model, coords = self._model, np.concatenate((objects, ys))
        logits: list[Tensor] = []
        if len(coords):
            self._act_on_region(coords)
            logits.append(model.coord_logits(self._pick(coords)))
        if len(sizes):
            self._act_on_region(sizes)
            logits.append(model.size_logits(self._pick(sizes)).transpose(0, 1).flatten(0, 1))
        rows = np.concatenate((coords, sizes, sizes))
        which = np.zeros(len(rows), dtype=np.int64)
        which[: len(objects)] = which[len(coords) + len(sizes) :] = 1
        drawn = self._draw(logits[0] if len(logits) == 1 else torch.cat(logits), rows, which)
        if len(coords):
            self._act_on_region(coords)
            self._fed.append((coords, model.region.embed_coord_bins(drawn.choices_N[: len(coords)])))
        if len(sizes):
            self._act_on_region(sizes)
            pairs_R2 = drawn.choices_N[len(coords) :].view(2, -1).T
            self._fed.append((sizes, model.region.embed_size_bins(pairs_R2)))
        return drawn

    def _draw(
        self,
        logits_RK: Tensor,
        rows: Indices,
        which: int | Indices,
        allowed_RK: Tensor | None = None,
        top_p_R: Tensor | None = None,
    ) -> sampling.Sampled:
        """Choose for every row with its uniform number `which`; notes the rows whose greedy choice was close."""
        temperature_R = self._tensor(self._rows.column("temperature")[rows])
        if self._greedy:
            close = sampling.close_calls(logits_RK, temperature_R, allowed_RK).cpu().numpy()
            self._rows.column("close")[rows[close]] = True
        uniform_R = self._tensor(self._uniform_B2[rows, which])
        return sampling.sample(logits_RK, temperature_R, uniform_R, allowed_RK, top_p_R, greedy=self._greedy)

    def _pick(self, rows: Indices) -> Tensor:
        return self._last_BD[self._index(rows)]

    def _index(self, rows: Indices) -> Tensor:
        return torch.from_numpy(rows).to(self._model.device)

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(self._model.device)
