import math

import pytest
import torch

from moontune.model import codec


@pytest.mark.parametrize("index", [0, 1, 511, 512, 1022, 1023])
def test_known_values(index: int) -> None:
    assert codec.bin_to_coord(index) == index / 1023
    assert codec.bin_to_coord(index, decoding=codec.CoordDecoding.UPSTREAM) == index / 1024
    assert codec.bin_to_size(index) == pytest.approx(2 ** (index / 102.3 - 10), rel=1e-12)


def test_by_hand() -> None:
    assert [codec.coord_to_bin(value) for value in (0.0, 0.25, 0.5, 1.0, -3.0, 7.0)] == [0, 256, 512, 1023, 0, 1023]
    # log2(1/2) = -1: nine of ten octaves, 0.9 * 1023 = 920.7
    assert [codec.size_to_bin(value) for value in (1.0, 0.5, 2**-10, 0.0, 2.0)] == [1023, 921, 0, 0, 1023]


@pytest.mark.parametrize("bins", [1024, 64])
def test_every_bin_comes_back(bins: int) -> None:
    assert [codec.coord_to_bin(codec.bin_to_coord(index, bins), bins) for index in range(bins)] == list(range(bins))
    assert [codec.size_to_bin(codec.bin_to_size(index, bins), bins) for index in range(bins)] == list(range(bins))


def test_errors_stay_within_half_a_bin() -> None:
    for step in range(1001):
        value = step / 1000
        assert abs(codec.bin_to_coord(codec.coord_to_bin(value)) - value) <= 0.5 / 1023 + 1e-12
        if value >= 2**-10:
            octaves = math.log2(codec.bin_to_size(codec.size_to_bin(value)) / value)
            assert abs(octaves) <= 5 / 1023 + 1e-9


def test_tensors_agree_with_scalars() -> None:
    bins = torch.arange(1024)
    exact = torch.tensor([codec.bin_to_coord(index) for index in range(1024)])
    sizes = torch.tensor([codec.bin_to_size(index) for index in range(1024)])
    torch.testing.assert_close(codec.coord_values(bins), exact, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(codec.size_values(bins), sizes, atol=0, rtol=2e-6)
    assert codec.coord_values(torch.tensor([512]), decoding=codec.CoordDecoding.UPSTREAM).item() == 0.5
