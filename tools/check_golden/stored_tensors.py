"""The intermediate tensors of a golden directory, each beside ours."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from moontune.model import inputs
from moontune.model.moondream import normalise
from tools.check_golden.golden import Golden
from tools.check_golden.line import Line
from tools.check_golden.outputs import REQUESTS

CORNER = 8


def our_tensors(golden: Golden) -> Mapping[str, Callable[[], Tensor]]:
    """Our value of each tensor the README names."""
    model, pixels = golden.model, normalise(torch.from_numpy(golden.crops.pixels))
    if len(pixels) == 1:  # upstream keeps the local crop of an untiled image, which equals the global one
        pixels = pixels.repeat(2, 1, 1, 1)
    hidden_TD = _hidden(golden)
    return {
        "crops_corner": lambda: pixels[:, :, :CORNER, :CORNER],
        "crops_mean_per_crop": lambda: pixels.mean(dim=(1, 2, 3)),
        "crops_std_per_crop": lambda: pixels.flatten(1).std(dim=1),
        "vision_encoder": lambda: model.encode_crops(pixels),
        "image_embeds": lambda: golden.image_PD,
        "full_hidden": lambda: hidden_TD,
        "full_logits_last": lambda: model.token_logits(hidden_TD[-1]),
        "coord_logits_last": lambda: model.coord_logits(hidden_TD[-1]),
        "size_logits_last": lambda: model.size_logits(hidden_TD[-1]),
        "coord_embed": lambda: model.embed_coords(torch.tensor([0.0, 0.25, 0.5, 1.0])),
        "size_embed": lambda: model.embed_sizes(torch.tensor([[0.1, 0.2], [0.5, 1.0]])),
    }


def check_tensors(golden: Golden, tolerance: float) -> Iterator[Line]:
    """One line for each stored tensor: the largest difference as a share of its largest value."""
    ours = our_tensors(golden)
    for name, theirs in sorted(golden.tensors.items()):
        if name not in ours:
            yield Line(name, False, f"a tensor that this tool does not know; it knows {', '.join(sorted(ours))}")
            continue
        mine = ours[name]()
        if mine.numel() != theirs.numel():
            yield Line(name, False, f"ours has shape {list(mine.shape)}, stored {list(theirs.shape)}")
            continue
        error = float((mine.reshape(theirs.shape) - theirs).abs().max() / theirs.abs().max())
        yield Line(name, error <= tolerance, f"{list(theirs.shape)}  {error:.1e} relative (allowed {tolerance:.0e})")


def _hidden(golden: Golden) -> Tensor:
    """[T, D] of BOS, image and the detect prompt, in one pass without a cache."""
    model = golden.model
    prompt = golden.family.prompt(REQUESTS["detect"])
    embeds_TD = torch.cat((inputs.embed_prefix(model, golden.image_PD), inputs.embed_prompt(model, prompt)))
    segments = torch.tensor([[inputs.PREFIX] * golden.config.prefix_length + [inputs.PROMPT] * len(prompt)])
    return model.hidden(embeds_TD[None], torch.arange(len(embeds_TD))[None], inputs.segment_mask(segments))[0]
