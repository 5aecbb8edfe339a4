"""Names of stored weights: the current form is our own, the older Hugging Face form is translated.

Three stored tensors are not parameters as they are, and get a name beside the parameter they belong to:
`attn.tau.wqwv` (wq over wv in one matrix), `mlp.fc1.scale` and `mlp.fc2.scale` (of 8-bit experts). Sources: the
loaders of the public torch implementation and of kestrel.
"""

import re

_PREFIX = "model."
_VISUAL = "vision_encoder.encoder.model.visual"
_COMPILED = "._orig_mod"
"""What torch.compile leaves in the names of a saved module."""

_OLD_TO_OWN = (
    (r"text_model\.transformer\.embd\.wte\.weight", "text.wte"),
    (r"text_model\.lm_head\.ln", "text.post_ln"),
    (r"text_model\.lm_head\.linear", "text.lm_head"),
    (r"text_model\.transformer\.h\.(\d+)\.mixer\.Wqkv", r"text.blocks.\1.attn.qkv"),
    (r"text_model\.transformer\.h\.(\d+)\.mixer\.out_proj", r"text.blocks.\1.attn.proj"),
    (r"text_model\.transformer\.h\.(\d+)\.gate", r"text.blocks.\1.mlp.router"),
    (r"text_model\.transformer\.h\.(\d+)\.mlp\.experts", r"text.blocks.\1.mlp.fc1"),
    (r"text_model\.transformer\.h\.(\d+)\.mlp\.output_experts", r"text.blocks.\1.mlp.fc2"),
    (r"text_model\.transformer\.h\.(\d+)\.moe_quant\.up_scale", r"text.blocks.\1.mlp.fc1.scale"),
    (r"text_model\.transformer\.h\.(\d+)\.moe_quant\.down_scale", r"text.blocks.\1.mlp.fc2.scale"),
    (r"text_model\.transformer\.h\.(\d+)\.tau_(wq|wv|wqwv|alpha)", r"text.blocks.\1.attn.tau.\2"),
    (r"text_model\.transformer\.h\.(\d+)", r"text.blocks.\1"),
    (re.escape(f"{_VISUAL}.patch_embed.linear"), "vision.patch_emb"),
    (re.escape(f"{_VISUAL}.pos_embed"), "vision.pos_emb"),
    (re.escape(f"{_VISUAL}.norm"), "vision.post_ln"),
    (re.escape(f"{_VISUAL}.blocks.") + r"(\d+)\.norm([12])", r"vision.blocks.\1.ln\2"),
    (re.escape(f"{_VISUAL}.blocks."), "vision.blocks."),
    (r"vision_encoder\.projection\.mlp", "vision.proj_mlp"),
    (r"region_model\.(coordinate|size)_features\.weight", r"region.\1_features"),
    (r"region_model\.(coordinate|size)_head", r"region.\1_decoder"),
    (r"region_model\.", "region."),
)
_RULES = tuple((re.compile(old), own) for old, own in _OLD_TO_OWN)
_TRANSPOSED = re.compile(r"region_model\.(coordinate|size)_features\.weight")


def own_name(stored: str) -> str:
    """The name that a stored tensor has here, whichever form it is in."""
    name = stored.replace(_COMPILED, "").removeprefix(_PREFIX)
    for pattern, own in _RULES:
        match = pattern.match(name)
        if match is not None:
            return (match.expand(own) + name[match.end() :]).replace("coordinate_", "coord_")
    return name


def is_transposed(stored: str) -> bool:
    """Whether the older form stores this tensor the other way round."""
    return _TRANSPOSED.fullmatch(stored.replace(_COMPILED, "").removeprefix(_PREFIX)) is not None


def has_prefix(stored: str) -> bool:
    """Whether a name is in the current form behind `model.`, as on the hub."""
    return stored.startswith(_PREFIX)
