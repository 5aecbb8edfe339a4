"""The built-in rewards by name, and which one grades a skill when nobody says."""

from collections.abc import Mapping

from moontune.errors import RewardNotFound
from moontune.values.ground_truth import GroundTruth
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry
from services.reward.catalogue.f_beta import HARD_F_BETA, SOFT_F_BETA
from services.reward.catalogue.matched_iou import MATCHED_IOU
from services.reward.catalogue.points import POINT_DISTANCE, POINT_IN_BOX
from services.reward.catalogue.text import CONTAINS, EXACT_MATCH, TOKEN_F1

CATALOGUE: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        MATCHED_IOU,
        SOFT_F_BETA,
        HARD_F_BETA,
        POINT_IN_BOX,
        POINT_DISTANCE,
        EXACT_MATCH,
        CONTAINS,
        TOKEN_F1,
    )
}


def entry_named(name: str) -> Entry:
    """The entry, or RewardNotFound that lists the names."""
    if name not in CATALOGUE:
        raise RewardNotFound(f"no reward is named {name[:80]!r}; there are: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def default_spec(skill: Skill, truth: GroundTruth) -> RewardSpec:
    """The reward of a skill when the spec is empty: Moondream's automatic ones for detect and point."""
    name = {
        Skill.DETECT: MATCHED_IOU.name,
        Skill.POINT: POINT_IN_BOX.name if truth.boxes is not None else POINT_DISTANCE.name,
        Skill.QUERY: EXACT_MATCH.name,
        Skill.CAPTION: TOKEN_F1.name,
    }[skill]
    return RewardSpec((RewardComponent(name),))
