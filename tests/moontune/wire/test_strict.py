"""What a message may not be: every refusal names the field's path, and nothing is guessed."""

import math

import pytest

from moontune.api.common.v1 import (
    geometry_pb2,
    ground_truth_pb2,
    image_pb2,
    output_pb2,
    policy_pb2,
    request_pb2,
    rollout_pb2,
)
from moontune.api.inference.v1 import inference_service_pb2
from moontune.api.jobs.v1 import job_pb2
from moontune.api.reward.v1 import reward_pb2
from moontune.api.rollout.v1 import rollout_service_pb2
from moontune.api.trainer.v1 import (
    adapter_files_pb2,
    checkpoint_pb2,
    finetune_pb2,
    metric_pb2,
    trainer_service_pb2,
    training_pb2,
)
from moontune.errors import InvalidField
from moontune.values.finetune import LoraSettings
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.output import PointOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Rollout, RolloutGroup
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from moontune.wire.bundle import bundle_file_from_proto, file_chunk_from_proto
from moontune.wire.checkpoint import checkpoint_ref_from_proto
from moontune.wire.finetune import lora_from_proto, lora_to_proto, new_finetune_from_proto
from moontune.wire.geometry import box_from_proto, point_from_proto
from moontune.wire.ground_truth import ground_truth_from_proto, ground_truth_to_proto
from moontune.wire.image import image_from_proto, images_from_proto
from moontune.wire.inference import inference_request_from_proto
from moontune.wire.job import job_config_from_proto
from moontune.wire.metric import metric_point_from_proto
from moontune.wire.output import output_from_proto
from moontune.wire.request import request_from_proto, request_to_proto
from moontune.wire.reward import reward_result_from_proto, reward_sample_from_proto, reward_spec_from_proto
from moontune.wire.rollout import (
    decision_from_proto,
    rollout_from_proto,
    rollout_group_from_proto,
    rollout_group_to_proto,
    rollout_to_proto,
    scored_rollouts_from_proto,
)
from moontune.wire.rollout_order import rollout_order_from_proto
from moontune.wire.train_settings import train_settings_from_proto
from moontune.wire.training import group_from_proto, train_header_from_proto

PICTURE = image_pb2.Image(data=b"picture")
DETECT = request_pb2.SkillRequest(images=[PICTURE], detect={"object": "cat"})
QUERY = request_pb2.SkillRequest(query={"question": "why?"})
POLICY = policy_pb2.PolicyVersion(base="tiny", base_digest="sha256:0")
BOXES = ground_truth_pb2.GroundTruth(boxes={})
FOUND = output_pb2.Output(detect={})


def rollout(**changes):
    fields = {
        "output": FOUND,
        "decisions": [{"head": rollout_pb2.HEAD_GO}],
        "finish_reason": rollout_pb2.FINISH_REASON_STOP,
        "policy": POLICY,
        "temperature": 1.0,
    }
    return rollout_pb2.Rollout(**{**fields, **changes})


def order(**changes):
    fields = {"model": "tiny", "request": DETECT, "rollout_count": 4}
    return rollout_service_pb2.RolloutOrder(**{**fields, **changes})


def header(**changes):
    fields = {"finetune_id": "ft", "request_id": "r", "group_count": 1}
    return trainer_service_pb2.TrainStepHeader(**{**fields, **changes})


def settings(**changes):
    return request_pb2.SkillRequest(query={"question": "why?"}, settings=changes)


def rl(**changes):
    return training_pb2.TrainGroup(rl={"request": DETECT, "rollouts": [{"rollout": rollout()}], **changes})


def sft(**changes):
    return training_pb2.TrainGroup(sft=changes)


