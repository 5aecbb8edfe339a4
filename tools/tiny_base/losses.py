"""The loss of one batch: language, go or stop, coordinates, sizes, and what each patch shows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from moontune.model.moondream import Moondream
from tools.tiny_base.dataset import CLASSES, COLOUR_CLASSES
from tools.tiny_base.packing import NONE, Rows


class DenseHead(nn.Module):
    """Reads class, colour and box from each image token. Used in pre-training only, dropped from the file.

    Without it the image tokens learn late what is where, and the coordinates wait for them.
    """

    def __init__(self, dim: int) -> None:
        """`dim` is the width of the text transformer."""
        super().__init__()
        self.read = nn.Linear(dim, CLASSES + COLOUR_CLASSES + 4)

    def forward(self, image_BPD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of class and colour, and the box [B, P, 4]."""
        return self.read(image_BPD).split((CLASSES, COLOUR_CLASSES, 4), -1)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, slots=True)
class DenseTargets:
    """classes, colours [B, P] int64; boxes [B, P, 4] fp32; see dataset.dense_labels."""

    classes_BP: Tensor
    colours_BP: Tensor
    boxes_BP4: Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts, each a mean over its decisions; 0 where a batch has none."""

    language: Tensor
    go: Tensor
    coord: Tensor
    size: Tensor
    dense: Tensor

    def total(self, dense_weight: float) -> Tensor:
        """What is minimised."""
        return self.language + self.go + 0.5 * self.coord + 0.35 * self.size + dense_weight * self.dense


def hidden_of(model: Moondream, rows: Rows, image_BPD: Tensor, *, bf16: bool = False) -> Tensor:
    """Hidden states [B, T, D] behind the prefix."""
    batch = image_BPD.shape[0]
    bos_B1 = torch.full((batch, 1), model.config.tokenizer.bos_id)
    text_BTD = model.embed_tokens(rows.ids_BT)
    coords, sizes = rows.coords_BT >= 0, rows.sizes_BT2[..., 0] >= 0
    text_BTD = text_BTD.index_put(coords.nonzero(as_tuple=True), model.embed_coords(rows.coords_BT[coords]))
    text_BTD = text_BTD.index_put(sizes.nonzero(as_tuple=True), model.embed_sizes(rows.sizes_BT2[sizes]))
    row_BSD = torch.cat((model.embed_tokens(bos_B1), image_BPD, text_BTD), 1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden_BSD = model.hidden(row_BSD, rows.positions_BS, rows.mask_BSS)
    return hidden_BSD[:, 1 + image_BPD.shape[1] :].float()


def losses(
    model: Moondream,
    dense: DenseHead,
    crops_NCHW: Tensor,
    rows: Rows,
    targets: DenseTargets,
    sigma_bins: float,
    *,
    bf16: bool,
) -> Losses:
    """All parts. sigma_bins: width of the Gaussian around the right coordinate bin; sizes take 1.4 of it.

    bf16: the transformers' matrix products run in bf16 (a third faster where the CPU has avx512_bf16); region head
    and language head stay fp32, coordinates need it.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = model.encode_crops(crops_NCHW)
        image_BPD = model.project(features, features)
    image_BPD = image_BPD.float()
    hidden_BTD = hidden_of(model, rows, image_BPD, bf16=bf16)
    go = rows.go_targets_BT != NONE
    coord, size = rows.coord_targets_BT != NONE, rows.size_targets_BT2[..., 0] != NONE
    return Losses(
        _language(model, hidden_BTD, rows),
        _go(model, hidden_BTD[go], rows.go_targets_BT[go]),
        soft_bins(model.coord_logits(hidden_BTD[coord]), rows.coord_targets_BT[coord], sigma_bins),
        soft_bins(model.size_logits(hidden_BTD[size]), rows.size_targets_BT2[size], 1.4 * sigma_bins),
        _dense(dense, image_BPD, targets),
    )


def soft_bins(logits: Tensor, bins: Tensor, sigma_bins: float) -> Tensor:
    """Cross-entropy to a Gaussian around the right bin, mean; logits [..., bins], bins [...]."""
    distance = torch.arange(logits.shape[-1]) - bins.unsqueeze(-1)
    wanted = torch.softmax(-0.5 * (distance / sigma_bins) ** 2, -1)
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean()


def _language(model: Moondream, hidden_BTD: Tensor, rows: Rows) -> Tensor:
    at = rows.token_targets_BT != NONE
    each = functional.cross_entropy(model.token_logits(hidden_BTD[at]), rows.token_targets_BT[at], reduction="none")
    weights = rows.token_weights_BT[at]
    return (each * weights).sum() / weights.sum()


def _go(model: Moondream, hidden: Tensor, targets: Tensor) -> Tensor:
    """As it is sampled, between two, and lightly over the whole vocabulary, where the reference chooses."""
    special = model.config.tokenizer
    logits = model.token_logits(hidden)
    two = functional.cross_entropy(logits[:, [special.eos_id, special.coord_id]], targets)
    return two + 0.1 * functional.cross_entropy(logits, torch.where(targets == 1, special.coord_id, special.eos_id))


def _dense(head: DenseHead, image_BPD: Tensor, targets: DenseTargets) -> Tensor:
    classes, colours, boxes = head(image_BPD)
    inside, coloured = targets.classes_BP > 0, targets.colours_BP > 0
    weights = torch.cat((torch.tensor([0.3]), torch.ones(CLASSES - 1)))
    loss = functional.cross_entropy(classes.flatten(0, 1), targets.classes_BP.flatten(), weights)
    loss = loss + 0.5 * functional.cross_entropy(colours[coloured], targets.colours_BP[coloured])
    return loss + 3.0 * (boxes[inside] - targets.boxes_BP4[inside]).abs().mean()
