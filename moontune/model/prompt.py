"""What the model is asked, as token ids: the templates of the base's config around the user's text.

A place that the question refers to stands in the prompt as marker tokens whose embeddings are replaced: coord, coord
for a point; coord, coord, size for a box (its centre, then its width and height). BOS and image are not part of a
prompt; they are the prefix.
"""

from dataclasses import dataclass

from moontune.errors import InvalidField
from moontune.model.config import MoondreamConfig
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Point
from moontune.values.request import SkillRequest, SpatialRef
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class Prompt:
    """ids: the tokens. coords, sizes: at which index of `ids` the embedding is that of a value in 0..1 instead."""

    ids: tuple[int, ...]
    coords: tuple[tuple[int, float], ...] = ()
    sizes: tuple[tuple[int, tuple[float, float]], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


def build_prompt(request: SkillRequest, config: MoondreamConfig, tokenizer: Tokenizer) -> Prompt:
    """The prompt of a validated request; raises InvalidField when it leaves no room in the context or has none."""
    special = config.tokenizer
    if request.skill is Skill.CAPTION:
        template = {
            "short": special.caption.short,
            "normal": special.caption.normal,
            "long": special.caption.long,
        }[request.length]
        if not template:
            raise InvalidField.of("request.skill", "caption", f"query, point or detect: {config.name} has no captions")
        return Prompt(template)
    if request.skill is Skill.QUERY:
        if request.reasoning and not special.reasoning_suffix:
            raise InvalidField.of("request.reasoning", True, f"false: {config.name} was not trained to reason")
        template, text = special.query, special.question_text.replace("{question}", request.question)
        suffix = special.reasoning_suffix if request.reasoning else template.suffix
    else:
        template = special.detect if request.skill is Skill.DETECT else special.point
        text, suffix = special.object_text.replace("{object}", request.object), template.suffix
    ids = list(template.prefix)
    coords: list[tuple[int, float]] = []
    sizes: list[tuple[int, tuple[float, float]]] = []
    for ref in request.spatial_refs:
        _add_ref(ref, config, ids, coords, sizes)
    prompt = Prompt((*ids, *tokenizer.encode(text), *suffix), tuple(coords), tuple(sizes))
    _check_room(prompt, request, config)
    return prompt


def _add_ref(
    ref: SpatialRef,
    config: MoondreamConfig,
    ids: list[int],
    coords: list[tuple[int, float]],
    sizes: list[tuple[int, tuple[float, float]]],
) -> None:
    special = config.tokenizer
    x, y = (ref.x, ref.y) if isinstance(ref, Point) else ((ref.x_min + ref.x_max) / 2, (ref.y_min + ref.y_max) / 2)
    for value in (x, y):
        coords.append((len(ids), value))
        ids.append(special.coord_id)
    if not isinstance(ref, Point):
        sizes.append((len(ids), (ref.x_max - ref.x_min, ref.y_max - ref.y_min)))
        ids.append(special.size_id)


def _check_room(prompt: Prompt, request: SkillRequest, config: MoondreamConfig) -> None:
    room = config.text.max_context - (config.prefix_length if request.image is not None else 1) - 1
    if len(prompt) > room:
        field = "request.question" if request.skill is Skill.QUERY else "request.object"
        raise InvalidField.of(field, f"{len(prompt)} tokens with the template", f"at most {room} tokens")
