"""Our Moondream 2 against tensors and answers of the public implementation, on the same seeded weights, fp32."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moontune.imaging.crops import CropLayout, ImageCrops, cut_crops
from moontune.imaging.decode import decode_image
from moontune.model import inputs
from moontune.model.codec import CoordDecoding, bin_to_coord, bin_to_size
from moontune.model.config import MoondreamConfig
from moontune.model.decisions import Input, InputKind, Phase
from moontune.model.inputs import Prefilled
from moontune.model.moondream import Moondream, normalise
from moontune.model.presets import MOONDREAM2
from moontune.model.prompt import Prompt
from moontune.model.sampling import allowed_tokens

MOST_TOKENS, MOST_OBJECTS = 8, 3


def small_config(folder: Path) -> MoondreamConfig:
    """The preset with the sizes of the golden config, whose names are the public implementation's."""
    tree = json.loads((folder / "config.json").read_text())
    text, vision, region = tree["text"], tree["vision"], tree["region"]
    return replace(
        MOONDREAM2,
        text=replace(
            MOONDREAM2.text,
            dim=text["dim"],
            ff_dim=text["ff_dim"],
            layers=text["n_layers"],
            heads=text["n_heads"],
            kv_heads=text["n_kv_heads"],
            vocab_size=text["vocab_size"],
            max_context=text["max_context"],
        ),
        vision=replace(
            MOONDREAM2.vision,
            dim=vision["enc_dim"],
            ff_dim=vision["enc_ff_dim"],
            layers=vision["enc_n_layers"],
            heads=vision["enc_n_heads"],
            max_crops=vision["max_crops"],
            overlap_margin=vision["overlap_margin"],
            projection_inner_dim=vision["proj_inner_dim"],
        ),
        region=replace(
            MOONDREAM2.region,
            coord_feature_dim=region["coord_feat_dim"],
            size_feature_dim=region["size_feat_dim"],
            inner_dim=region["inner_dim"],
        ),
    )


