"""Weights in every form that is published: names, shards, torch files, int4 and 8-bit experts."""

import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moontune.errors import CheckpointCorrupt, InvalidField
from moontune.model.base_model import load_base
from moontune.model.config import MoeConfig, MoondreamConfig
from moontune.model.quantisation import Int4, from_int4, to_int4
from moontune.model.weight_names import own_name
from tests.fakes.tiny_base import CONFIG, seeded_state, write_tiny_base

WIDE = replace(CONFIG, text=replace(CONFIG.text, dim=128, ff_dim=256, heads=2, kv_heads=2))
"""Wide enough for groups of 128."""
MOE = replace(
    WIDE,
    text=replace(WIDE.text, moe=MoeConfig(experts=4, experts_per_token=2, inner_dim=32, start_layer=1), tau=True),
    region=replace(CONFIG.region, inner_dim=None, norm=True),
)
State = dict[str, torch.Tensor]

OLD_NAMES = (
    (r"^text\.wte$", "text_model.transformer.embd.wte.weight"),
    (r"^text\.post_ln\.", "text_model.lm_head.ln."),
    (r"^text\.lm_head\.", "text_model.lm_head.linear."),
    (r"^text\.blocks\.(\d+)\.attn\.qkv\.", r"text_model.transformer.h.\1.mixer.Wqkv."),
    (r"^text\.blocks\.(\d+)\.attn\.proj\.", r"text_model.transformer.h.\1.mixer.out_proj."),
    (r"^text\.blocks\.(\d+)\.attn\.tau\.", r"text_model.transformer.h.\1.tau_"),
    (r"^text\.blocks\.(\d+)\.mlp\.router\.", r"text_model.transformer.h.\1.gate."),
    (r"^text\.blocks\.(\d+)\.", r"text_model.transformer.h.\1."),
    (r"^vision\.patch_emb\.", "vision_encoder.encoder.model.visual.patch_embed.linear."),
    (r"^vision\.pos_emb$", "vision_encoder.encoder.model.visual.pos_embed"),
    (r"^vision\.post_ln\.", "vision_encoder.encoder.model.visual.norm."),
    (r"^vision\.blocks\.(\d+)\.ln(\d)\.", r"vision_encoder.encoder.model.visual.blocks.\1.norm\2."),
    (r"^vision\.blocks\.", "vision_encoder.encoder.model.visual.blocks."),
    (r"^vision\.proj_mlp\.", "vision_encoder.projection.mlp."),
    (r"^region\.coord_features$", "region_model.coordinate_features.weight"),
    (r"^region\.size_features$", "region_model.size_features.weight"),
    (r"^region\.coord_encoder", "region_model.coordinate_encoder"),
    (r"^region\.", "region_model."),
)
MOE_NAMES = (
    (r"(h\.1\.)mlp\.fc1\.", r"\1mlp.experts."),
    (r"(h\.1\.)mlp\.fc2\.", r"\1mlp.output_experts."),
    (r"region_model\.coord_decoder", "region_model.coordinate_head"),
    (r"region_model\.size_decoder", "region_model.size_head"),
)


def old_form(state: State, moe: bool = False) -> State:
    """As the older Hugging Face files have it: other names, Fourier features the other way round."""
    renamed: State = {}
    for name, tensor in state.items():
        old = next(re.sub(own, theirs, name) for own, theirs in OLD_NAMES if re.match(own, name))
        old = old.replace("region_model.coord_decoder", "region_model.coordinate_decoder") if not moe else old
        for own, theirs in MOE_NAMES if moe else ():
            old = re.sub(own, theirs, old)
        renamed[old] = tensor.T.contiguous() if name.endswith("_features") else tensor
    return renamed


def base_with(folder: Path, config: MoondreamConfig, state: State, file: str = "model.safetensors") -> State:
    """Write a base that stores this state, load it, and give its parameters back."""
    write_tiny_base(folder, config=config)
    (folder / "model.safetensors").unlink()
    if file.endswith(".safetensors"):
        save_file(state, folder / file)
    else:
        torch.save(state, folder / file)
    return dict(load_base(str(folder), device="cpu").module.named_parameters())


def assert_equal(found: State, wanted: State) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("config", [WIDE, MOE], ids=["moondream2", "moondream3"])
@pytest.mark.parametrize("file", ["model.safetensors", "model.pt"])
def test_both_forms_of_names(tmp_path: Path, config: MoondreamConfig, file: str) -> None:
    state = seeded_state(config, 0, 1.6)
    old = old_form(state, moe=config is MOE)
    assert not set(old) & set(state)
    assert_equal(base_with(tmp_path / "old", config, old, file), state)
    prefixed = {f"model.{name}": tensor for name, tensor in state.items()}
    assert_equal(base_with(tmp_path / "new", config, prefixed, file), state)


