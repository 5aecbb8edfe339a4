"""Configurations of the published weights: Moondream 2 (2B with two vocabularies, 0.5B) and Moondream 3 preview.

Weights and tokenizer go together: each preset names the vocabulary that its weights were trained with, and a file of
the other one is refused (`moontune.model.tokenizer`).
"""

from collections.abc import Mapping
from dataclasses import replace

from moontune.model.config import (
    CaptionTemplates,
    GoOn,
    MoeConfig,
    MoondreamConfig,
    RegionConfig,
    Template,
    TextConfig,
    TokenizerConfig,
    VisionConfig,
    Vocabulary,
)

MOONDREAM3_TOKENIZER = TokenizerConfig(
    bos_id=0,
    eos_id=0,
    answer_id=3,
    thinking_id=4,
    coord_id=5,
    size_id=6,
    start_ground_points_id=7,
    end_ground_id=9,
    query=Template((1, 15381, 2), (3,)),
    reasoning_suffix=(4,),
    detect=Template((1, 7235, 476, 2), (3,)),
    point=Template((1, 2581, 2), (3,)),
    caption=CaptionTemplates((1, 32708, 2, 12492, 3), (1, 32708, 2, 6382, 3), (1, 32708, 2, 4059, 3)),
    vocabulary=Vocabulary.MOONDREAM,
)
"""The vocabulary of 2025, 51,200 ids."""

MOONDREAM2_TOKENIZER = replace(
    MOONDREAM3_TOKENIZER,
    # The doubled answer token is what these weights were trained on, as is the answer token before `thinking`.
    query=Template((1, 15381, 2), (3, 3)),
    reasoning_suffix=(3, 4),
)

GPT2_TOKENIZER = TokenizerConfig(
    bos_id=50_256,
    eos_id=50_256,
    # Weights of this age have no such tokens: ids that the tokenizer never makes stand in, so nothing collides.
    answer_id=51_190,
    thinking_id=51_191,
    coord_id=51_192,
    size_id=51_193,
    start_ground_points_id=51_194,
    end_ground_id=51_195,
    query=Template((198, 198, 24361, 25), (198, 198, 33706, 25)),  # "\n\nQuestion:", "\n\nAnswer:"
    reasoning_suffix=(),
    detect=Template((198, 198, 47504, 25), (628,)),  # "\n\nDetect:", "\n\n"
    point=Template((198, 198, 12727, 25), (628,)),  # "\n\nPoint:", "\n\n"
    caption=CaptionTemplates((198, 198, 16438, 8305, 25), (198, 198, 24334, 1159, 25)),  # short, normal; no long
    question_text=" {question}",
    vocabulary=Vocabulary.GPT2,
    go_on=GoOn.ANY_TOKEN,
)
"""Weights of January to April 2025, and the 0.5B: GPT-2's tokenizer, prompts in words."""

_VISION = VisionConfig(
    dim=1152,
    ff_dim=4304,
    layers=27,
    heads=16,
    patch_size=14,
    crop_size=378,
    max_crops=12,
    overlap_margin=4,
    projection_inner_dim=8192,
)

MOONDREAM2 = MoondreamConfig(
    name="moondream2",
    vision=_VISION,
    text=TextConfig(
        dim=2048,
        ff_dim=8192,
        layers=24,
        heads=32,
        kv_heads=32,
        vocab_size=51_200,
        max_context=2048,
        rotary_dim=32,
        rope_theta=10_000.0,
    ),
    region=RegionConfig(coord_feature_dim=256, size_feature_dim=512, inner_dim=8192),
    tokenizer=MOONDREAM2_TOKENIZER,
)
"""1.93 billion parameters: text 1.418, vision 0.449, region 0.060."""

MOONDREAM2_GPT2 = replace(MOONDREAM2, name="moondream2-gpt2", tokenizer=GPT2_TOKENIZER)
"""The same sizes as trained until April 2025."""

MOONDREAM2_05B = replace(
    MOONDREAM2_GPT2,
    name="moondream2-0.5b",
    vision=replace(_VISION, dim=720, ff_dim=2690, heads=10),
    text=replace(MOONDREAM2.text, dim=1024, ff_dim=4096, heads=16, kv_heads=16),
)

MOONDREAM3 = MoondreamConfig(
    name="moondream3-preview",
    vision=_VISION,
    text=replace(
        MOONDREAM2.text,
        max_context=4096,
        rope_theta=1_500_000.0,
        moe=MoeConfig(experts=64, experts_per_token=8, inner_dim=1024, start_layer=4),
        tau=True,
    ),
    region=replace(MOONDREAM2.region, inner_dim=None),
    tokenizer=MOONDREAM3_TOKENIZER,
)
"""9 billion parameters, 2 of them at work on a token."""

PRESETS: Mapping[str, MoondreamConfig] = {
    config.name: config for config in (MOONDREAM2, MOONDREAM2_GPT2, MOONDREAM2_05B, MOONDREAM3)
}
"""By name."""
