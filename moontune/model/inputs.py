"""Positions to embeddings, segments to masks: what prefill, decoding and scoring all put together alike.

A sequence is prefix (BOS and image tokens, bidirectional), prompt (causal, sees the prefix) and completions (causal,
each sees prefix, prompt and itself). In scoring several completions share one row; each starts again at the position
after the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moontune.model.codec import CoordDecoding, coord_values, size_values
from moontune.model.decisions import Input, InputKind
from moontune.model.kv_cache import KvCache
from moontune.model.moondream import Moondream
from moontune.model.prompt import Prompt

PADDING, PREFIX, PROMPT, COMPLETION = -1, 0, 1, 2
"""Segment numbers; completions are COMPLETION, COMPLETION + 1, ..."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefilled:
    """Prompts run. cache: B rows. hidden_BD: at each prompt's last position. positions_B: of what is fed next."""

    cache: KvCache
    hidden_BD: Tensor
    positions_B: Tensor


def segment_mask(segments_BT: Tensor) -> Tensor:
    """Bool [B, T, T] from segment numbers; padding attends to padding, so that no row of the softmax is empty."""
    index = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    before_TT = index[None, :] <= index[:, None]
    query, key = segments_BT[:, :, None], segments_BT[:, None, :]
    sees_prefix = (key == PREFIX) & (query >= PREFIX)
    sees_prompt = (key == PROMPT) & (query >= PROMPT) & before_TT
    return sees_prefix | sees_prompt | ((query == key) & before_TT)


def embed_prefix(model: Moondream, image_embeds_PD: Tensor | None) -> Tensor:
    """[1 + P, D]: BOS and the image tokens; BOS alone for a text-only query."""
    bos_1D = model.embed_tokens(torch.tensor([model.config.tokenizer.bos_id], device=model.device))
    return bos_1D if image_embeds_PD is None else torch.cat((bos_1D, image_embeds_PD.to(bos_1D.dtype)))


def embed_prompt(model: Moondream, prompt: Prompt) -> Tensor:
    """[L, D]: tokens, with the places that the question refers to in their markers' stead."""
    embeds_LD = model.embed_tokens(torch.tensor(prompt.ids, device=model.device))
    at = [index for index, _ in prompt.coords] + [index for index, _ in prompt.sizes]
    if not at:
        return embeds_LD
    coords = model.embed_coords(torch.tensor([value for _, value in prompt.coords], device=model.device))
    sizes = torch.tensor([pair for _, pair in prompt.sizes], device=model.device).reshape(-1, 2)
    values = torch.cat((coords, model.embed_sizes(sizes)))
    return embeds_LD.index_put((torch.tensor(at, device=model.device),), values)


def embed_inputs(model: Moondream, inputs: Sequence[Input], decoding: CoordDecoding = CoordDecoding.EXACT) -> Tensor:
    """[N, D]: decided tokens, coordinates and sizes, re-encoded from their ids and bins."""
    device, bins = model.device, model.config.region.bins
    kind_N, first_N, second_N = torch.tensor(
        [(int(item.kind), item.first, item.second) for item in inputs], device=device
    ).unbind(-1)
    embeds_ND = model.embed_tokens(first_N.masked_fill(kind_N != InputKind.TOKEN, 0))
    coord_at = (kind_N == InputKind.COORD).nonzero().flatten()
    if len(coord_at):
        values = model.embed_coords(coord_values(first_N[coord_at], bins, decoding))
        embeds_ND = embeds_ND.index_put((coord_at,), values)
    size_at = (kind_N == InputKind.SIZE).nonzero().flatten()
    if len(size_at):
        pairs = torch.stack((first_N[size_at], second_N[size_at]), dim=-1)
        embeds_ND = embeds_ND.index_put((size_at,), model.embed_sizes(size_values(pairs, bins)))
    return embeds_ND


def prefill(
    model: Moondream, image_embeds: Sequence[Tensor | None], prompts: Sequence[Prompt], capacity: int = 0
) -> Prefilled:
    """Run prefix and prompt of B requests as one batch, shorter ones padded; room for `capacity` positions at least.

    Each image's tokens are [P, D], None for text only. For G rollouts of each, `stack([cache], [G])` the cache.
    """
    rows = [
        torch.cat((embed_prefix(model, image), embed_prompt(model, prompt)))
        for image, prompt in zip(image_embeds, prompts, strict=True)
    ]
    return prefill_rows(model, rows, [len(prompt) for prompt in prompts], capacity)


def prefill_rows(
    model: Moondream, rows: Sequence[Tensor], prompt_lengths: Sequence[int], capacity: int = 0
) -> Prefilled:
    """`prefill` of embeddings: rows are [T, D], prefix first, of which the last `prompt_lengths` are causal."""
    embeds_BTD = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    batch, length, _ = embeds_BTD.shape
    lengths_B = torch.tensor([len(row) for row in rows], device=model.device)
    prompts_B = torch.tensor(prompt_lengths, device=model.device)
    positions_T = torch.arange(length, device=model.device)
    valid_BT = positions_T < lengths_B[:, None]
    segments_BT = torch.where(positions_T < (lengths_B - prompts_B)[:, None], PREFIX, PROMPT)
    segments_BT = segments_BT.masked_fill(~valid_BT, PADDING)
    cache = model.new_cache(batch, max(capacity, length))
    hidden_BTD = model.hidden(
        embeds_BTD, positions_T.expand(batch, -1), segment_mask(segments_BT), cache, valid_BT=valid_BT
    )
    last_BD = hidden_BTD[torch.arange(batch, device=model.device), lengths_B - 1]
    return Prefilled(cache, last_BD, lengths_B)


def step(
    model: Moondream,
    ready: Prefilled,
    inputs: Sequence[Input],
    decoding: CoordDecoding = CoordDecoding.EXACT,
) -> Prefilled:
    """Feed each of the B rows one decided input; the cache of `ready` is appended to."""
    embeds_B1D = embed_inputs(model, inputs, decoding).unsqueeze(1)
    hidden_B1D = model.hidden(embeds_B1D, ready.positions_B[:, None], cache=ready.cache)
    return Prefilled(ready.cache, hidden_B1D[:, 0], ready.positions_B + 1)
