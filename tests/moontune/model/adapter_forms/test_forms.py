"""Every form there and back, and what each refuses."""

import pickle
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moontune.checkpoints import Manifest
from moontune.errors import CheckpointCorrupt, InvalidField, WrongBase
from moontune.model.adapter_forms import export_adapter, export_full, import_adapter
from moontune.model.adapter_tensors import AdapterTensors
from moontune.model.base_model import BaseModel, load_base, share_base
from moontune.model.lora import Adapters
from moontune.model.lora_layers import target_layers
from moontune.model.merged import merged_weight
from moontune.model.moondream import Moondream
from moontune.model.quantisation import from_int4, to_int4
from moontune.values.adapter import ExportKind, ImportKind, download_form
from moontune.values.finetune import AttentionWiring, FinetuneKind, LoraSettings, LoraTarget
from tests.fakes.adapters import draw
from tests.fakes.tiny_base import CONFIG, write_tiny_base

MLP = LoraSettings(4, 6.0, (LoraTarget.TEXT_MLP,))
TEXT = LoraSettings(4, 6.0)
WIRED = replace(TEXT, wiring=AttentionWiring.BLOCK_INPUT)
ALL = LoraSettings(2, 3.0, tuple(LoraTarget))


def assert_same(one: AdapterTensors, other: AdapterTensors) -> None:
    """The same deltas; the scale may have moved into B."""
    assert one.lora.rank == other.lora.rank
    assert set(one.lora.targets) == set(other.lora.targets)
    assert one.lora.wiring is other.lora.wiring
    assert one.layers.keys() == other.layers.keys()
    for name, pair in one.layers.items():
        torch.testing.assert_close(pair.a, other.layers[name].a)
        torch.testing.assert_close(pair.b * one.scale, other.layers[name].b * other.scale)
    assert one.full.keys() == other.full.keys()
    assert all(torch.equal(tensor, other.full[name]) for name, tensor in one.full.items())


@pytest.mark.parametrize(
    ("kind", "lora", "region"),
    [("peft", ALL, False), ("peft", TEXT, True), ("peft", WIRED, False), ("photon", MLP, False)],
)
def test_there_and_back(base: BaseModel, out: Path, kind: str, lora: LoraSettings, region: bool) -> None:
    adapter = draw(base.config, lora, region=region)
    export_adapter(ExportKind(kind), adapter, base, out)
    assert_same(import_adapter(ImportKind(kind), out, base.config).adapter, adapter)


def test_variant_there_and_back(base: BaseModel, out: Path) -> None:
    lora = WIRED if base.config.text.moe is None else replace(WIRED, targets=(LoraTarget.TEXT_ATTENTION,))
    adapter = draw(base.config, lora)
    export_adapter(ExportKind.VARIANT, adapter, base, out)
    found = import_adapter(ImportKind.VARIANT, out, base.config)
    back = found.adapter
    assert back.lora.scale == 1.0
    for name, pair in adapter.layers.items():
        torch.testing.assert_close(pair.b @ pair.a * adapter.scale, back.layers[name].b @ back.layers[name].a)
    others = [pair for name, pair in back.layers.items() if name not in adapter.layers]
    assert set(back.layers) == set(target_layers(base.config, back.lora))
    assert all(not pair.b.any() for pair in others)
    moe_layers = [index for index in range(base.config.text.layers) if base.config.text.is_moe(index)]
    assert len(found.inert) == 4 * len(moe_layers)


