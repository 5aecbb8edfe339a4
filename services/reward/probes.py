"""Made-up answers that nobody should want, graded beside the real ones: how a policy could game the reward.

A reward that pays silence, boxes everywhere, the same thing twice, or the right answer of another image as well as
honest attempts will be gamed within an hour of GPU; it is cheaper to hear that here.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import CaptionOutput, DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.reward import RewardSample, RewardSpec
from moontune.values.reward_report import GradedExample, RewardProbe, SampleGroup
from moontune.values.skill import Skill
from services.reward.composite import Lookup
from services.reward.grader import grade_all

MAX_PROBED = 64
"""Groups that are probed, spread over all."""
MARGIN = 1e-6
CELLS = 5
WHOLE = Box(0.0, 0.0, 1.0, 1.0)
_CELLS = [(x / CELLS, y / CELLS) for x in range(CELLS) for y in range(CELLS)]
_EVERY_BOX = (WHOLE, *(Box(x, y, x + 1 / CELLS, y + 1 / CELLS) for x, y in _CELLS))


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe with what a person should be told, "" where nothing is wrong."""

    probe: RewardProbe
    warning: str = ""


@dataclass(frozen=True, slots=True)
class _Probe:
    """answer: group index and groups to an output, None where the probe does not apply.

    warn: the probe's rewards and the honest ones of the same groups (means) to a sentence or "".
    """

    name: str
    description: str
    answer: Callable[[int, Sequence[SampleGroup]], Output | None]
    warn: Callable[[float, float], str]


