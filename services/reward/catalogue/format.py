"""The form of a text answer: its tags, and the items of a list."""

from typing import Literal

from pydantic import Field

from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry
from services.reward.catalogue.parameters import Parameters
from services.reward.reading.items import BOX_KEYS, CATEGORY_KEYS, POINT_KEYS, Item, written_items
from services.reward.reading.text import is_number, raw_text
from services.reward.reading.unreadable import Unreadable

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class ItemParameters(Parameters):
    """What every item of the list must have."""

    item: Literal["box", "point"] = Field("box", description="what an item places")
    label: bool = Field(False, description="whether an item must have a label")


def think_answer(sample: RewardSample, parameters: Parameters) -> float:
    """1 for `<think>...</think> <answer>...</answer>`, each tag once, nothing else around, neither empty."""
    text = raw_text(sample).strip()
    if any(text.count(tag) != 1 for tag in TAGS):
        return 0.0
    places = [text.find(tag) for tag in TAGS]
    if places != sorted(places) or places[0] != 0 or not text.endswith(TAGS[3]):
        return 0.0
    thought = text[len(TAGS[0]) : places[1]]
    between = text[places[1] + len(TAGS[1]) : places[2]]
    answer = text[places[2] + len(TAGS[2]) : places[3]]
    return float(bool(thought.strip()) and not between.strip() and bool(answer.strip()))


def answer_schema(sample: RewardSample, parameters: ItemParameters) -> float:
    """Share of the items in the right form."""
    items = written_items(sample)
    if not items:
        raise Unreadable("no items in the answer")
    return sum(_fits(item, parameters) for item in items) / len(items)


def _fits(item: Item, parameters: ItemParameters) -> bool:
    keys, count = (BOX_KEYS, 4) if parameters.item == "box" else (POINT_KEYS, 2)
    place = next((item[key] for key in (*keys, "") if key in item), None)
    if not isinstance(place, list) or len(place) != count:  # type: ignore[arg-type]
        return False
    numbers = [float(number) for number in place if is_number(number)]  # type: ignore[misc]
    if len(numbers) != count or (count == 4 and not (numbers[0] < numbers[2] and numbers[1] < numbers[3])):
        return False
    names = [item[key] for key in CATEGORY_KEYS if key in item]
    return not parameters.label or bool(names and isinstance(names[0], str) and names[0].strip())


THINK_ANSWER_TAGS = Entry(
    name="think_answer_tags",
    formula="1 for `<think>...</think><answer>...</answer>`: each of the four tags exactly once, in this order, "
    "nothing outside but space, neither part blank; else 0.",
    source="DeepSeek-R1's format reward, exactly once as in Visual-ARFT",
    beware="once every attempt has the form it adds nothing to a group: keep its weight small, or make it a gate",
    skills=(Skill.QUERY, Skill.CAPTION),
    labels=(),
    parameters=Parameters,
    grade=think_answer,
)

ANSWER_SCHEMA = Entry(
    name="answer_schema",
    formula="share of the items in the answer's JSON list that are a box (four finite numbers, corners in order) or a "
    "point (two), with a label where label is set.",
    source="Seg-Zero, VisionReasoner, Vision-R1",
    beware="one box anywhere earns 1: it is a gate or a small weight beside a reward that looks at places",
    skills=(Skill.QUERY,),
    labels=(),
    parameters=ItemParameters,
    grade=answer_schema,
)
