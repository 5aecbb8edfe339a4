"""The public implementations' configuration as ours: sizes from their config.json, the rest from the tensors' shapes.

Their JSON has the sections text, vision, region and, for older weights, tokenizer; keys they leave out have the
published model's values. What it does not say is read off the parameters: grouped heads, tau, linear region heads.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from moontune.errors import InvalidField
from moontune.model.config import (
    CaptionTemplates,
    MoeConfig,
    MoondreamConfig,
    RegionConfig,
    Template,
    TextConfig,
    TokenizerConfig,
    VisionConfig,
)
from moontune.model.presets import GPT2_TOKENIZER, MOONDREAM2, MOONDREAM3

Section = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of parameters by the current names (`text.blocks.0.attn.qkv.weight`)."""


def published_config(tree: Section, shapes: Shapes, name: str = "") -> MoondreamConfig:
    """Our config of weights with these shapes; raises InvalidField when the two do not fit each other."""
    third = "text.blocks.0.attn.tau.alpha" in shapes
    preset = MOONDREAM3 if third else MOONDREAM2
    try:
        return replace(
            preset,
            name=name or preset.name,
            text=_text(_section(tree, "text"), shapes, preset.text),
            vision=_vision(_section(tree, "vision"), preset.vision),
            region=_region(_section(tree, "region"), shapes, preset.region),
            tokenizer=_tokenizer(_section(tree, "tokenizer"), preset.tokenizer, doubled=not third),
        )
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        allowed = "a config of Moondream's public implementation, and weights that fit it"
        raise InvalidField.of("config", str(error), allowed) from error


def _section(tree: Section, name: str) -> Section:
    return cast("Section", tree.get(name) or {})


def _text(given: Section, shapes: Shapes, preset: TextConfig) -> TextConfig:
    heads = given.get("n_heads", preset.heads)
    dim = given.get("dim", preset.dim)
    qkv_heads = shapes["text.blocks.0.attn.qkv.bias"][0] // (dim // heads)
    return replace(
        preset,
        dim=dim,
        ff_dim=given.get("ff_dim", preset.ff_dim),
        layers=given.get("n_layers", preset.layers),
        heads=heads,
        kv_heads=(qkv_heads - heads) // 2,
        vocab_size=given.get("vocab_size", preset.vocab_size),
        max_context=given.get("max_context", preset.max_context),
        rotary_dim=dim // heads // 2,
        tau="text.blocks.0.attn.tau.alpha" in shapes,
        moe=_moe(given, shapes),
    )


def _moe(given: Section, shapes: Shapes) -> MoeConfig | None:
    layers = [int(name.split(".")[2]) for name in shapes if name.endswith(".mlp.router.weight")]
    if not layers:
        return None
    moe, published = _section(given, "moe"), cast("MoeConfig", MOONDREAM3.text.moe)
    _, _, inner_dim = shapes[f"text.blocks.{min(layers)}.mlp.fc2.weight"]
    return MoeConfig(
        experts=shapes[f"text.blocks.{min(layers)}.mlp.router.bias"][0],
        experts_per_token=moe.get("experts_per_token", published.experts_per_token),
        inner_dim=inner_dim,
        start_layer=min(layers),
    )


def _vision(given: Section, preset: VisionConfig) -> VisionConfig:
    return VisionConfig(
        dim=given.get("enc_dim", preset.dim),
        ff_dim=given.get("enc_ff_dim", preset.ff_dim),
        layers=given.get("enc_n_layers", preset.layers),
        heads=given.get("enc_n_heads", preset.heads),
        patch_size=given.get("enc_patch_size", preset.patch_size),
        crop_size=given.get("crop_size", preset.crop_size),
        max_crops=given.get("max_crops", preset.max_crops),
        overlap_margin=given.get("overlap_margin", preset.overlap_margin),
        projection_inner_dim=given.get("proj_inner_dim", preset.projection_inner_dim),
        channels=given.get("in_channels", preset.channels),
    )


def _region(given: Section, shapes: Shapes, preset: RegionConfig) -> RegionConfig:
    inner = shapes.get("region.coord_decoder.fc1.bias")
    return RegionConfig(
        coord_feature_dim=given.get("coord_feat_dim", preset.coord_feature_dim),
        size_feature_dim=given.get("size_feat_dim", preset.size_feature_dim),
        inner_dim=None if inner is None else inner[0],
        bins=given.get("coord_out_dim", preset.bins),
        norm="region.ln.weight" in shapes,
    )


def _tokenizer(given: Section, preset: TokenizerConfig, doubled: bool) -> TokenizerConfig:
    """Special ids and templates; `doubled`: this generation's public code appends the query's suffix a second time."""
    ids = {key: given[key] for key in given if key.endswith("_id")}
    old = ids.get("eos_id") == GPT2_TOKENIZER.eos_id
    special = replace(preset, **ids, vocabulary=GPT2_TOKENIZER.vocabulary if old else preset.vocabulary)
    templates = _section(given, "templates")
    if not templates:
        return special
    query, detect, point = (_template(_section(templates, name)) for name in ("query", "detect", "point"))
    captions = _section(templates, "caption")
    return replace(
        special,
        query=Template(query.prefix, query.suffix * (2 if doubled else 1)),
        reasoning_suffix=(*(query.suffix if doubled else ()), special.thinking_id),
        detect=detect,
        point=point,
        caption=CaptionTemplates(**{name: tuple(captions.get(name, ())) for name in ("short", "normal", "long")}),
    )


def _template(given: Section) -> Template:
    return Template(tuple(given.get("prefix", ())), tuple(given.get("suffix", ())))
