"""The built-in rewards by name, and which one grades a skill when nobody says."""

from collections.abc import Mapping

from moontune.errors import RewardNotFound
from moontune.values.ground_truth import GroundTruth
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.skill import Skill
from services.reward.catalogue.average_precision import MEAN_AVERAGE_PRECISION
from services.reward.catalogue.box import CLIPPED_IOU, GIOU, IOU, STEP_IOU
from services.reward.catalogue.choice import CLASS_NAME, MULTIPLE_CHOICE, YES_NO
from services.reward.catalogue.confidence import CONFIDENCE_CALIBRATION
from services.reward.catalogue.count import COUNT_EXACT, COUNT_SHAPED
from services.reward.catalogue.edit import ANLS, EDIT_SIMILARITY
from services.reward.catalogue.entry import AnyEntry
from services.reward.catalogue.f_beta import HARD_F_BETA, SOFT_F_BETA
from services.reward.catalogue.format import ANSWER_SCHEMA, THINK_ANSWER_TAGS
from services.reward.catalogue.json_schema import JSON_SCHEMA
from services.reward.catalogue.keypoints import KEYPOINT_SIMILARITY
from services.reward.catalogue.length import REPETITION, SOFT_OVERLONG
from services.reward.catalogue.masks import MASK_IOU
from services.reward.catalogue.matched_iou import MATCHED_IOU
from services.reward.catalogue.numeric import NUMERIC
from services.reward.catalogue.pattern import REGEX
from services.reward.catalogue.points import POINT_DISTANCE, POINT_GAUSSIAN, POINT_IN_BOX, POINT_IN_MASK
from services.reward.catalogue.rejection import REJECTION
from services.reward.catalogue.text import CONTAINS, EXACT_MATCH, TOKEN_F1

_ENTRIES: tuple[AnyEntry, ...] = (
    *(IOU, GIOU, STEP_IOU, CLIPPED_IOU),
    *(MATCHED_IOU, SOFT_F_BETA, HARD_F_BETA, MEAN_AVERAGE_PRECISION, CONFIDENCE_CALIBRATION),
    *(COUNT_EXACT, COUNT_SHAPED, REJECTION),
    *(POINT_IN_BOX, POINT_IN_MASK, POINT_GAUSSIAN, POINT_DISTANCE, KEYPOINT_SIMILARITY),
    MASK_IOU,
    *(EXACT_MATCH, CONTAINS, TOKEN_F1, EDIT_SIMILARITY, ANLS),
    *(NUMERIC, MULTIPLE_CHOICE, YES_NO, CLASS_NAME),
    *(REGEX, JSON_SCHEMA, THINK_ANSWER_TAGS, ANSWER_SCHEMA),
    *(SOFT_OVERLONG, REPETITION),
)
CATALOGUE: Mapping[str, AnyEntry] = {entry.name: entry for entry in _ENTRIES}


def entry_named(name: str) -> AnyEntry:
    """The entry, or RewardNotFound that lists the names."""
    if name not in CATALOGUE:
        raise RewardNotFound(f"no reward is named {name[:80]!r} here; built in are: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def default_spec(skill: Skill, truth: GroundTruth) -> RewardSpec:
    """The reward of a skill when the spec is empty: Moondream's automatic ones for detect and point."""
    by_label = {
        "boxes": POINT_IN_BOX if skill is Skill.POINT else MATCHED_IOU,
        "points": POINT_DISTANCE,
        "masks": POINT_IN_MASK if skill is Skill.POINT else MASK_IOU,
        "poses": KEYPOINT_SIMILARITY,
        "answers": TOKEN_F1 if skill is Skill.CAPTION else EXACT_MATCH,
    }
    by_skill = {Skill.DETECT: "boxes", Skill.POINT: "points", Skill.QUERY: "answers", Skill.CAPTION: "answers"}
    label = next(iter(truth.labels), by_skill[skill])
    return RewardSpec((RewardComponent(by_label[label].name),))
