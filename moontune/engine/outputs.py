"""From decisions back to what the model said: text by the tokenizer, points and boxes by the codec, clipped to 0..1."""

from collections.abc import Sequence

from moontune.model.codec import bin_to_coord, bin_to_size
from moontune.model.config import MoondreamConfig
from moontune.model.tokenizer import Tokenizer
from moontune.values.geometry import Box, Point
from moontune.values.output import CaptionOutput, DetectOutput, Grounding, Output, PointOutput, QueryOutput, Reasoning
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, Head
from moontune.values.skill import Skill


def thinking_count(request: SkillRequest, decisions: Sequence[Decision], config: MoondreamConfig) -> int:
    """How many of the decisions are thinking tokens: those before the separator, or all when none was reached."""
    if not request.reasoning:
        return 0
    answer_id = config.tokenizer.answer_id
    ends = (i for i, each in enumerate(decisions) if each.head is Head.TOKEN and each.choice == answer_id)
    return next(ends, len(decisions))


def read_output(
    request: SkillRequest, decisions: Sequence[Decision], config: MoondreamConfig, tokenizer: Tokenizer
) -> Output:
    """The answer that these decisions spell; one that a limit cut is read as far as it goes."""
    bins = config.region.bins
    if request.skill is Skill.POINT:
        pairs = zip(_choices(decisions, Head.X), _choices(decisions, Head.Y), strict=True)
        return PointOutput(tuple(Point(bin_to_coord(x, bins), bin_to_coord(y, bins)) for x, y in pairs))
    if request.skill is Skill.DETECT:
        heads = (Head.X, Head.Y, Head.WIDTH, Head.HEIGHT)
        places = zip(*(_choices(decisions, head) for head in heads), strict=True)
        return DetectOutput(tuple(_box(x, y, w, h, bins) for x, y, w, h in places))
    thought = thinking_count(request, decisions, config)
    said = decisions[thought + 1 :] if request.reasoning else decisions
    tokens = [token for token in _choices(said, Head.TOKEN) if token != config.tokenizer.eos_id]
    text = tokenizer.decode(tokens).strip()
    if request.skill is Skill.CAPTION:
        return CaptionOutput(text)
    return QueryOutput(text, _reasoning(decisions[:thought], config, tokenizer) if request.reasoning else None)


def _reasoning(thoughts: Sequence[Decision], config: MoondreamConfig, tokenizer: Tokenizer) -> Reasoning:
    """The text thought; spans between the two grounding marks carry the points decided inside them."""
    special, bins = config.tokenizer, config.region.bins
    tokens: list[int] = []
    grounding: list[Grounding] = []
    start: int | None = None
    values: list[float] = []
    for each in thoughts:
        if each.head is not Head.TOKEN:
            values.append(bin_to_coord(each.choice, bins))
        elif each.choice == special.start_ground_points_id:
            start, values = len(tokenizer.decode(tokens)), []
        elif each.choice == special.end_ground_id and start is not None:
            points = tuple(Point(x, y) for x, y in zip(values[::2], values[1::2], strict=False))
            grounding.append(Grounding(start, len(tokenizer.decode(tokens)), points))
            start = None
        elif each.choice != special.coord_id:
            tokens.append(each.choice)
    return Reasoning(tokenizer.decode(tokens), tuple(grounding))


def _choices(decisions: Sequence[Decision], head: Head) -> list[int]:
    return [each.choice for each in decisions if each.head is head]


def _box(x: int, y: int, width: int, height: int, bins: int) -> Box:
    return Box.from_centre(
        bin_to_coord(x, bins), bin_to_coord(y, bins), bin_to_size(width, bins), bin_to_size(height, bins)
    )