def test_photon_files_are_what_photon_reads(base: BaseModel, out: Path) -> None:
    """Names and shapes of kestrel's class: up is fc1, experts are counted from the first layer that has them."""
    adapter = draw(base.config, MLP)
    export_adapter(ExportKind.PHOTON, adapter, base, out)
    stored = torch.load(out / "lora.pt", weights_only=True)["lora_state_dict"]
    assert stored["text_lora.dense.0.up_a"].shape == (4, 48)
    assert stored["text_lora.dense.0.up_b"].shape == (96, 4)
    assert stored["text_lora.dense.0.down_a"].shape == (4, 96)
    torch.testing.assert_close(stored["text_lora.dense.0.down_b"], 1.5 * adapter.layers["text.blocks.0.mlp.fc2"].b)
    if base.config.text.moe is not None:
        assert stored["text_lora.moe.0.up_a"].shape == (4, 2, 48)
        assert stored["text_lora.moe.0.up_b"].shape == (4, 48, 2)
        assert stored["text_lora.moe.0.down_a"].shape == (4, 2, 24)
        assert stored["text_lora.moe.0.down_b"].shape == (4, 48, 2)


def test_photons_second_copy_is_read_and_must_be_the_same(base: BaseModel, out: Path) -> None:
    adapter = draw(base.config, MLP)
    export_adapter(ExportKind.PHOTON, adapter, base, out)
    stored = torch.load(out / "lora.pt", weights_only=True)["lora_state_dict"]
    second = {name.replace("text_lora.", "_text."): tensor for name, tensor in stored.items()}
    torch.save({"lora_state_dict": second}, out / "lora.pt")
    assert_same(import_adapter(ImportKind.PHOTON, out, base.config).adapter, adapter)
    second["_text.dense.0.up_a"] = second["_text.dense.0.up_a"] + 1
    torch.save({"lora_state_dict": stored | second, "step": 3}, out / "lora.pt")
    with pytest.raises(InvalidField, match=r"dense\.0\.up_a differs from its other copy"):
        import_adapter(ImportKind.PHOTON, out, base.config)


@pytest.mark.parametrize(
    ("kind", "lora", "region", "named"),
    [
        ("photon", TEXT, False, r"text\.blocks\.1\.attn\.proj is not an MLP"),
        ("photon", MLP, True, r"region\.coord_features is not an MLP"),
        ("photon", replace(MLP, targets=(LoraTarget.VISION,)), False, r"vision\.proj_mlp\.fc2 is not an MLP"),
        ("variant", TEXT, False, r"text\.blocks\.0\.attn\.proj is wired the ordinary way.*blocks\.1\.attn\.proj"),
        ("variant", WIRED, True, r"region\.size_features is not in the form"),
        (
            "variant",
            replace(WIRED, targets=tuple(LoraTarget)),
            False,
            r"vision\.blocks\.0\.attn\.qkv is not in the form",
        ),
        ("merged", WIRED, False, r"text\.blocks\.0\.shortcut.*text\.blocks\.1\.shortcut adds to the block"),
        ("int4", WIRED, False, r"text\.blocks\.0\.shortcut"),
    ],
)
def test_what_a_form_cannot_carry_is_listed(
    base: BaseModel, out: Path, kind: str, lora: LoraSettings, region: bool, named: str
) -> None:
    with pytest.raises(InvalidField, match=named):
        export_adapter(ExportKind(kind), draw(base.config, lora, region=region), base, out)
    assert not out.exists()


def test_expert_deltas_do_not_go_into_the_variant_form(base: BaseModel, out: Path) -> None:
    if base.config.text.moe is None:
        pytest.skip("no experts")
    with pytest.raises(InvalidField, match=r"text\.blocks\.1\.mlp\.fc1 is a delta of experts"):
        export_adapter(ExportKind.VARIANT, draw(base.config, WIRED), base, out)


def community_file(base: BaseModel, folder: Path, rank: int = 3, region: bool = True) -> dict[str, torch.Tensor]:
    """As that trainer writes it: A [in, r], B [r, out], neither rank nor alpha in the file."""
    generator = torch.Generator().manual_seed(5)
    state: dict[str, torch.Tensor] = {}
    for name, shape in target_layers(base.config, LoraSettings(rank)).items():
        state[f"{name}.lora_A"] = torch.randn(shape.in_features, rank, generator=generator)
        state[f"{name}.lora_B"] = torch.randn(rank, shape.out_features, generator=generator)
    if region:
        state |= {name: p.detach() + 0.5 for name, p in base.module.named_parameters() if name.startswith("region.")}
    folder.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, folder / "moondream_lora_finetune.safetensors"
    )
    return state


