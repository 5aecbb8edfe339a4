"""What an order will run, worked out by its caller's thread before the model sees it: prompt, room, seeds."""

from dataclasses import dataclass

from moontune.engine.order import GenerationOrder, rollout_seed
from moontune.engine.rows import RowStart, least_room
from moontune.errors import FieldViolation, InvalidField
from moontune.model.base_model import BaseModel
from moontune.model.prompt import Prompt, build_prompt
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class PrefixKey:
    """What makes two prefixes the same, beside the engine's base. image: sha256, "" without one."""

    adapter: str
    image: str
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Plan:
    """An order that is fit to run. length: positions of its prefix. room: positions each rollout may take."""

    prompt: Prompt
    length: int
    room: int
    prefix: PrefixKey
    starts: tuple[RowStart, ...]

    @property
    def positions(self) -> int:
        """Of each rollout at most."""
        return self.length + self.room


def make_plan(order: GenerationOrder, base: BaseModel) -> Plan:
    """Build the prompt and check the context; raises InvalidField when nothing fits behind the prompt."""
    request = order.request
    try:
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
    except InvalidField as error:
        raise _at(error, order.field) from None
    room = min(left, request.settings.max_tokens)
    seeds = (rollout_seed(order.seed, index) for index in range(order.num_rollouts))
    key = PrefixKey(
        "" if order.adapter is None else order.adapter.digest,
        "" if request.image is None else request.image.sha256,
        prompt,
    )
    return Plan(prompt, length, room, key, tuple(RowStart(request, length, room, seed) for seed in seeds))


def _at(error: InvalidField, field: str) -> InvalidField:
    """The same error with `request.` read as the caller's own path."""
    if field == "request":
        return error
    moved = [
        FieldViolation(each.field.replace("request", field, 1), each.description.replace("request", field, 1))
        for each in error.violations
    ]
    return type(error)(error.message.replace("request", field, 1), metadata={"field": field}, violations=moved)
