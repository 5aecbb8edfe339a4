"""What a batch will run, worked out before any of it runs: prompts, room, and which groups share a prefix."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from moontune.engine.features import ImageFeatures
from moontune.engine.order import rollout_seed
from moontune.engine.rows import RowStart, least_room
from moontune.engine.scheduler import Entry
from moontune.errors import FieldViolation, InvalidField, MoontuneError
from moontune.imaging.crops import ImageCrops
from moontune.model.base_model import BaseModel
from moontune.model.prompt import Prompt, build_prompt
from moontune.values.image import Image
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill

PrefixKey = tuple[str, Prompt]
"""What makes two prefixes of one batch the same: the image's sha256 ("" without an image) and the prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class PlannedOrder:
    """An entry that is fit to run. length: positions of its prefix. room: positions each rollout may take."""

    entry: Entry
    prompt: Prompt
    length: int
    room: int

    @property
    def prefix_key(self) -> PrefixKey:
        """Equal for orders that share a prefix."""
        image = self.entry.order.request.image
        return ("" if image is None else image.sha256, self.prompt)

    @property
    def count(self) -> int:
        """Rollouts."""
        return self.entry.order.num_rollouts

    @property
    def settings(self) -> SamplingSettings:
        """Of every rollout."""
        return self.entry.order.request.settings

    @property
    def thinks(self) -> bool:
        """Whether its rollouts begin with reasoning."""
        return self.entry.order.request.reasoning

    def seeds(self) -> list[int]:
        """Of each rollout's generator."""
        return [rollout_seed(self.entry.order.seed, index) for index in range(self.count)]

    def row_start(self) -> RowStart:
        """Where each rollout begins."""
        return RowStart(self.entry.order.request, self.length, self.room)


def plan(entry: Entry, base: BaseModel) -> PlannedOrder:
    """Build the prompt and check the context; raises InvalidField when nothing fits behind the prompt."""
    request = entry.order.request
    prompt = build_prompt(request, base.config, base.tokenizer)
    length = (1 if request.image is None else base.config.prefix_length) + len(prompt)
    left = base.config.text.max_context - length
    least = least_room(request.skill)
    if left < least:
        field = "request.question" if request.skill is Skill.QUERY else "request.object"
        most = len(prompt) - (least - left)
        raise InvalidField.of(field, f"{len(prompt)} tokens with the template", f"at most {most} tokens")
    if request.settings.max_tokens < least:
        allowed = f"at least {least} for {request.skill}: one object takes that many"
        raise InvalidField.of("request.settings.max_tokens", request.settings.max_tokens, allowed)
    return PlannedOrder(entry, prompt, length, min(left, request.settings.max_tokens))


def plan_all(entries: Sequence[Entry], base: BaseModel) -> list[PlannedOrder]:
    """Plan what can be planned; entries that cannot are given their error."""
    planned: list[PlannedOrder] = []
    for entry in entries:
        try:
            planned.append(plan(entry, base))
        except InvalidField as error:
            entry.outcome = _at(error, entry.order.field)
    return planned


def collect_images(
    planned: Sequence[PlannedOrder], features: ImageFeatures, vision_adapter: str
) -> tuple[list[PlannedOrder], dict[str, Tensor]]:
    """Image tokens by sha256, encoding those not held, and the orders whose image could be read."""
    tokens: dict[str, Tensor] = {}
    fresh: dict[str, tuple[Image, ImageCrops]] = {}
    fit: list[PlannedOrder] = []
    for order in planned:
        image = order.entry.order.request.image
        try:
            if image is not None and image.sha256 not in tokens and image.sha256 not in fresh:
                held = features.held(image, vision_adapter)
                if held is None:
                    fresh[image.sha256] = (image, features.cut(image, order.entry.order.image_field))
                else:
                    tokens[image.sha256] = held
            fit.append(order)
        except MoontuneError as error:
            order.entry.outcome = error
    tokens.update(zip(fresh, features.encode(list(fresh.values()), vision_adapter), strict=True))
    return fit, tokens


def _at(error: InvalidField, field: str) -> InvalidField:
    """The same error with `request.` read as the caller's own path."""
    if field == "request":
        return error
    moved = [
        FieldViolation(each.field.replace("request", field, 1), each.description.replace("request", field, 1))
        for each in error.violations
    ]
    return type(error)(error.message.replace("request", field, 1), metadata={"field": field}, violations=moved)
