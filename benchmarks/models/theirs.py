"""The public implementation's side."""

import io
from collections.abc import Callable

import torch
from PIL import Image as PillowImage

from benchmarks.models.work import OBJECT, OBJECTS, QUESTION, TOKENS, Work, picture
from tools.check_golden.stub_tokenizer import StubTokenizer
from tools.public_moondream import PublicMoondream


class Theirs:
    """The same of the public implementation."""

    def __init__(self, public: PublicMoondream) -> None:
        """Prepares what each row starts from."""
        self.public, self.model = public, public.model
        self.image = PillowImage.open(io.BytesIO(picture())).convert("RGB")
        self.tokens_PD = self.model._run_vision_encoder(self.image)
        special = self.model.config.tokenizer
        template, stub = special.templates["detect"], StubTokenizer()
        self.prompt = torch.tensor([template["prefix"] + stub.encode(f" {OBJECT}") + template["suffix"]])
        self.settings = public.settings(max_tokens=TOKENS, max_objects=OBJECTS)

    def prefill(self) -> object:
        """As its encode_image and detect do: the prefix into the cache, then the prompt behind it."""
        text, model = self.public.module("text"), self.model
        bos = text.text_encoder(torch.tensor([[model.config.tokenizer.bos_id]]), model.text)
        embeds = torch.cat([bos, self.tokens_PD[None]], dim=1)
        length = embeds.shape[1]
        model._prefill(embeds, model.attn_mask[:, :, :length, :], torch.arange(length), None)
        return model._prefill_prompt(self.prompt, length, 0, 0)

    def decode(self) -> Callable[[], object]:
        """As its generate loop does."""
        text, model = self.public.module("text"), self.model
        *_, start = self.prefill()  # pyright: ignore[reportGeneralTypeIssues]

        def run() -> None:
            mask = torch.zeros(1, 1, model.config.text.max_context, dtype=torch.bool)
            mask[:, :, :start] = True
            for at, token in enumerate(range(100, 100 + TOKENS), start):
                mask[:, :, at] = True
                embeds = text.text_encoder(torch.tensor([[token]]), model.text)
                logits, _ = model._decode_one_tok(embeds, mask, torch.tensor([at]), None)
                int(logits.argmax())

        return run

    def work(self) -> Work:
        """Every row but decode."""
        return {
            "encode": lambda: self.model._run_vision_encoder(self.image),
            "prefill": self.prefill,
            "query": lambda: self.model.query(self.image, QUESTION, reasoning=False, settings=self.settings),
            "detect": lambda: self.model.detect(self.image, OBJECT, settings=self.settings),
        }
