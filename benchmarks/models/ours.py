"""Our side."""

from collections.abc import Callable

import torch

from benchmarks.models.work import DETECT, QUERY, TOKENS, Work, picture
from moontune.imaging.decode import decode_image
from moontune.model.conventions import UPSTREAM
from moontune.model.decisions import Input, InputKind
from moontune.model.moondream import Moondream
from moontune.model.moondream_family import MoondreamFamily
from moontune.model.single import generate
from moontune.values.request import SkillRequest
from moontune.values.rollout import Head
from tools.check_golden.stub_tokenizer import StubTokenizer


class Ours:
    """What is measured of us."""

    def __init__(self, model: Moondream) -> None:
        """Prepares what each row starts from."""
        self.family = MoondreamFamily(model, StubTokenizer())
        self.pixels = decode_image(picture())
        (self.tokens_PD,) = self.encode()
        self.prompt = self.family.prompt(DETECT)

    def encode(self) -> list[torch.Tensor]:
        """Pixels to image tokens."""
        return self.family.encode_images([self.family.crop(self.pixels)])

    def prefill(self) -> object:
        """Prefix and prompt, and the last position's logits."""
        ready = self.family.prefill([self.tokens_PD], [self.prompt])
        return ready, self.family.head_logits(Head.TOKEN, ready.hidden_BD)

    def decode(self) -> Callable[[], object]:
        """A prefilled row, and what feeds it TOKENS tokens."""
        ready = self.family.prefill([self.tokens_PD], [self.prompt])

        def run() -> None:
            at = ready
            for token in range(100, 100 + TOKENS):
                at = self.family.step(at, [Input(InputKind.TOKEN, token)])
                int(self.family.head_logits(Head.TOKEN, at.hidden_BD).argmax())

        return run

    def answer(self, request: SkillRequest) -> object:
        """Picture to answer."""
        made = generate(self.family, request, self.encode()[0], conventions=UPSTREAM)
        return self.family.read_output(request.skill, made.decisions, conventions=UPSTREAM)

    def work(self) -> Work:
        """Every row but decode, which is prepared anew each time."""
        return {
            "encode": self.encode,
            "prefill": self.prefill,
            "query": lambda: self.answer(QUERY),
            "detect": lambda: self.answer(DETECT),
        }
