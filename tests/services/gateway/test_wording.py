"""Errors in the words of HTTP."""

import pytest

from moontune.errors import CheckpointNotFound, InvalidField, ModelNotFound
from services.gateway.errors import error_json
from services.gateway.wording import http_field


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("input.images[0]", "image_url"),
        ("input.images", "image_url"),
        ("input.model", "model"),
        ("input.settings.top_p", "settings.top_p"),
        ("task.object", "object"),
        ("task.spatial_refs[2]", "spatial_refs[2]"),
        ("order.request.images[0]", "request.image_url"),
        ("order.ground_truth.boxes[0].x_min", "ground_truth.boxes[0].x_min"),
        ("order.rollout_count", "num_rollouts"),
        ("groups[0].rl.rollouts[1].policy.base", "groups[0].rollouts[1].policy.base"),
        ("groups[0].rl.rollouts[1].rollout.decisions[4]", "groups[0].rollouts[1].decisions[4]"),
        ("groups[12].sft.request.images[0]", "groups[12].request.image_url"),
        ("groups[3].sft.ground_truth.boxes[0].x_min", "groups[3].target.boxes[0].x_min"),
        ("groups[3].rl", "groups[3]"),
        ("header.settings.learning_rate", "lr"),
        ("header.settings.kl_weight", "kl_weight"),
        ("header.expected_step", "expected_step"),
        ("lora.rank", "rank"),
        ("page_token", "cursor"),
        ("request.image", "request.image_url"),
        ("groups[0].request.image_url", "groups[0].request.image_url"),
        ("name", "name"),
    ],
)
def test_a_services_field_is_named_as_http_has_it(given, expected):
    assert http_field(given) == expected
    body = error_json(InvalidField.of(given, 7, "8"))["error"]
    assert body["param"] == expected
    assert body["message"] == f"{expected} is 7; allowed: 8"


def test_an_rpc_to_call_is_named_as_http_has_it():
    body = error_json(CheckpointNotFound("x is not saved: call SaveCheckpoint first"))["error"]
    assert "SaveCheckpoint" not in body["message"]
    assert "call POST /v1/tuning/finetunes/{finetune_id}/checkpoints/save first" in body["message"]


def test_a_model_that_is_not_served_is_named_without_the_services_word():
    body = error_json(ModelNotFound("input.model is 'gpt'; this process serves 'x'"))["error"]
    assert body["message"] == "model is 'gpt'; this process serves 'x'"
