"""A running batch: all rows advance by one decision step together, whatever their skill.

Control (which row decides what next) is on the host, over arrays; logits, draws and embeddings are on the device, for
all rows of a phase at once. There is no Python per row until the batch has ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moontune.engine.noise import Noise
from moontune.engine.rows import Phase, Rows
from moontune.engine.trace import Trace
from moontune.model import decisions, sampling
from moontune.model.kv_cache import KvCache
from moontune.model.moondream import Moondream
from moontune.values.rollout import Head
from moontune.values.sampling import SamplingSettings

KEEP_SHARE = 0.75
"""Finished rows idle along until fewer than this share are live: copying the cache costs more than a few idle rows."""

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """The rows that decide the same thing: their indices on the host and on the device, and their hidden states."""

    rows: Indices
    index: Tensor
    last_RD: Tensor


class Batch:
    """Rows, their cache, and the hidden state [B, D] from which each row's next decision is read."""

    def __init__(
        self,
        model: Moondream,
        rows: Rows,
        settings: Sequence[SamplingSettings],
        noise: Noise,
        cache: KvCache,
        last_BD: Tensor,
    ) -> None:
        """All sequences are as long as `rows`; `last_BD` comes from the prefixes' last positions.

        stopped, close: by sequence, whether it ended by itself, and whether a greedy choice of it was a close call.
        """
        self.trace = Trace(len(rows))
        self.stopped = np.zeros(len(rows), dtype=bool)
        self.close = np.zeros(len(rows), dtype=bool)
        self.steps = 0
        self._model = model
        self._special = model.config.tokenizer
        self._rows = rows
        self._temperature = torch.tensor([each.temperature for each in settings], device=model.device)
        self._top_p = torch.tensor([each.top_p for each in settings], device=model.device)
        self._cuts = any(each.top_p < 1.0 for each in settings)
        self._greedy = any(each.temperature == 0.0 for each in settings)
        self._allowed = {
            phase: sampling.allowed_tokens([phase], model.config, model.device) for phase in decisions.Phase
        }
        self._noise = noise
        self._uniform_B2 = noise.at(0)
        self._cache = cache
        self._last_BD = last_BD

    def run(self, abandoned: Callable[[], Sequence[int]]) -> None:
        """Decode to the end. `abandoned` names, at every step, the sequences that nobody wants any more."""
        while True:
            if gone := abandoned():
                self._rows.phase[np.isin(self._rows.sequence, gone)] = Phase.DONE
                self._keep(self._rows.live())
            if not len(self._rows):
                return
            embeds_BD = self._decide()
            live = self._rows.live()
            if not live.any():
                return
            if live.mean() < KEEP_SHARE:
                embeds_BD = embeds_BD[self._keep(live)]
            self._feed(embeds_BD)

    def _decide(self) -> Tensor:
        """One decision step of every live row; the embeddings [B, D] to feed next, zeros for finished rows."""
        self._uniform_B2 = self._noise.at(self.steps)
        self.steps += 1
        before = self._rows.phase.copy()
        deciders = (
            (Phase.THINK, self._think),
            (Phase.ANSWER, self._answer),
            (Phase.OBJECT, self._begin_object),
            (Phase.Y, self._y),
            (Phase.SIZE, self._size),
        )
        embeds_BD = torch.zeros_like(self._last_BD)
        for phase, decide in deciders:
            rows = np.flatnonzero(before == phase)
            if len(rows):
                picked = self._pick(rows)
                embeds_BD[picked.index] = decide(picked)
        return embeds_BD

    def _think(self, picked: Picked) -> Tensor:
        """A thinking token, or the separator: from there on the row answers.

        A coord marker is followed at once by its bin, which is fed in the marker's place.
        """
        choices_R, choices = self._token(picked, decisions.Phase.THINKING)
        self._rows.phase[picked.rows[choices == self._special.answer_id]] = Phase.ANSWER
        self._rows.end_token(picked.rows)
        embeds_RD = self._model.embed_tokens(choices_R)
        marks = choices == self._special.coord_id
        if marks.any():
            marked = self._pick(picked.rows[marks])
            embeds_RD[torch.from_numpy(np.flatnonzero(marks)).to(self._model.device)] = self._ground(marked)
        return embeds_RD

    def _ground(self, picked: Picked) -> Tensor:
        """The bin behind a coord marker; a row's markers mean x and y in turn."""
        logits_RK = self._model.coord_logits(picked.last_RD)
        is_y = self._rows.awaits_y[picked.rows]
        bins_R, _ = self._draw(Head.X, picked, logits_RK, uniform=1, only=~is_y, other=Head.Y)
        self._rows.awaits_y[picked.rows] = ~is_y
        return self._model.region.embed_coord_bins(bins_R).to(self._model.dtype)

    def _answer(self, picked: Picked) -> Tensor:
        """A token of the answer, or its end."""
        choices_R, choices = self._token(picked, decisions.Phase.ANSWER)
        self._rows.end_token(picked.rows)
        self._stop(picked.rows[choices == self._special.eos_id])
        return self._model.embed_tokens(choices_R)

    def _begin_object(self, picked: Picked) -> Tensor:
        """Stop, or one more object and its x: both are read at this position."""
        _, goes = self._draw(Head.GO, picked, self._model.go_logits(picked.last_RD), uniform=0)
        self._stop(picked.rows[goes == 0])
        bins_R, _ = self._draw(Head.X, picked, self._model.coord_logits(picked.last_RD), uniform=1, only=goes == 1)
        going = picked.rows[goes == 1]
        self._rows.phase[going] = Phase.Y
        self._rows.spend(going)
        return self._model.region.embed_coord_bins(bins_R).to(self._model.dtype)

    def _y(self, picked: Picked) -> Tensor:
        """The object's y; a point ends here."""
        bins_R, _ = self._draw(Head.Y, picked, self._model.coord_logits(picked.last_RD), uniform=0)
        self._rows.spend(picked.rows)
        sized = self._rows.sized[picked.rows]
        self._rows.phase[picked.rows[sized]] = Phase.SIZE
        self._rows.end_object(picked.rows[~sized])
        return self._model.region.embed_coord_bins(bins_R).to(self._model.dtype)

    def _size(self, picked: Picked) -> Tensor:
        """The object's width and height, read at one position and fed back as one."""
        logits_R2K = self._model.size_logits(picked.last_RD)
        widths_R, _ = self._draw(Head.WIDTH, picked, logits_R2K[:, 0], uniform=0)
        heights_R, _ = self._draw(Head.HEIGHT, picked, logits_R2K[:, 1], uniform=1)
        self._rows.spend(picked.rows)
        self._rows.end_object(picked.rows)
        return self._model.region.embed_size_bins(torch.stack((widths_R, heights_R), dim=-1)).to(self._model.dtype)

    def _token(self, picked: Picked, phase: decisions.Phase) -> tuple[Tensor, Indices]:
        logits_RV = self._model.token_logits(picked.last_RD)
        allowed_RV = self._allowed[phase].expand_as(logits_RV)
        return self._draw(Head.TOKEN, picked, logits_RV, uniform=0, allowed_RK=allowed_RV)

    def _draw(
        self,
        head: Head,
        picked: Picked,
        logits_RK: Tensor,
        uniform: int,
        *,
        allowed_RK: Tensor | None = None,
        only: NDArray[np.bool_] | None = None,
        other: Head | None = None,
    ) -> tuple[Tensor, Indices]:
        """Choose for every picked row and record it; the choices on the device and on the host.

        only: the rows whose choice is a decision of `head`; the rest is recorded under `other`, or not at all.
        """
        drawn = sampling.sample(
            logits_RK,
            self._temperature[picked.index],
            self._uniform_B2[picked.index, uniform],
            allowed_RK,
            self._top_p[picked.index] if head is Head.TOKEN and self._cuts else None,
        )
        sequences = self._rows.sequence[picked.rows]
        if self._greedy:
            close_R = sampling.close_calls(logits_RK, self._temperature[picked.index], allowed_RK).cpu().numpy()
            self.close[sequences[close_R]] = True
        choices, logprobs = drawn.choices_N.cpu().numpy(), drawn.log_probs_N.cpu().numpy()
        if only is None:
            self.trace.add(head, sequences, choices, logprobs, drawn.nuclei if self._cuts else ())
            return drawn.choices_N, choices
        self.trace.add(head, sequences[only], choices[only], logprobs[only])
        if other is not None:
            self.trace.add(other, sequences[~only], choices[~only], logprobs[~only])
        return drawn.choices_N, choices

    def _stop(self, rows: Indices) -> None:
        self._rows.phase[rows] = Phase.DONE
        self.stopped[self._rows.sequence[rows]] = True

    def _pick(self, rows: Indices) -> Picked:
        index = torch.from_numpy(rows).to(self._model.device)
        return Picked(rows, index, self._last_BD if len(rows) == len(self._rows) else self._last_BD[index])

    def _keep(self, live: NDArray[np.bool_]) -> Tensor:
        """Drop all rows but the live ones; returns the indices of those on the device."""
        rows = np.flatnonzero(live)
        index = torch.from_numpy(rows).to(self._model.device)
        if len(rows) < len(self._rows):
            self._rows.keep(rows)
            self._noise.keep(rows.tolist())
            self._cache = self._cache.select(index)
            self._temperature, self._top_p = self._temperature[index], self._top_p[index]
            self._last_BD = self._last_BD[index]
        return index

    def _feed(self, embeds_BD: Tensor) -> None:
        positions_B1 = torch.from_numpy(self._rows.position).to(self._model.device)[:, None]
        self._last_BD = self._model.hidden(embeds_BD[:, None], positions_B1, cache=self._cache)[:, 0]
        self._rows.position += 1
