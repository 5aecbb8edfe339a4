"""Every kind of label as JSON and back, and the words for what is none."""

import json

import pytest
from hypothesis import given, settings

from moontune.data.labels import ground_truth, ground_truth_record
from moontune.values.mask import RleMask
from tests.moontune.wire.strategies import truths


@settings(max_examples=100, deadline=None)
@given(truth=truths.filter(lambda truth: truth.answers != ()))
def test_labels_come_back_from_json(truth):
    assert ground_truth(json.loads(json.dumps(ground_truth_record(truth)))) == truth


def test_compressed_run_lengths_are_read():
    # pycocotools' own encoding of a 4 x 4 image whose middle 2 x 2 is set: runs 5, 2, 2, 2, 5.
    assert ground_truth({"masks": [{"size": [4, 4], "counts": "52203"}]}).masks == (RleMask(4, 4, (5, 2, 2, 2, 5)),)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"boxes": {}}, "boxes is {}; allowed: a list"),
        ({"boxes": [[0, 0, 1]]}, "allowed: a list of lists of 4 numbers"),
        ({"answers": []}, "one or more texts"),
        ({"categories": [1]}, "a list of texts"),
        ({"masks": [{"polygon": [[[0]]]}]}, "2 numbers"),
        ({"masks": [{"size": [2, 2], "counts": "~~"}]}, "compressed counts"),
        ({"masks": [{"size": [2.5, 2], "counts": [4]}]}, "2 whole numbers"),
        ({"masks": [{"size": [2, 2]}]}, "numbers"),
        ({"poses": [{"keypoints": [[0, 0]]}]}, "keypoints, area"),
        ({"image_size": [1]}, "2 numbers"),
        ({"boxes": [[10**400, 0, 1, 1]]}, "4 numbers"),
    ],
)
def test_what_is_no_label_is_told_in_words(record, message):
    with pytest.raises(ValueError, match=message):
        ground_truth(record)