def fill(manifest: dict[str, dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """The README's rule: one generator, names in sorted order, std by shape, norms around 1, wte drawn twice."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for name in sorted(manifest):
        shape = manifest[name]["shape"]
        std = 1.0 if name.endswith("_features") else 1.6 / shape[-1] ** 0.5 if len(shape) >= 2 else 0.05
        drawn = torch.randn(shape, generator=generator) * std
        if name.endswith("weight") and (".ln" in name or "post_ln" in name):
            drawn += 1.0
        state[name] = torch.randn(shape, generator=generator) if name == "text.wte" else drawn
    return state


class Golden:
    """The small model, its image, and what the public implementation made of them."""

    def __init__(self, folder: Path) -> None:
        self.config = small_config(folder)
        self.tensors = load_file(folder / "tensors.safetensors")
        self.results = json.loads((folder / "results.json").read_text())
        self.manifest = json.loads((folder / "weights_manifest.json").read_text())
        self.state = fill(self.manifest)
        self.model = Moondream(self.config)
        self.model.load_state_dict(self.state)
        self.model.requires_grad_(False)
        vision = self.config.vision
        layout = CropLayout(vision.crop_size, vision.overlap_margin * vision.patch_size, vision.max_crops)
        self.crops: ImageCrops = cut_crops(decode_image((folder / "image.png").read_bytes()), layout)
        self.image_PD = self.model.encode_image(self.crops)

    def close(self, ours: torch.Tensor, name: str) -> None:
        """Equal to 1e-4 of the stored tensor's largest value."""
        theirs = self.tensors[name].reshape(ours.shape)
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max(), name

    def prompt(self, prefix: tuple[int, ...], text: str, suffix: tuple[int, ...]) -> Prompt:
        return Prompt((*prefix, *(byte + 64 for byte in text.encode()), *suffix))

    def prefill(self, prompt: Prompt, with_image: bool = True) -> Prefilled:
        return inputs.prefill(self.model, [self.image_PD if with_image else None], [prompt], capacity=800)

    def feed(self, ready: Prefilled, item: Input | torch.Tensor) -> Prefilled:
        embeds_1D = item if isinstance(item, torch.Tensor) else inputs.embed_inputs(self.model, [item])
        hidden = self.model.hidden(embeds_1D[None], ready.positions_B[:, None], cache=ready.cache)
        return Prefilled(ready.cache, hidden[:, -1], ready.positions_B + 1)

    def say(self, ready: Prefilled, phase: Phase, free_first: bool) -> tuple[list[int], Prefilled]:
        """Greedy tokens, at most MOST_TOKENS; upstream suppresses nothing at the answer's first token."""
        allowed = allowed_tokens([phase], self.config, self.model.device)
        special, said = self.config.tokenizer, list[int]()
        end = special.eos_id if phase is Phase.ANSWER else special.answer_id
        while len(said) < MOST_TOKENS:
            logits = self.model.token_logits(ready.hidden_BD)
            token = int((logits if free_first and not said else logits.masked_fill(~allowed, -1e9)).argmax())
            if token == end:
                break
            said.append(token)
            ready = self.feed(ready, Input(InputKind.TOKEN, token))
        return said, ready

    def find(self, ready: Prefilled, sizes: bool) -> list[dict[str, float]]:
        """Greedy objects in upstream's manner: go on unless the whole vocabulary's argmax is eos; bins over 1024."""
        found: list[dict[str, float]] = []
        while len(found) < MOST_OBJECTS:
            if int(self.model.token_logits(ready.hidden_BD).argmax()) == self.config.tokenizer.eos_id:
                break
            centre: list[float] = []
            for _ in range(2):
                index = int(self.model.coord_logits(ready.hidden_BD).argmax())
                value = bin_to_coord(index, decoding=CoordDecoding.UPSTREAM)
                centre.append(value)
                ready = self.feed(ready, self.model.embed_coords(torch.tensor([value])))
            if not sizes:
                found.append({"x": centre[0], "y": centre[1]})
                continue
            pair = [bin_to_size(int(index)) for index in self.model.size_logits(ready.hidden_BD)[0].argmax(-1)]
            (x, y), (width, height) = centre, pair
            found.append(
                {"x_min": x - width / 2, "y_min": y - height / 2, "x_max": x + width / 2, "y_max": y + height / 2}
            )
            ready = self.feed(ready, self.model.embed_sizes(torch.tensor([pair])))
        return found


def shown(ids: list[int]) -> str:
    """Ids as results.json shows them: a printable byte as itself, the others in angle brackets."""
    return "".join(chr(i - 64) if 32 <= i - 64 < 127 else f"<{i}>" for i in ids)


@pytest.fixture(scope="module")
def g(golden: Path) -> Golden:
    folder = golden / "moondream2_seed0"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return Golden(folder)


def test_the_fill_is_right(g: Golden) -> None:
    assert {name: list(p.shape) for name, p in g.model.named_parameters()} == {
        name: entry["shape"] for name, entry in g.manifest.items()
    }
    for name, entry in g.manifest.items():
        assert g.state[name].double().abs().sum().item() == pytest.approx(entry["abs_sum"], rel=1e-6), name


def test_crops(g: Golden) -> None:
    assert list(g.crops.tiling) == g.results["tiling"]
    pixels = normalise(torch.from_numpy(g.crops.pixels))
    torch.testing.assert_close(pixels[:, :, :8, :8], g.tensors["crops_corner"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.mean(dim=(1, 2, 3)), g.tensors["crops_mean_per_crop"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pixels.flatten(1).std(dim=1), g.tensors["crops_std_per_crop"], atol=1e-5, rtol=0)


def test_tensors(g: Golden) -> None:
    model, special = g.model, g.config.tokenizer
    g.close(model.encode_crops(normalise(torch.from_numpy(g.crops.pixels))), "vision_encoder")
    g.close(g.image_PD, "image_embeds")
    prompt = g.prompt(special.detect.prefix, " thing", special.detect.suffix)
    embeds = torch.cat((inputs.embed_prefix(model, g.image_PD), inputs.embed_prompt(model, prompt)))
    segments = torch.tensor([[inputs.PREFIX] * g.config.prefix_length + [inputs.PROMPT] * len(prompt)])
    hidden = model.hidden(embeds[None], torch.arange(len(embeds))[None], inputs.segment_mask(segments))
    g.close(hidden, "full_hidden")
    g.close(model.token_logits(hidden[:, -1]), "full_logits_last")
    g.close(model.coord_logits(hidden[:, -1]), "coord_logits_last")
    g.close(model.size_logits(hidden[0, -1]), "size_logits_last")
    g.close(model.embed_coords(torch.tensor([0.0, 0.25, 0.5, 1.0])), "coord_embed")
    g.close(model.embed_sizes(torch.tensor([[0.1, 0.2], [0.5, 1.0]])), "size_embed")


def test_query(g: Golden) -> None:
    query = g.config.tokenizer.query
    ready = g.prefill(g.prompt(query.prefix, "what is it?", query.suffix))
    assert shown(g.say(ready, Phase.ANSWER, True)[0]) == g.results["query"]["answer"]


def test_query_with_reasoning(g: Golden) -> None:
    special = g.config.tokenizer
    ready = g.prefill(g.prompt(special.query.prefix, "how many?", special.reasoning_suffix))
    thoughts, ready = g.say(ready, Phase.THINKING, False)
    assert shown(thoughts) == g.results["query_reasoning"]["reasoning"]["text"]
    ready = g.feed(ready, Input(InputKind.TOKEN, special.answer_id))
    assert shown(g.say(ready, Phase.ANSWER, True)[0]) == g.results["query_reasoning"]["answer"]


@pytest.mark.parametrize("box", [False, True], ids=["point", "box"])
def test_query_about_a_place(g: Golden, box: bool) -> None:
    special = g.config.tokenizer
    markers = (special.coord_id,) * 2 + ((special.size_id,) if box else ())
    coords, sizes = ((0.3, 0.5), ((5, (0.4, 0.6)),)) if box else ((0.25, 0.5), ())
    plain = g.prompt((*special.query.prefix, *markers), "what?", special.query.suffix)
    prompt = replace(plain, coords=((3, coords[0]), (4, coords[1])), sizes=sizes)
    wanted = g.results["query_box_ref" if box else "query_point_ref"]["answer"]
    assert shown(g.say(g.prefill(prompt), Phase.ANSWER, True)[0]) == wanted


def test_query_of_text_only(g: Golden) -> None:
    query = g.config.tokenizer.query
    ready = g.prefill(g.prompt(query.prefix, "hello", query.suffix), with_image=False)
    assert shown(g.say(ready, Phase.ANSWER, True)[0]) == g.results["query_text_only"]["answer"]


def test_caption(g: Golden) -> None:
    ready = g.prefill(Prompt(g.config.tokenizer.caption.short))
    assert shown(g.say(ready, Phase.ANSWER, True)[0]) == g.results["caption_short"]["caption"]


@pytest.mark.parametrize("skill", ["detect", "point"])
def test_objects(g: Golden, skill: str) -> None:
    template = g.config.tokenizer.detect if skill == "detect" else g.config.tokenizer.point
    ready = g.prefill(g.prompt(template.prefix, " thing", template.suffix))
    found = g.find(ready, sizes=skill == "detect")
    wanted = g.results[skill]["objects" if skill == "detect" else "points"]
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_nothing_shown_is_left_unread(g: Golden) -> None:
    """The ids in results.json have the form that `shown` writes; else comparing text would prove less."""
    assert re.fullmatch(r"(<\d+>)+", g.results["query"]["answer"])