def test_names_of_a_compiled_module_and_a_joint_tau(tmp_path: Path) -> None:
    """torch.compile leaves `_orig_mod` in names; kestrel's files have wq over wv in one matrix."""
    state = seeded_state(MOE, 0, 1.6)
    old = old_form(state, moe=True)
    for layer in range(2):
        parts = [old.pop(f"text_model.transformer.h.{layer}.tau_{part}") for part in ("wq", "wv")]
        old[f"text_model.transformer.h.{layer}.tau_wqwv"] = torch.cat(parts)
    old = {name.replace("text_model.", "text_model._orig_mod.", 1): tensor for name, tensor in old.items()}
    assert_equal(base_with(tmp_path, MOE, old), state)


def test_8_bit_experts_are_their_values_times_their_rows_scales(tmp_path: Path) -> None:
    state = seeded_state(MOE, 0, 1.6)
    old = old_form(state, moe=True)
    for part, scale in (("experts", "up_scale"), ("output_experts", "down_scale")):
        name = f"text_model.transformer.h.1.mlp.{part}.weight"
        row_scale = old[name].abs().amax(-1) / 448.0
        old[name] = (old[name] / row_scale.unsqueeze(-1)).to(torch.float8_e4m3fn)
        old[f"text_model.transformer.h.1.moe_quant.{scale}"] = row_scale
    wanted = dict(state)
    for own, part, scale in (("fc1", "experts", "up_scale"), ("fc2", "output_experts", "down_scale")):
        stored = old[f"text_model.transformer.h.1.mlp.{part}.weight"].float()
        wanted[f"text.blocks.1.mlp.{own}.weight"] = (
            stored * old[f"text_model.transformer.h.1.moe_quant.{scale}"][..., None]
        )
    for file in ("model.safetensors", "model_fp8.pt"):
        found = base_with(tmp_path / file, MOE, old, file)
        assert_equal(found, wanted)
    # e4m3 has 3 bits of mantissa: half a step is 1/16 of the value.
    torch.testing.assert_close(
        found["text.blocks.1.mlp.fc1.weight"], state["text.blocks.1.mlp.fc1.weight"], rtol=1 / 16, atol=1e-3
    )


def test_int4_by_hand() -> None:
    """q = 0..15 twice over: scale 0.5, zero 5, so w = (q - 5) / 2; group 0 in the high halves, group 1 in the low."""
    packed = (torch.arange(128) % 16 * 16 + 15 - torch.arange(128) % 16).to(torch.uint8)[None]
    stored = Int4(packed, torch.tensor([[0.5], [2.0]]), torch.tensor([[5.0], [0.0]]))
    weight = from_int4(stored, (2, 128))
    assert weight[0, :4].tolist() == [-2.5, -2.0, -1.5, -1.0]
    assert weight[1, :4].tolist() == [30.0, 28.0, 26.0, 24.0]
    again = to_int4(weight)
    assert torch.equal(again.packed, packed)
    torch.testing.assert_close(from_int4(again, (2, 128)), weight)


def test_int4_error_is_half_a_step(tmp_path: Path) -> None:
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    back = from_int4(to_int4(weight), (64, 256))
    groups = weight.reshape(-1, 128)
    step = (groups.amax(1) - groups.amin(1)) / 15
    assert ((back - weight).reshape(-1, 128).abs().amax(1) <= step * 0.5001).all()
    constant = torch.zeros(2, 128)
    assert torch.equal(from_int4(to_int4(constant), (2, 128)), constant)


def test_int4_files_load(tmp_path: Path) -> None:
    state = seeded_state(WIDE, 0, 1.6)
    stored, wanted = dict(state), dict(state)
    for layer in range(2):
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            own = f"text.blocks.{layer}.{name}.weight"
            packed = to_int4(stored.pop(own))
            stored |= {
                f"{own}.packed": packed.packed,
                f"{own}.scale": packed.scale,
                f"{own}.zero_point": packed.zero_point,
            }
            wanted[own] = from_int4(packed, tuple(state[own].shape))
    for file in ("model.safetensors", "model.pt"):
        assert_equal(base_with(tmp_path / file, WIDE, stored, file), wanted)
    del stored["text.blocks.0.mlp.fc1.weight.scale"]
    stored["text.blocks.1.mlp.fc1.weight.scale"] = torch.zeros(3, 1)
    with pytest.raises(InvalidField) as caught:
        base_with(tmp_path / "bad", WIDE, stored)
    for part in (
        "text.blocks.0.mlp.fc1.weight is missing",
        "text.blocks.0.mlp.fc1.weight.packed is not a parameter",
        "text.blocks.1.mlp.fc1.weight.scale has shape [3, 1], the config needs [256, 1]",
    ):
        assert part in caught.value.message