@pytest.mark.parametrize(("alpha", "scale"), [(None, 64 / 3), (6.0, 2.0)])
def test_community_import(base: BaseModel, out: Path, alpha: float | None, scale: float) -> None:
    if base.config.text.moe is not None:
        pytest.skip("that trainer is for Moondream 2")
    state = community_file(base, out)
    adapter = import_adapter(ImportKind.COMMUNITY, out, base.config, alpha=alpha).adapter
    assert (adapter.lora.rank, adapter.kind) == (3, FinetuneKind.LORA_REGION)
    assert adapter.scale == pytest.approx(scale)
    pair = adapter.layers["text.blocks.1.mlp.fc2"]
    wanted = state["text.blocks.1.mlp.fc2.lora_A"] @ state["text.blocks.1.mlp.fc2.lora_B"]
    torch.testing.assert_close(pair.b @ pair.a, wanted.T)
    assert torch.equal(adapter.full["region.coord_features"], state["region.coord_features"])


def test_community_files_that_do_not_fit(base: BaseModel, out: Path) -> None:
    if base.config.text.moe is not None:
        pytest.skip("that trainer is for Moondream 2")
    state = community_file(base, out)
    (file,) = out.iterdir()
    del state["region.size_features"]
    state["text.blocks.0.attn.qkv.lora_B"] = torch.zeros(3, 7)
    del state["text.blocks.1.attn.qkv.lora_A"], state["text.blocks.1.attn.qkv.lora_B"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    with pytest.raises(InvalidField) as caught:
        import_adapter(ImportKind.COMMUNITY, out, base.config)
    for part in (
        "region.size_features is missing",
        "text.blocks.1.attn.qkv is missing",
        "text.blocks.0.attn.qkv.B has shape [7, 3], allowed: [144, 3]",
    ):
        assert part in caught.value.message
    save_file({"text.wte": torch.zeros(2)}, file)
    with pytest.raises(InvalidField, match=r"text\.wte is neither a LoRA"):
        import_adapter(ImportKind.COMMUNITY, out, base.config)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_hostile_and_damaged_torch_files(base: BaseModel, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.mkdir()
    file = out / "final.pt"
    torch.save({"lora_state_dict": {"text_lora.dense.0.up_a": Evil()}}, file)
    with pytest.raises(InvalidField, match="tensors and nothing that runs"):
        import_adapter(ImportKind.PHOTON, out, base.config)
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises((InvalidField, CheckpointCorrupt)):
        import_adapter(ImportKind.VARIANT, out, base.config)
    torch.save({"lora_state_dict": {"a": torch.zeros(1).expand(10**12)}}, file)  # 4 bytes that claim 4 TB
    with pytest.raises(InvalidField, match="dense floating-point"):
        import_adapter(ImportKind.PHOTON, out, base.config)
    torch.save({"lora_state_dict": {"a": 3, 4: torch.zeros(1)}}, file)
    with pytest.raises(InvalidField, match=r"'a' \(int\), 4"):
        import_adapter(ImportKind.PHOTON, out, base.config)
    torch.save([1, 2], file)
    with pytest.raises(InvalidField, match="tensors by name"):
        import_adapter(ImportKind.VARIANT, out, base.config)
    torch.save({"lora_state_dict": {}}, file)
    with pytest.raises(InvalidField, match="no tensors"):
        import_adapter(ImportKind.PHOTON, out, base.config)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CheckpointCorrupt, match="not a whole torch file"):
        import_adapter(ImportKind.VARIANT, out, base.config)
    assert "ran" not in capsys.readouterr().out


def test_an_adapter_for_another_base(base: BaseModel, out: Path) -> None:
    wider = replace(base.config, text=replace(base.config.text, ff_dim=128))
    export_adapter(ExportKind.PHOTON, draw(wider, MLP), replace(base, config=wider), out)
    with pytest.raises(InvalidField, match=r"blocks\.0\.mlp\.fc1\.B has shape \[128, 4\], allowed: \[96, 4\]"):
        import_adapter(ImportKind.PHOTON, out, base.config)


def test_ranks_beyond_the_limit(base: BaseModel, out: Path) -> None:
    limited = replace(base.config, limits=replace(base.config.limits, max_lora_rank=3))
    export_adapter(ExportKind.PHOTON, draw(base.config, MLP), base, out)
    with pytest.raises(InvalidField, match=r"adapter\.rank is 4; allowed: 1 to 3"):
        import_adapter(ImportKind.PHOTON, out, limited)


def test_a_rank_that_experts_cannot_share_evenly(base: BaseModel, out: Path) -> None:
    """Each of 2 experts per token gets rank 2 of 3; Photon would read 1."""
    if base.config.text.moe is None:
        pytest.skip("no experts")
    adapter = draw(base.config, replace(MLP, rank=3))
    assert adapter.layers["text.blocks.1.mlp.fc1"].a.shape == (4, 2, 48)
    with pytest.raises(InvalidField, match=r"rank is 3; allowed: a multiple of 2"):
        export_adapter(ExportKind.PHOTON, adapter, base, out)
    export_adapter(ExportKind.PEFT, adapter, base, out)
    assert_same(import_adapter(ImportKind.PEFT, out, base.config).adapter, adapter)


def test_alpha_is_the_communitys_alone_and_a_folder_holds_one_form(base: BaseModel, out: Path) -> None:
    export_adapter(ExportKind.PHOTON, draw(base.config, MLP), base, out)
    with pytest.raises(InvalidField, match=r"alpha is 3\.0; allowed: unset"):
        import_adapter(ImportKind.PHOTON, out, base.config, alpha=3.0)
    (out / "more.pt").write_bytes(b"")
    with pytest.raises(InvalidField, match="one file ending in"):
        import_adapter(ImportKind.PHOTON, out, base.config)


def test_the_download_is_photons_where_that_can_carry_it() -> None:
    assert download_form(FinetuneKind.LORA, MLP) is ExportKind.PHOTON
    assert download_form(FinetuneKind.LORA, TEXT) is ExportKind.PEFT
    assert download_form(FinetuneKind.LORA_REGION, MLP) is ExportKind.PEFT


def test_a_merged_folder_holds_the_weights_that_the_adapter_gives(base: BaseModel, out: Path) -> None:
    adapter = draw(base.config, ALL, region=False)
    export_adapter(ExportKind.MERGED, adapter, base, out)
    merged, plain = load_file(out / "model.safetensors"), load_file(base.path / "model.safetensors")
    assert merged.keys() == plain.keys()
    pair = adapter.layers["vision.blocks.1.attn.proj"]
    torch.testing.assert_close(
        merged["vision.blocks.1.attn.proj.weight"], plain["vision.blocks.1.attn.proj.weight"] + 1.5 * pair.b @ pair.a
    )
    assert torch.equal(merged["text.wte"], plain["text.wte"])


@torch.no_grad()
@pytest.mark.parametrize("kind", [ExportKind.MERGED, ExportKind.INT4])
def test_a_merged_folder_answers_as_the_adapter_does(tmp_path: Path, kind: ExportKind) -> None:
    """Through the files, loaded as a base; in int4 nearer to the adapter than to the base."""
    text = replace(CONFIG.text, dim=128, ff_dim=256, heads=2, kv_heads=2)
    base = load_base(
        str(write_tiny_base(tmp_path / "base", config=replace(CONFIG, text=text), scale=0.5)), device="cpu"
    )
    adapter = draw(base.config, LoraSettings(2, 2.0), region=True)
    export_adapter(kind, adapter, base, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    packed = "text.blocks.1.mlp.fc2.weight.packed"
    assert (packed in stored) is (kind is ExportKind.INT4)
    assert stored["region.coord_encoder.weight"].dtype == torch.float32
    merged = load_base(str(tmp_path / "out"), device="cpu").module
    acting = Adapters(share_base(base).module)
    acting.attach_tensors("a", adapter)
    acting.activate("a")

    def answer(model: Moondream) -> torch.Tensor:
        hidden = model.hidden(model.embed_tokens(torch.tensor([[1, 40, 3]])), torch.arange(3)[None])[0]
        return torch.cat((model.token_logits(hidden), model.coord_logits(hidden)), dim=1)

    wanted, found, bare = answer(acting._module), answer(merged), answer(base.module)
    if kind is ExportKind.MERGED:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    else:
        assert stored[packed].shape == (128, 128)  # 128 x 256 values, two in a byte
        layer = "text.blocks.1.mlp.fc2"
        exact = merged_weight(base.module.get_submodule(layer).weight, layer, adapter)
        torch.testing.assert_close(merged.get_submodule(layer).weight, from_int4(to_int4(exact), (128, 256)))
        assert (found - wanted).norm() < 0.5 * (bare - wanted).norm()


@torch.no_grad()
@pytest.mark.parametrize("targets", [(LoraTarget.TEXT_MLP,), tuple(LoraTarget)], ids=["text", "vision too"])
def test_a_full_finetune_is_exported_as_a_base(
    base: BaseModel, tmp_path: Path, targets: tuple[LoraTarget, ...]
) -> None:
    """Its tensors in the place of the base's; what it does not train stays the base's."""
    adapters = Adapters(share_base(base).module)
    adapters.attach("f", LoraSettings(targets=targets), FinetuneKind.FULL)
    for parameter in adapters.parameters("f").values():
        parameter += 0.25
    adapters.save("f", tmp_path / "step")
    export_full(ExportKind.MERGED, tmp_path / "step", base, tmp_path / "out")
    found = dict(load_base(str(tmp_path / "out"), device="cpu").module.named_parameters())
    for name, parameter in base.module.named_parameters():
        trained = LoraTarget.VISION in targets or not name.startswith("vision.")
        assert torch.equal(found[name], parameter + 0.25 if trained else parameter), name
    with pytest.raises(InvalidField, match="merged or int4"):
        export_full(ExportKind.PHOTON, tmp_path / "step", base, tmp_path / "photon")
    save_file({"text.wte": torch.zeros(2)}, tmp_path / "step" / "adapter_model.safetensors")
    with pytest.raises(CheckpointCorrupt, match="does not hold the tensors of this finetune"):
        export_full(ExportKind.MERGED, tmp_path / "step", base, tmp_path / "damaged")


def test_an_adapter_of_another_bases_digest_is_refused(base: BaseModel, out: Path) -> None:
    """The same shapes, other weights: only the manifest beside the files tells."""
    adapter = draw(base.config, TEXT)
    export_adapter(ExportKind.PEFT, adapter, base, out)
    made_on = "sha256:" + "1" * 64
    manifest = Manifest(
        checkpoint_id="c",
        finetune_id="f",
        finetune_name="name",
        organisation="local",
        base="elsewhere",
        base_digest=made_on,
        lora=TEXT,
        step=1,
        adapter_digest="sha256:" + "2" * 64,
        created_at=datetime(2026, 11, 21, tzinfo=UTC),
        files=(),
    )
    (out / "manifest.json").write_text(manifest.to_json())
    with pytest.raises(WrongBase, match=f"made on base elsewhere \\({made_on}\\); this base is {base.digest}"):
        import_adapter(ImportKind.PEFT, out, base.config, base_digest=base.digest)
    assert_same(import_adapter(ImportKind.PEFT, out, base.config, base_digest=made_on).adapter, adapter)
    (out / "manifest.json").unlink()
    assert_same(import_adapter(ImportKind.PEFT, out, base.config, base_digest=base.digest).adapter, adapter)