async def probe(
    spec: RewardSpec | None, groups: Sequence[SampleGroup], graded: Sequence[GradedExample], lookup: Lookup
) -> list[Probed]:
    """Every probe that applies; honest rewards are those of the same groups in `graded`."""
    step = max(1, len(groups) // MAX_PROBED)
    chosen = list(range(0, len(groups), step))[:MAX_PROBED]
    first, mean = _honest(graded)
    found: list[Probed] = []
    for one in _PROBES:
        answers = {index: one.answer(index, groups) for index in chosen}
        samples = {index: _sample(groups[index], answer) for index, answer in answers.items() if answer is not None}
        if not samples:
            continue
        results = dict(zip(samples, await grade_all(spec, list(samples.values()), lookup), strict=True))
        beside = first if one.name in ("repeated", "reordered") else mean
        pairs = [(r.reward, beside[i]) for i, r in results.items() if r.reward is not None and i in beside]
        if not pairs:
            found.append(Probed(RewardProbe(one.name, one.description, None)))
            continue
        made_up, honest = (statistics.fmean(side) for side in zip(*pairs, strict=True))
        found.append(Probed(RewardProbe(one.name, one.description, made_up), one.warn(made_up, honest)))
    return found


def _honest(graded: Sequence[GradedExample]) -> tuple[Mapping[int, float], Mapping[int, float]]:
    """By group: the reward of its first output, and the mean over its outputs."""
    rewards: dict[int, list[float]] = {}
    first: dict[int, float] = {}
    for one in graded:
        if one.result.reward is not None:
            rewards.setdefault(one.group_index, []).append(one.result.reward)
            if one.output_index == 0:
                first[one.group_index] = one.result.reward
    return first, {index: statistics.fmean(values) for index, values in rewards.items()}


def _sample(group: SampleGroup, answer: Output) -> RewardSample:
    longest = max(group.token_counts, default=None)
    return RewardSample(group.request, answer, group.ground_truth, 1 if answer == _silence(0, [group]) else longest)


def _silence(index: int, groups: Sequence[SampleGroup]) -> Output:
    empty: Mapping[Skill, Output] = {
        Skill.DETECT: DetectOutput(()),
        Skill.POINT: PointOutput(()),
        Skill.QUERY: QueryOutput(""),
        Skill.CAPTION: CaptionOutput(""),
    }
    return empty[groups[index].request.skill]


def _truth(index: int, groups: Sequence[SampleGroup]) -> Output | None:
    return _right_answer(groups[index].request.skill, groups[index].ground_truth)


def _right_answer(skill: Skill, truth: GroundTruth) -> Output | None:
    if skill is Skill.DETECT and truth.boxes is not None:
        return DetectOutput(truth.boxes)
    if skill is Skill.POINT and truth.points is not None:
        return PointOutput(truth.points)
    if skill is Skill.POINT and truth.boxes is not None:
        return PointOutput(tuple(box.centre for box in truth.boxes))
    if skill in (Skill.QUERY, Skill.CAPTION) and truth.answers:
        return QueryOutput(truth.answers[0]) if skill is Skill.QUERY else CaptionOutput(truth.answers[0])
    return None


def _of_another(index: int, groups: Sequence[SampleGroup]) -> Output | None:
    """The right answer of the next group of this skill whose labels differ."""
    here = groups[index]
    for other in (*groups[index + 1 :], *groups[:index]):
        if other.request.skill is here.request.skill and other.ground_truth != here.ground_truth:
            answer = _right_answer(other.request.skill, other.ground_truth)
            if answer is not None and answer != _truth(index, groups):
                return answer
    return None


def _everything(index: int, groups: Sequence[SampleGroup]) -> Output | None:
    group = groups[index]
    match group.request.skill:
        case Skill.DETECT:
            return DetectOutput(_EVERY_BOX)
        case Skill.POINT:
            return PointOutput(tuple(box.centre for box in _EVERY_BOX))
        case Skill.QUERY if group.ground_truth.boxes is not None:
            boxes = [[box.x_min, box.y_min, box.x_max, box.y_max] for box in _EVERY_BOX]
            return QueryOutput(json.dumps([{"bbox_2d": box} for box in boxes]))
        case skill:
            known = list(dict.fromkeys(text for one in groups for text in (one.ground_truth.answers or ())[:1]))[:50]
            text = " ".join(known)
            return (QueryOutput(text) if skill is Skill.QUERY else CaptionOutput(text)) if len(known) > 1 else None


def _whole(index: int, groups: Sequence[SampleGroup]) -> Output | None:
    outputs = {Skill.DETECT: DetectOutput((WHOLE,)), Skill.POINT: PointOutput((Point(0.5, 0.5),))}
    return outputs.get(groups[index].request.skill)


def _repeated(index: int, groups: Sequence[SampleGroup]) -> Output | None:
    match groups[index].outputs[0]:
        case DetectOutput(objects) if objects:
            return DetectOutput(objects + objects)
        case PointOutput(points) if points:
            return PointOutput(points + points)
        case QueryOutput(answer) as output if answer.strip():
            return replace(output, answer=f"{answer} {answer}")
        case CaptionOutput(caption) if caption.strip():
            return CaptionOutput(f"{caption} {caption}")
        case _:
            return None


def _reordered(index: int, groups: Sequence[SampleGroup]) -> Output | None:
    if groups[index].ground_truth.poses is not None:  # keypoints have an order
        return None
    match groups[index].outputs[0]:
        case DetectOutput(objects) if len(objects) > 1:
            return DetectOutput(objects[::-1])
        case PointOutput(points) if len(points) > 1:
            return PointOutput(points[::-1])
        case _:
            return None


def _beats(what: str) -> Callable[[float, float], str]:
    def warn(made_up: float, honest: float) -> str:
        if made_up < honest - MARGIN:
            return ""
        return (
            f"{what} is paid {made_up:.3g} on average, the answers sent {honest:.3g}: a policy will learn to do that."
        )

    return warn


def _truth_warning(made_up: float, honest: float) -> str:
    if made_up >= honest - MARGIN:
        return ""
    return (
        f"The ground truth itself is paid {made_up:.3g}, less than the answers sent ({honest:.3g}): is it upside down?"
    )


def _repeat_warning(made_up: float, honest: float) -> str:
    more = f"Saying the same twice is paid {made_up:.3g}, once {honest:.3g}: duplicates pay."
    return more if made_up > honest + MARGIN else ""


def _order_warning(made_up: float, honest: float) -> str:
    changed = (
        f"The same answer backwards is paid {made_up:.3g}, not {honest:.3g}: the order of objects should not count."
    )
    return changed if abs(made_up - honest) > MARGIN else ""


_PROBES = (
    _Probe("truth", "the ground truth itself", _truth, _truth_warning),
    _Probe("silence", "an empty answer", _silence, _beats("An empty answer")),
    _Probe("everything", "boxes or points all over the image, or every known answer in a row", _everything,
           _beats("Saying everything")),
    _Probe("whole", "one box around the whole image, or its centre", _whole, _beats("One box around the whole image")),
    _Probe("other", "the right answer of another sample", _of_another, _beats("The right answer of another sample")),
    _Probe("repeated", "the first answer sent, everything in it twice", _repeated, _repeat_warning),
    _Probe("reordered", "the first answer sent, backwards", _reordered, _order_warning),
)  # fmt: skip
