"""docs/rewards.md is written from the catalogue, and knows its defaults."""

from moontune.values.ground_truth import KINDS_BY_SKILL, GroundTruth
from services.reward.catalogue import CATALOGUE, default_spec
from tools.reward_docs import FILE, SECTIONS, updated


def test_the_catalogue_part_is_as_it_would_be_written():
    text = FILE.read_text(encoding="utf-8")
    assert updated(text) == text, "run python -m tools.reward_docs"
    assert all(f"**`{name}`**" in text for name in CATALOGUE)


def test_every_section_begins_at_a_reward_and_in_the_catalogues_order():
    starts = [list(CATALOGUE).index(first) for first in SECTIONS.values()]
    assert starts == sorted(starts)
    assert starts[0] == 0


def test_the_table_of_defaults_is_right():
    text = FILE.read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    told = {
        (skill.strip(), label.strip()): name.strip()
        for skills, labels, names in (row for row in rows if len(row) == 3)
        for skill in skills.split(",")
        for label, name in zip(labels.split(","), names.replace("`", "").split(",") * 3, strict=False)
    }
    for skill, kinds in KINDS_BY_SKILL.items():
        for kind in kinds:
            (component,) = default_spec(skill, GroundTruth(**{kind: ()})).components
            assert told[str(skill), kind] == component.name
