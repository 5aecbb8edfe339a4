"""Every built-in over the number of objects, and matching beside scipy's solver alone."""

from collections.abc import Callable

from scipy.optimize import linear_sum_assignment

from benchmarks.rewards.arm import Arm
from benchmarks.rewards.samples import samples_for
from moontune.evaluation.matching import iou_matrix
from moontune.values.output import DetectOutput
from moontune.values.reward import RewardComponent, RewardSample, RewardSpec
from services.reward.catalogue import CATALOGUE, entry_named
from services.reward.catalogue.entry import Label
from services.reward.composite import Composite
from services.reward.grader import grade_here

OBJECTS = (1, 10, 50, 200)
BATCH = 32
MAX_MASKS = 50
"""mask_iou reads 64 masks at most."""


def built_in_arms() -> list[Arm]:
    """`<name>_<objects>`: one batch of 32 samples; rewards of one number or form once, at 10 words."""
    arms: list[Arm] = []
    for name, entry in CATALOGUE.items():
        sizes = [size for size in OBJECTS if Label.MASKS not in entry.labels[:1] or size <= MAX_MASKS]
        sized = set(entry.labels) - {Label.ANSWERS} or name in ("token_f1", "edit_similarity")
        arms += [
            Arm(f"{name}_{size}", _grading(name, samples_for(entry, size, BATCH)), BATCH)
            for size in (sizes if sized else (10,))
        ]
    return arms


def headline_arm() -> Arm:
    """`detect_f_beta_10_boxes`: soft F-beta of 10 boxes against 10."""
    return Arm("detect_f_beta_10_boxes", _grading("soft_f_beta", samples_for(entry_named("soft_f_beta"), 10, 256)), 256)


def matching_arms() -> list[Arm]:
    """Matched IoU as a reward, its IoU matrix alone, and the solver alone on that matrix."""
    arms: list[Arm] = []
    for size in OBJECTS:
        samples = samples_for(entry_named("matched_iou"), size, BATCH)
        pairs = [(s.output.objects, s.ground_truth.boxes or ()) for s in samples if isinstance(s.output, DetectOutput)]
        matrices = [iou_matrix(said, true) for said, true in pairs]

        def multiply(pairs: list = pairs) -> None:
            for said, true in pairs:
                iou_matrix(said, true)

        def solve(matrices: list = matrices) -> None:
            for matrix in matrices:
                linear_sum_assignment(matrix, maximize=True)

        arms.append(Arm(f"match_reward_{size}", _grading("matched_iou", samples), BATCH))
        arms.append(Arm(f"match_iou_matrix_{size}", multiply, BATCH))
        arms.append(Arm(f"match_scipy_alone_{size}", solve, BATCH))
    return arms


def _grading(name: str, samples: list[RewardSample]) -> Callable[[], object]:
    composite = Composite.of(RewardSpec((RewardComponent(name),)), entry_named)
    return lambda: grade_here(composite, samples)
