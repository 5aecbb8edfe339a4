"""Rollouts in Moondream's shape, and back.

    {skill, finish_reason, output, answer_tokens, thinking_tokens, has_answer_separator, coords, sizes, moontune}

answer_tokens: query's answer without end of text; for detect [coord, coord, size] per object, for point
[coord, coord]. thinking_tokens: tokens before the separator; a coord marker in them stands for one entry of coords.
coords: x and y bins in order. sizes: [width bin, height bin] per object.

The ids of the special tokens are those of every model of the Moondream family, our tiny one included. A rollout
without a valid record (the caller's own, or an altered one) is read back from these fields: its log-probabilities and
its policy are unknown, and the trainer recomputes.
"""

from collections.abc import Iterator, Sequence

from moontune.errors import InvalidField
from moontune.values.geometry import Point
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import DetectOutput, Grounding, Output, PointOutput, QueryOutput, Reasoning
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, FinishReason, Head, Rollout
from moontune.values.skill import Skill
from services.gateway.convert import Json, boxes_of, output_json, points_of
from services.gateway.record import RecordSigner
from services.gateway.schemas import OutputBody, ReasoningBody, RolloutBody

END_ID, SEPARATOR_ID, COORD_ID, SIZE_ID = 0, 3, 5, 6


def rollout_json(rollout: Rollout, request: SkillRequest, signer: RecordSigner, organisation: str) -> Json:
    """The object that `/rollouts` returns."""
    visible = _visible(rollout)
    output = output_json(rollout.output)
    return {
        **visible,
        "output": output,
        "moontune": signer.write(rollout, visible, request, organisation),
    }


def rollout_of(
    body: RolloutBody,
    request: SkillRequest,
    signer: RecordSigner,
    organisation: str,
    unknown: PolicyVersion,
    field: str,
) -> tuple[Rollout, bool]:
    """The rollout of an object, and whether its record is ours.

    Args:
        body: the object as the caller sent it.
        request: what it answers.
        signer: of our records.
        organisation: the caller's.
        unknown: what stands in for the policy of rollouts without a record; the same at every try, because the
            trainer takes a repeated request id only with the same payload.
        field: the object's path, for errors.

    Raises:
        InvalidField: fields that contradict each other.
    """
    skill = Skill(body.skill)
    if skill is not request.skill:
        raise InvalidField.of(f"{field}.skill", body.skill, f"{request.skill}, as in the group's request")
    output = _output(body.output, skill, f"{field}.output")
    finish = _finish(body.finish_reason, f"{field}.finish_reason")
    record = signer.read(body.moontune, _visible_of(body), request, organisation)
    if record is not None:
        rollout = Rollout(
            skill=skill,
            output=output,
            decisions=record.decisions,
            finish_reason=finish,
            policy=record.policy,
            seed=record.seed,
            temperature=record.temperature,
            top_p=record.top_p,
            thinking_count=record.thinking_count,
        )
        return rollout, True
    return _unsigned(body, request, output, finish, unknown, field), False


def _unsigned(
    body: RolloutBody, request: SkillRequest, output: Output, finish: FinishReason, unknown: PolicyVersion, field: str
) -> Rollout:
    """A rollout from the API's own fields alone: log-probabilities 0, sampled as its request says."""
    decisions, thinking_count = _decisions(body, request.skill, finish, field)
    settings = request.settings
    return Rollout(
        skill=request.skill,
        output=output,
        decisions=tuple(Decision(head, choice, 0.0) for head, choice in decisions),
        finish_reason=finish,
        policy=unknown,
        seed=0,
        temperature=settings.temperature,
        top_p=settings.top_p,
        thinking_count=thinking_count,
    )