def test_every_misfit_of_old_names_is_listed_at_once(tmp_path: Path) -> None:
    old = old_form(seeded_state(MOE, 0, 1.6), moe=True)
    del old["text_model.transformer.h.1.gate.bias"]
    old["text_model.transformer.h.7.ln.bias"] = torch.zeros(2)
    old["region_model.size_features.weight"] = torch.zeros(2, 16)  # not the other way round
    old["text_model.transformer.h.1.mlp.experts.weight"] = old["text_model.transformer.h.1.mlp.experts.weight"].to(
        torch.float8_e4m3fn
    )  # without its scales
    with pytest.raises(InvalidField) as caught:
        base_with(tmp_path, MOE, old)
    assert len(caught.value.violations) == 4
    for part in (
        "text.blocks.1.mlp.router.bias is missing",
        "text_model.transformer.h.7.ln.bias is not a parameter",
        "region_model.size_features.weight has shape [2, 16], the config needs [16, 2]",
        "mlp.experts.weight is stored as F8_E4M3, allowed: F32, BF16, F16",
    ):
        assert part in caught.value.message


def test_a_torch_file_never_runs_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    write_tiny_base(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"text.wte": Evil()}, tmp_path / "model.pt")
    with pytest.raises(InvalidField, match="nothing that runs"):
        load_base(str(tmp_path))
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises((InvalidField, CheckpointCorrupt)):
        load_base(str(tmp_path))
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "weight_map", ['{"a": 3}', '{"a": ["b"]}', "[]", "3", '{"a": "../x"}', '{"a": "sub"}', "[" * 50_000]
)
def test_an_index_that_is_none(tmp_path: Path, weight_map: str) -> None:
    write_tiny_base(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "model.safetensors.index.json").write_text(f'{{"weight_map": {weight_map}}}')
    with pytest.raises(CheckpointCorrupt):
        load_base(str(tmp_path))


def test_tensors_without_values_are_not_read(tmp_path: Path) -> None:
    write_tiny_base(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(
        {name: tensor.to("meta") for name, tensor in seeded_state(CONFIG, 0, 1.6).items()}, tmp_path / "model.pt"
    )
    with pytest.raises(InvalidField, match="dense floating-point"):
        load_base(str(tmp_path))


def test_names_that_are_nobodys_stay_as_they_are() -> None:
    assert own_name("text.blocks.0.ln.weight") == "text.blocks.0.ln.weight"
    assert own_name("something.else") == "something.else"


MEASURE = """
import json, resource, sys
import torch
from moontune.model.base_model import load_base
def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
load_base(sys.argv[3], device="cpu")  # what libraries take at their first use is no copy of weights
before = {field: kib(field) for field in ("RssAnon", "VmHWM")}
base = load_base(sys.argv[1], device="cpu", dtype=getattr(torch, sys.argv[2]))
weights = sum(p.numel() * p.element_size() for p in base.module.parameters())
print(json.dumps({"weights": weights, "peak": (kib("VmHWM") - before["VmHWM"]) * 1024,
                  "anonymous": (kib("RssAnon") - before["RssAnon"]) * 1024}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_in_memory_once(tmp_path: Path, dtype: str) -> None:
    """fp32 as stored: mapped, no copy at all. bf16: one converted copy of the body, its file mapped beside it."""
    config = replace(CONFIG, text=replace(CONFIG.text, dim=768, heads=12, kv_heads=12, ff_dim=8192, layers=4))
    large, small = write_tiny_base(tmp_path / "large", config=config), write_tiny_base(tmp_path / "small")
    stored = (large / "model.safetensors").stat().st_size
    assert stored > 200e6
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(large), dtype, str(small)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    copies = 0.0 if dtype == "float32" else found["weights"]
    assert found["anonymous"] <= copies + 0.1 * stored
    assert found["peak"] <= stored + copies + 0.1 * stored
