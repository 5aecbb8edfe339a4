"""Masks of a text answer against labelled masks."""

from pydantic import Field

from moontune.errors import InvalidField
from moontune.evaluation.mask_raster import MAX_GRID, Raster, mask_iou_matrix, rasterise
from moontune.values.ground_truth import GroundTruth
from moontune.values.mask import Mask, RleMask
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import ABSENT, over_larger_count
from services.reward.catalogue.parameters import ObjectParameters, Whole
from services.reward.reading.items import predicted_masks
from services.reward.reading.unreadable import Unreadable

MAX_MASKS = 64


class MaskParameters(ObjectParameters):
    """How finely forms without pixels of their own are sampled."""

    grid: Whole = Field(
        256, ge=16, le=MAX_GRID, description="pixels a side where neither run lengths nor image_size give a grid"
    )


def grade(sample: RewardSample, parameters: MaskParameters) -> float:
    """Sum of mask IoU over the best one-to-one match, over max(n_pred, n_gt)."""
    said, actual = predicted_masks(sample, parameters.coordinates), sample.ground_truth.masks or ()
    if len(said) > MAX_MASKS:
        raise Unreadable(f"{len(said)} masks; at most {MAX_MASKS} are read")
    if not said or not actual:
        return over_larger_count(mask_iou_matrix((), ()), said, actual)
    height, width = _grid(sample.ground_truth, parameters.grid)
    scores = mask_iou_matrix(
        [_read(mask, height, width) for mask in said], [rasterise(mask, height, width) for mask in actual]
    )
    return over_larger_count(scores, said, actual)


def _read(mask: Mask, height: int, width: int) -> Raster:
    try:
        return rasterise(mask, height, width)
    except InvalidField as error:
        raise Unreadable(error.message) from error


def _grid(truth: GroundTruth, side: int) -> tuple[int, int]:
    """Height and width: of the run lengths, else of the image, else a square; 1024 a side at most."""
    rle = next((mask for mask in truth.masks or () if isinstance(mask, RleMask)), None)
    size = rle or truth.image_size
    return (min(size.height, MAX_GRID), min(size.width, MAX_GRID)) if size else (side, side)


MASK_IOU = Entry(
    name="mask_iou",
    formula="sum of |M and M*| / |M or M*| over the one-to-one match with the largest total, divided by max(n_pred, "
    f"n_gt); masks are run lengths, polygons or SVG paths, on either side. {ABSENT} Default of query with masks.",
    source="LISA-type tasks (gIoU); COCO's mask IoU",
    beware="masks of more than 1024 pixels a side are compared at 1024 places a side",
    skills=(Skill.QUERY,),
    labels=(Label.MASKS,),
    parameters=MaskParameters,
    grade=grade,
)
