"""Two hundred random mixes of requests against a decoder that knows one row, one step and peft: the same choices."""

import random
from collections.abc import Callable
from pathlib import Path

import torch

from moontune.engine.engine import Engine
from moontune.engine.order import AdapterRef, GenerationOrder
from moontune.engine.settings import EngineSettings
from moontune.imaging.crops import CropLayout, cut_crops
from moontune.imaging.decode import decode_image
from moontune.model import sampling
from moontune.model.base_model import BaseModel, share_base
from moontune.model.decisions import Input, InputKind, Phase, suppressed_ids
from moontune.model.inputs import embed_inputs, prefill
from moontune.model.lora import Adapters
from moontune.model.prompt import build_prompt
from moontune.values.finetune import FinetuneKind, LoraTarget
from moontune.values.rollout import Head
from moontune.values.skill import Skill
from tests.moontune.engine.conftest import Caller, ask

MIXES = 200
CLOSE = 1e-4
Choices = list[tuple[Head, int]]


class Naive:
    """Greedy, one row, one position a pass, the adapter through peft; notes how far the second choice was behind."""

    def __init__(self, base: BaseModel) -> None:
        self.base = share_base(base)
        self.adapters = Adapters(self.base.module)

    @torch.no_grad()
    def decode(self, order: GenerationOrder) -> tuple[Choices, list[float]]:
        request, model, base = order.request, self.base.module, self.base
        if order.adapter is not None and order.adapter.digest[7:] not in self.adapters.names:
            self.adapters.load(order.adapter.digest[7:], Path(order.adapter.path))
        self.adapters.activate(None if order.adapter is None else order.adapter.digest[7:])
        image = None
        if request.image is not None and request.image.data is not None:
            vision = base.config.vision
            layout = CropLayout(vision.crop_size, vision.overlap_margin * vision.patch_size, vision.max_crops)
            image = model.encode_image(cut_crops(decode_image(request.image.data), layout))
        ready = prefill(model, [image], [build_prompt(request, base.config, base.tokenizer)], capacity=256)
        self.cache, self.hidden, self.at = ready.cache, ready.hidden_BD, int(ready.positions_B[0])
        self.choices: Choices = []
        self.margins: list[float] = []
        if request.skill in (Skill.QUERY, Skill.CAPTION):
            self._speak(request.settings.max_tokens, thinking=request.reasoning)
        else:
            self._find(request.settings.max_tokens, request.settings.max_objects, request.skill is Skill.DETECT)
        return self.choices, self.margins

    def _speak(self, room: int, thinking: bool) -> None:
        special, axes = self.base.config.tokenizer, 0
        for _ in range(room):
            forbidden = suppressed_ids(Phase.THINKING if thinking else Phase.ANSWER, self.base.config)
            token = self._choose(Head.TOKEN, self.base.module.token_logits(self.hidden)[0], forbidden)
            if not thinking and token == special.eos_id:
                return
            fed = Input(InputKind.TOKEN, token)
            if thinking and token == special.coord_id:
                head = (Head.X, Head.Y)[axes % 2]
                fed = Input(InputKind.COORD, self._choose(head, self.base.module.coord_logits(self.hidden)[0]))
                axes += 1
            thinking = thinking and token != special.answer_id
            self._feed(fed)

    def _find(self, room: int, most: int, sized: bool) -> None:
        model, each = self.base.module, 3 if sized else 2
        for _ in range(min(most, room // each)):
            if self._choose(Head.GO, model.go_logits(self.hidden)[0]) == 0:
                return
            for head in (Head.X, Head.Y):
                self._feed(Input(InputKind.COORD, self._choose(head, model.coord_logits(self.hidden)[0])))
            if sized:
                widths, heights = model.size_logits(self.hidden)[0]
                width, height = self._choose(Head.WIDTH, widths), self._choose(Head.HEIGHT, heights)
                self._feed(Input(InputKind.SIZE, width, height))

    def _choose(self, head: Head, logits: torch.Tensor, forbidden: tuple[int, ...] = ()) -> int:
        logits = logits.clone()
        logits[list(forbidden)] = -torch.inf
        (first, second), (choice, _) = logits.topk(2)
        self.choices.append((head, int(choice)))
        self.margins.append(float(first - second))
        return int(choice)

    def _feed(self, fed: Input) -> None:
        embeds = embed_inputs(self.base.module, [fed])[None]
        positions = torch.tensor([[self.at]])
        self.hidden = self.base.module.hidden(embeds, positions, cache=self.cache)[:, 0]
        self.at += 1


def test_two_hundred_mixes_choose_as_one_by_one(
    base: BaseModel, make_order: Callable[..., GenerationOrder], make_adapter: Callable[..., AdapterRef]
) -> None:
    draw, naive = random.Random(20), Naive(base)
    adapters = [
        None,
        make_adapter(61),
        make_adapter(62, rank=9),
        make_adapter(63, (LoraTarget.VISION, LoraTarget.TEXT_ATTENTION)),
        make_adapter(64, (LoraTarget.REGION,), rank=2),
        make_adapter(65, kind=FinetuneKind.LORA_REGION),
    ]
    pool: list[tuple[GenerationOrder, Choices, list[float]]] = []
    for number in range(32):
        skill = draw.choice([Skill.DETECT, Skill.POINT, Skill.QUERY, Skill.QUERY, Skill.CAPTION])
        request = ask(
            skill,
            draw.choice(["cup", "a long name of a thing", "why is it so?", "x"]),
            draw.randrange(6) if skill is not Skill.QUERY or draw.random() < 0.8 else None,
            temperature=0.0,
            max_tokens=draw.randrange(6, 18),
            reasoning=skill is Skill.QUERY and draw.random() < 0.4,
        )
        order = make_order(request, draw.randrange(1, 4), number, draw.choice(adapters))
        pool.append((order, *naive.decode(order)))
    assert {head for _, choices, _ in pool for head, _ in choices} == set(Head)
    engine = Engine(base, EngineSettings(max_sequences=12, prefix_cache_bytes=200_000, adapter_cache_bytes=800_000))
    settled_by_margin = 0
    for _ in range(MIXES):
        mix = [draw.choice(pool) for _ in range(draw.randrange(1, 6))]
        answers = engine.generate_all([(Caller(), order) for order, _, _ in mix])
        for answer, (_, choices, margins) in zip(answers, mix, strict=True):
            for rollout in answer.group.rollouts:
                got = [(each.head, each.choice) for each in rollout.decisions]
                if got != choices:
                    first = next(i for i, (a, b) in enumerate(zip(got, choices, strict=False)) if a != b)
                    assert margins[first] < CLOSE, f"decision {first} differs with a margin of {margins[first]}"
                    settled_by_margin += 1
    assert sampling.CLOSE <= CLOSE
    print(f"{settled_by_margin} rollouts differ at a margin below {CLOSE}")  # noqa: T201
    assert settled_by_margin <= 5, "near ties are rare"
