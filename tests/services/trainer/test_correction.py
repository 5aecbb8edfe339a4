"""The sampler correction by hand."""

import math

import pytest
import torch

from moontune.values.training import SamplerCorrection
from services.trainer.correction import correct, uncorrected

RECORDED = torch.tensor([-1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
# First rollout: log-ratios +2 and -2, mean 0. Second: +1 and +1, mean 1, ratio e = 2.718.
OLD = torch.tensor([1.0, -3.0, 0.0, 0.0], dtype=torch.float64)
ROLLOUT = torch.tensor([0, 0, 1, 1])


def test_off_takes_the_record_as_it_is() -> None:
    found = correct(SamplerCorrection.OFF, 2.0, OLD, RECORDED, ROLLOUT, 2)
    assert found.anchor_N.tolist() == RECORDED.tolist()
    assert found.factor_N.tolist() == [1.0] * 4
    assert not found.masked_R.any()


@pytest.mark.parametrize(("band", "masked"), [(2.0, True), (2.7, True), (2.72, False)])
def test_sequence_mask_by_geometric_mean(band: float, masked: bool) -> None:
    found = correct(SamplerCorrection.SEQUENCE_MASK, band, OLD, RECORDED, ROLLOUT, 2)
    assert found.masked_R.tolist() == [False, masked]
    assert found.factor_N.tolist() == [1.0, 1.0, 0.0 if masked else 1.0, 0.0 if masked else 1.0]
    assert found.anchor_N.tolist() == RECORDED.tolist()


def test_sequence_mask_is_two_sided() -> None:
    found = correct(SamplerCorrection.SEQUENCE_MASK, 2.0, 2 * RECORDED - OLD, RECORDED, ROLLOUT, 2)
    assert found.masked_R.tolist() == [False, True]


def test_token_truncation_decouples() -> None:
    found = correct(SamplerCorrection.TOKEN_TRUNCATE, 2.0, OLD, RECORDED, ROLLOUT, 2)
    assert found.anchor_N.tolist() == OLD.tolist()
    assert found.factor_N.tolist() == pytest.approx([2.0, math.exp(-2.0), 2.0, 2.0], abs=1e-12)


def test_unverified_starts_at_one() -> None:
    found = uncorrected(OLD, 2)
    assert found.anchor_N.tolist() == OLD.tolist()
    assert found.factor_N.tolist() == [1.0] * 4
