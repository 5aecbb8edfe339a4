"""Configurations of the published Moondream 2 weights (the 2025 vocabulary of 51,200 ids)."""

from moontune.model.config import (
    CaptionTemplates,
    MoondreamConfig,
    RegionConfig,
    Template,
    TextConfig,
    TokenizerConfig,
    VisionConfig,
)

MOONDREAM2_TOKENIZER = TokenizerConfig(
    bos_id=0,
    eos_id=0,
    answer_id=3,
    thinking_id=4,
    coord_id=5,
    size_id=6,
    start_ground_points_id=7,
    end_ground_id=9,
    # The doubled answer token is what the weights were trained on, as is the single one before `thinking`.
    query=Template((1, 15381, 2), (3, 3)),
    reasoning_suffix=(3, 4),
    detect=Template((1, 7235, 476, 2), (3,)),
    point=Template((1, 2581, 2), (3,)),
    caption=CaptionTemplates((1, 32708, 2, 12492, 3), (1, 32708, 2, 6382, 3), (1, 32708, 2, 4059, 3)),
)

MOONDREAM2 = MoondreamConfig(
    name="moondream2",
    vision=VisionConfig(
        dim=1152,
        ff_dim=4304,
        layers=27,
        heads=16,
        patch_size=14,
        crop_size=378,
        max_crops=12,
        overlap_margin=4,
        projection_inner_dim=8192,
    ),
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