REFUSED = {
    "point.x": (point_from_proto, geometry_pb2.Point(x=1.1)),
    "point.y": (point_from_proto, geometry_pb2.Point(y=math.nan)),
    "box.x_min": (box_from_proto, geometry_pb2.Box()),
    "box.y_max": (box_from_proto, geometry_pb2.Box(x_max=1, y_max=2)),
    "image": (image_from_proto, image_pb2.Image()),
    "image.data": (image_from_proto, image_pb2.Image(data=b"")),
    "image.sha256": (image_from_proto, image_pb2.Image(sha256="ab")),
    "images": (images_from_proto, [PICTURE, PICTURE]),
    "request.task": (request_from_proto, request_pb2.SkillRequest()),
    "request.question": (request_from_proto, request_pb2.SkillRequest(query={"question": " "})),
    "request.object": (request_from_proto, request_pb2.SkillRequest(images=[PICTURE], point={})),
    "request.image": (request_from_proto, request_pb2.SkillRequest(detect={"object": "cat"})),
    "request.length": (request_from_proto, request_pb2.SkillRequest(images=[PICTURE], caption={"length": 9})),
    "request.images[0]": (request_from_proto, request_pb2.SkillRequest(images=[{}], query={"question": "why?"})),
    "request.spatial_refs[1]": (
        request_from_proto,
        request_pb2.SkillRequest(query={"question": "why?", "spatial_refs": [{"point": {}}, {}]}),
    ),
    "request.settings.temperature": (request_from_proto, settings(temperature=-1)),
    "request.settings.top_p": (request_from_proto, settings(top_p=0)),
    "request.settings.max_tokens": (request_from_proto, settings(max_tokens=0)),
    "request.settings.max_objects": (request_from_proto, settings(max_objects=301)),
    "output.answer": (output_from_proto, output_pb2.Output()),
    "output.detect.objects[0].x_min": (output_from_proto, output_pb2.Output(detect={"objects": [{}]})),
    "output.query.reasoning.grounding[0]": (
        output_from_proto,
        output_pb2.Output(query={"reasoning": {"text": "ab", "grounding": [{"start": 1, "end": 3}]}}),
    ),
    "ground_truth.labels": (ground_truth_from_proto, ground_truth_pb2.GroundTruth()),
    "ground_truth.points[0].x": (
        ground_truth_from_proto,
        ground_truth_pb2.GroundTruth(points={"points": [{"x": 2}]}),
    ),
    "ground_truth.image_size.width": (
        ground_truth_from_proto,
        ground_truth_pb2.GroundTruth(boxes={}, image_size={"width": 0, "height": 1}),
    ),
    "ground_truth.masks[0].shape": (ground_truth_from_proto, ground_truth_pb2.GroundTruth(masks={"masks": [{}]})),
    "ground_truth.masks[0].rle.counts": (
        ground_truth_from_proto,
        ground_truth_pb2.GroundTruth(masks={"masks": [{"rle": {"height": 2, "width": 2, "counts": [1, 2]}}]}),
    ),
    "ground_truth.masks[0].polygon.rings[0]": (
        ground_truth_from_proto,
        ground_truth_pb2.GroundTruth(masks={"masks": [{"polygon": {"rings": [{}]}}]}),
    ),
    "ground_truth.masks[0].svg_path.path": (
        ground_truth_from_proto,
        ground_truth_pb2.GroundTruth(masks={"masks": [{"svg_path": "rm -rf"}]}),
    ),
    "ground_truth.poses[0].area": (
        ground_truth_from_proto,
        ground_truth_pb2.GroundTruth(poses={"poses": [{"keypoints": [{}]}]}),
    ),
    "decision.head": (decision_from_proto, rollout_pb2.Decision(choice=1)),
    "rollout.output": (rollout_from_proto, rollout_pb2.Rollout(policy=POLICY)),
    "rollout.policy": (rollout_from_proto, rollout_pb2.Rollout(output=FOUND)),
    "rollout.policy.base": (rollout_from_proto, rollout(policy={})),
    "rollout.finish_reason": (rollout_from_proto, rollout(finish_reason=0)),
    "rollout.temperature": (rollout_from_proto, rollout(temperature=5)),
    "rollout.top_p": (rollout_from_proto, rollout(top_p=0)),
    "rollout.thinking_count": (rollout_from_proto, rollout(thinking_count=2)),
    "rollout.decisions[0].head": (rollout_from_proto, rollout(decisions=[{}])),
    "rollout.decisions[0].choice": (rollout_from_proto, rollout(decisions=[{"head": 2, "choice": 2}])),
    "rollout.decisions[0].logprob": (rollout_from_proto, rollout(decisions=[{"head": 1, "logprob": 0.5}])),
    "rollout.decisions[0].nucleus": (
        rollout_from_proto,
        rollout(decisions=[{"head": 1, "choice": 3, "nucleus": [1, 2]}]),
    ),
    "rollouts[0].rollout": (scored_rollouts_from_proto, [rollout_pb2.ScoredRollout()]),
    "rollouts[0].reward": (
        scored_rollouts_from_proto,
        [rollout_pb2.ScoredRollout(rollout=rollout(), reward=math.nan)],
    ),
    "group.request": (rollout_group_from_proto, rollout_pb2.RolloutGroup()),
    "group.rollouts[0].output": (
        rollout_group_from_proto,
        rollout_pb2.RolloutGroup(request=QUERY, rollouts=[{"rollout": rollout()}]),
    ),
    "order.request": (rollout_order_from_proto, rollout_service_pb2.RolloutOrder(model="tiny", rollout_count=1)),
    "order.model": (rollout_order_from_proto, order(model="")),
    "order.rollout_count": (rollout_order_from_proto, order(rollout_count=0)),
    "order.ground_truth": (
        rollout_order_from_proto,
        order(ground_truth=ground_truth_pb2.GroundTruth(answers={"answers": ["a"]})),
    ),
    "order.reward": (rollout_order_from_proto, order(reward={"components": [{"name": "iou"}]})),
    "order.max_staleness_steps": (rollout_order_from_proto, order(max_staleness_steps=-1)),
    "reward.components": (reward_spec_from_proto, reward_pb2.RewardSpec()),
    "reward.components[0].name": (reward_spec_from_proto, reward_pb2.RewardSpec(components=[{}])),
    "reward.components[0].weight": (
        reward_spec_from_proto,
        reward_pb2.RewardSpec(components=[{"name": "iou", "weight": math.inf}]),
    ),
    "reward.components[0].parameters['beta'].value": (
        reward_spec_from_proto,
        reward_pb2.RewardSpec(components=[{"name": "iou", "parameters": {"beta": {}}}]),
    ),
    "sample.output": (reward_sample_from_proto, reward_pb2.RewardSample(request=QUERY, output=FOUND)),
    "sample.ground_truth": (
        reward_sample_from_proto,
        reward_pb2.RewardSample(request=DETECT, output={"detect": {}}, ground_truth={"points": {}}),
    ),
    "sample.token_count": (
        reward_sample_from_proto,
        reward_pb2.RewardSample(request=QUERY, output={"query": {}}, token_count=-1),
    ),
    "result.status": (reward_result_from_proto, reward_pb2.RewardResult(reward=1)),
    "result.reward": (reward_result_from_proto, reward_pb2.RewardResult(reward=math.nan, status=1)),
    "result.components['iou']": (
        reward_result_from_proto,
        reward_pb2.RewardResult(components={"iou": math.inf}, status=1),
    ),
    "lora.rank": (lora_from_proto, finetune_pb2.LoraSettings(rank=0)),
    "lora.alpha": (lora_from_proto, finetune_pb2.LoraSettings(alpha=0)),
    "lora.targets": (lora_from_proto, finetune_pb2.LoraSettings(targets=[1, 1])),
    "lora.targets[1]": (lora_from_proto, finetune_pb2.LoraSettings(targets=[1, 0])),
    "request_id": (new_finetune_from_proto, trainer_service_pb2.CreateFinetuneRequest(name="a")),
    "name": (new_finetune_from_proto, trainer_service_pb2.CreateFinetuneRequest(request_id="r", name="\n")),
    "branch_from.finetune_id": (
        new_finetune_from_proto,
        trainer_service_pb2.CreateFinetuneRequest(request_id="r", name="a", branch_from={"step": 1}),
    ),
    "ref.selector": (checkpoint_ref_from_proto, checkpoint_pb2.CheckpointRef(finetune_id="ft")),
    "ref.finetune_id": (checkpoint_ref_from_proto, checkpoint_pb2.CheckpointRef(step=1)),
    "ref.step": (checkpoint_ref_from_proto, checkpoint_pb2.CheckpointRef(finetune_id="ft", step=-1)),
    "point.name": (metric_point_from_proto, metric_pb2.MetricPoint(name="a b")),
    "point.value": (metric_point_from_proto, metric_pb2.MetricPoint(name="a", value=math.nan)),
    "settings.loss": (train_settings_from_proto, training_pb2.TrainSettings(loss=99)),
    "settings.learning_rate": (train_settings_from_proto, training_pb2.TrainSettings(learning_rate=2)),
    "settings.passes": (train_settings_from_proto, training_pb2.TrainSettings(passes=0)),
    "header.group_count": (train_header_from_proto, header(group_count=257)),
    "header.finetune_id": (train_header_from_proto, header(finetune_id="")),
    "header.request_id": (train_header_from_proto, header(request_id="r" * 129)),
    "header.expected_step": (train_header_from_proto, header(expected_step=-1)),
    "header.client_state": (train_header_from_proto, header(client_state=bytes(64 * 1024 + 1))),
    "group.kind": (group_from_proto, training_pb2.TrainGroup()),
    "group.rl.request": (group_from_proto, training_pb2.TrainGroup(rl={"rollouts": [{"rollout": rollout()}]})),
    "group.rl.rollouts": (group_from_proto, training_pb2.TrainGroup(rl={"request": DETECT})),
    "group.rl.rollouts[0].output": (group_from_proto, rl(request=QUERY)),
    "group.rl.rollouts[0].reward": (
        group_from_proto,
        rl(rollouts=[{"rollout": rollout(), "reward": math.inf}]),
    ),
    "group.sft.request": (
        group_from_proto,
        sft(request=request_pb2.SkillRequest(images=[PICTURE], caption={}), answer={}),
    ),
    "group.sft.target": (group_from_proto, sft(request=DETECT, answer={"answer": "two"})),
    "group.sft.ground_truth": (
        group_from_proto,
        sft(request=DETECT, ground_truth=ground_truth_pb2.GroundTruth(points={})),
    ),
    "file.name": (bundle_file_from_proto, adapter_files_pb2.BundleFile(name="../etc/passwd", sha256="0" * 64)),
    "file.sha256": (bundle_file_from_proto, adapter_files_pb2.BundleFile(name="a", sha256="A" * 64)),
    "chunk.data": (file_chunk_from_proto, adapter_files_pb2.FileChunk(file="a", data=bytes(2**20 + 1))),
    "input": (inference_request_from_proto, inference_service_pb2.QueryRequest(task={"question": "why?"})),
    "input.model": (
        inference_request_from_proto,
        inference_service_pb2.QueryRequest(input={}, task={"question": "why?"}),
    ),
    "task.question": (inference_request_from_proto, inference_service_pb2.QueryRequest(input={"model": "tiny"})),
    "task.image": (
        inference_request_from_proto,
        inference_service_pb2.DetectRequest(input={"model": "tiny"}, task={"object": "cat"}),
    ),
    "config.train": (job_config_from_proto, job_pb2.JobConfig()),
    "config.skill": (
        job_config_from_proto,
        job_pb2.JobConfig(train={}, held_out={}, reward={"components": [{"name": "iou"}]}),
    ),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_bad_field_is_named(field):
    read, message = REFUSED[field]
    with pytest.raises(InvalidField) as caught:
        read(message)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert "allowed:" in caught.value.message


def test_the_value_given_and_the_values_allowed_are_said():
    with pytest.raises(InvalidField) as caught:
        rollout_order_from_proto(order(rollout_count=65))
    assert caught.value.message == "order.rollout_count is 65; allowed: 1 to 64"


def test_the_digest_of_sent_bytes_is_computed():
    assert image_from_proto(PICTURE) == Image.of(b"picture")


def test_a_rollout_is_written_only_with_an_output_of_its_skill():
    read = rollout_from_proto(rollout())
    odd = Rollout(Skill.DETECT, PointOutput(()), (), read.finish_reason, read.policy, 0, 1.0)
    with pytest.raises(InvalidField, match=r"rollout\.output"):
        rollout_to_proto(odd)


def test_rewards_of_another_length_are_refused():
    ask = SkillRequest(Skill.DETECT, Image.of(b"picture"), object="cat")
    attempt = rollout_from_proto(rollout())
    with pytest.raises(InvalidField, match="2 rewards"):
        rollout_group_to_proto(RolloutGroup(ask, (attempt,), (1.0, 0.0)))


def test_ground_truth_of_two_kinds_is_refused():
    with pytest.raises(InvalidField, match="exactly one"):
        ground_truth_to_proto(GroundTruth(boxes=(Box(0, 0, 1, 1),), points=()))


@pytest.mark.parametrize(
    "write",
    [
        lambda: lora_to_proto(LoraSettings(rank=2**40)),
        lambda: lora_to_proto(LoraSettings(seed=-1)),
        lambda: request_to_proto(
            SkillRequest(Skill.QUERY, question="why?", settings=SamplingSettings(max_tokens=2**40))
        ),
        lambda: request_to_proto(SkillRequest(Skill.QUERY, question="\ud800")),
    ],
    ids=["rank", "seed", "max_tokens", "lone surrogate"],
)
def test_what_no_field_can_hold_is_our_error_and_not_protobufs(write):
    with pytest.raises(InvalidField, match="fit the contract"):
        write()