def _visible(rollout: Rollout) -> Json:
    thinking = rollout.decisions[: rollout.thinking_count]
    rest = list(rollout.decisions[rollout.thinking_count :])
    separator = _is_token(rest[:1], SEPARATOR_ID)  # an answer never holds the separator's id
    if separator:
        rest = rest[1:]
    if rollout.finish_reason is FinishReason.STOP and _is_token(rest[-1:], END_ID):
        rest = rest[:-1]
    answer = [one.choice for one in rest if one.head is Head.TOKEN]
    if rollout.skill in (Skill.POINT, Skill.DETECT):
        per_object = [COORD_ID, COORD_ID] + ([SIZE_ID] if rollout.skill is Skill.DETECT else [])
        answer = per_object * len(rollout.choices([Head.Y]))
    widths, heights = rollout.choices([Head.WIDTH]), rollout.choices([Head.HEIGHT])
    return {
        "skill": str(rollout.skill),
        "finish_reason": str(rollout.finish_reason),
        "answer_tokens": answer,
        "thinking_tokens": [one.choice for one in thinking if one.head is Head.TOKEN],
        "has_answer_separator": separator,
        "coords": rollout.choices([Head.X, Head.Y]),
        "sizes": [[width, height] for width, height in zip(widths, heights, strict=False)],
    }


def _visible_of(body: RolloutBody) -> Json:
    return {
        "skill": body.skill,
        "finish_reason": body.finish_reason,
        "answer_tokens": body.answer_tokens,
        "thinking_tokens": body.thinking_tokens,
        "has_answer_separator": body.has_answer_separator,
        "coords": body.coords,
        "sizes": body.sizes,
    }


def _is_token(decisions: Sequence[Decision], choice: int) -> bool:
    return bool(decisions) and decisions[0].head is Head.TOKEN and decisions[0].choice == choice


def _decisions(body: RolloutBody, skill: Skill, finish: FinishReason, field: str) -> tuple[list[tuple[Head, int]], int]:
    """Decisions of a rollout without a record, and how many of them are thinking."""
    coords = iter(body.coords)
    if skill is Skill.QUERY:
        thinking = list(_thinking(body.thinking_tokens, coords))
        decisions = list(thinking)
        if body.has_answer_separator:
            decisions.append((Head.TOKEN, SEPARATOR_ID))
        decisions += [(Head.TOKEN, token) for token in body.answer_tokens]
        if finish is FinishReason.STOP and decisions[-1:] != [(Head.TOKEN, END_ID)]:
            decisions.append((Head.TOKEN, END_ID))
        return decisions, len(thinking)
    if len(body.coords) % 2 or (skill is Skill.DETECT and len(body.sizes) != len(body.coords) // 2):
        given = f"{len(body.coords)} coords and {len(body.sizes)} sizes"
        allowed = "two coords and one size per object" if skill is Skill.DETECT else "two coords per point"
        raise InvalidField.of(f"{field}.coords", given, allowed)
    objects: list[tuple[Head, int]] = []
    for index in range(len(body.coords) // 2):
        objects += [(Head.GO, 1), (Head.X, next(coords)), (Head.Y, next(coords))]
        if skill is Skill.DETECT:
            objects += [(Head.WIDTH, body.sizes[index][0]), (Head.HEIGHT, body.sizes[index][1])]
    if finish is FinishReason.STOP:
        objects.append((Head.GO, 0))
    return objects, 0


def _thinking(tokens: Sequence[int], coords: Iterator[int]) -> Iterator[tuple[Head, int]]:
    axis = Head.X
    for token in tokens:
        yield Head.TOKEN, token
        if token == COORD_ID and (value := next(coords, None)) is not None:
            yield axis, value
            axis = Head.Y if axis is Head.X else Head.X


def _finish(text: str, field: str) -> FinishReason:
    if text not in tuple(FinishReason):
        raise InvalidField.of(field, text, " or ".join(FinishReason))
    return FinishReason(text)


def _output(body: OutputBody, skill: Skill, field: str) -> Output:
    if skill is Skill.QUERY and body.answer is not None:
        return QueryOutput(body.answer, reasoning_of(body.reasoning))
    if skill is Skill.POINT and body.points is not None:
        return PointOutput(points_of(body.points))
    if skill is Skill.DETECT and body.objects is not None:
        return DetectOutput(boxes_of(body.objects))
    needed = {Skill.QUERY: "answer", Skill.POINT: "points", Skill.DETECT: "objects"}[skill]
    raise InvalidField.of(f"{field}.{needed}", None, f"what the {skill} rollout answered")


def reasoning_of(body: ReasoningBody | None) -> Reasoning | None:
    """Reasoning of an output or a target; None where there is none."""
    if body is None:
        return None
    spans = [
        Grounding(span.start_idx, span.end_idx, tuple(Point(x, y) for x, y in span.points))
        for span in body.grounding or ()
    ]
    return Reasoning(body.text, tuple(spans))
