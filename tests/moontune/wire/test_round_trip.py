"""Every value comes back from its message as it went, through the bytes of the wire."""

import dataclasses
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moontune.errors import FieldViolation, all_errors
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.sampling import SamplingSettings, inference_defaults
from moontune.values.skill import Skill
from moontune.values.training import SftGroup, TrainStep
from moontune.wire import (
    adapter,
    answer,
    bundle,
    checkpoint,
    dataset,
    engine,
    finetune,
    finetune_event,
    geometry,
    ground_truth,
    image,
    inference,
    item_error,
    job,
    logprobs,
    metric,
    model_info,
    output,
    policy,
    request,
    reward,
    reward_definition,
    reward_report,
    rollout,
    rollout_order,
    sampling,
    sandbox,
    train_settings,
    training,
)
from tests.moontune.wire import strategies as values

CASES = {
    "point": (values.points, geometry.point_to_proto, geometry.point_from_proto),
    "box": (values.boxes, geometry.box_to_proto, geometry.box_from_proto),
    "spatial_ref": (values.spatial_refs, geometry.spatial_ref_to_proto, geometry.spatial_ref_from_proto),
    "image": (values.images, image.image_to_proto, image.image_from_proto),
    "sampling": (
        values.sampling,
        sampling.sampling_to_proto,
        partial(sampling.sampling_from_proto, defaults=SamplingSettings()),
    ),
    "request": (values.requests, request.request_to_proto, request.request_from_proto),
    "output": (values.outputs, output.output_to_proto, output.output_from_proto),
    "masks": (values.mask_truths, ground_truth.ground_truth_to_proto, ground_truth.ground_truth_from_proto),
    "poses": (values.pose_truths, ground_truth.ground_truth_to_proto, ground_truth.ground_truth_from_proto),
    "ground_truth": (values.truths, ground_truth.ground_truth_to_proto, ground_truth.ground_truth_from_proto),
    "policy": (values.policies, policy.policy_to_proto, policy.policy_from_proto),
    "decision": (values.decisions(), rollout.decision_to_proto, rollout.decision_from_proto),
    "rollout": (values.rollouts(), rollout.rollout_to_proto, rollout.rollout_from_proto),
    "rollout_group": (values.rollout_groups(), rollout.rollout_group_to_proto, rollout.rollout_group_from_proto),
    "rollout_order": (
        values.rollout_orders(),
        rollout_order.rollout_order_to_proto,
        rollout_order.rollout_order_from_proto,
    ),
    "adapter_status": (values.adapter_statuses, adapter.adapter_status_to_proto, adapter.adapter_status_from_proto),
    "engine_status": (values.engine_statuses, engine.engine_status_to_proto, engine.engine_status_from_proto),
    "reward_spec": (values.specs, reward.reward_spec_to_proto, reward.reward_spec_from_proto),
    "reward_sample": (values.reward_samples(), reward.reward_sample_to_proto, reward.reward_sample_from_proto),
    "reward_result": (values.results, reward.reward_result_to_proto, reward.reward_result_from_proto),
    "reward_info": (values.reward_infos, reward.reward_info_to_proto, reward.reward_info_from_proto),
    "reward_definition": (
        values.definitions,
        reward_definition.reward_definition_to_proto,
        reward_definition.reward_definition_from_proto,
    ),
    "sample_group": (
        values.sample_groups(),
        reward_report.sample_group_to_proto,
        reward_report.sample_group_from_proto,
    ),
    "reward_report": (
        values.reports,
        reward_report.reward_report_to_proto,
        reward_report.reward_report_from_proto,
    ),
    "sandbox_status": (values.sandboxes, sandbox.sandbox_status_to_proto, sandbox.sandbox_status_from_proto),
    "lora": (values.loras, finetune.lora_to_proto, finetune.lora_from_proto),
    "finetune": (values.finetunes, finetune.finetune_to_proto, finetune.finetune_from_proto),
    "new_finetune": (values.new_finetunes, finetune.new_finetune_to_proto, finetune.new_finetune_from_proto),
    "checkpoint": (values.checkpoints, checkpoint.checkpoint_to_proto, checkpoint.checkpoint_from_proto),
    "checkpoint_ref": (
        values.checkpoint_refs,
        checkpoint.checkpoint_ref_to_proto,
        checkpoint.checkpoint_ref_from_proto,
    ),
    "metric_point": (values.metric_points, metric.metric_point_to_proto, metric.metric_point_from_proto),
    "finetune_event": (
        values.finetune_events,
        finetune_event.finetune_event_to_proto,
        finetune_event.finetune_event_from_proto,
    ),
    "train_settings": (
        values.train_settings,
        train_settings.train_settings_to_proto,
        train_settings.train_settings_from_proto,
    ),
    "group": (values.groups, training.group_to_proto, training.group_from_proto),
    "train_result": (values.train_results, training.train_result_to_proto, training.train_result_from_proto),
    "rollout_batch": (values.rollout_batches(), logprobs.rollout_batch_to_proto, logprobs.rollout_batch_from_proto),
    "logprob_result": (
        values.logprob_results,
        logprobs.logprob_result_to_proto,
        logprobs.logprob_result_from_proto,
    ),
    "adapter_manifest": (
        values.manifests,
        bundle.adapter_manifest_to_proto,
        bundle.adapter_manifest_from_proto,
    ),
    "file_chunk": (values.chunks, bundle.file_chunk_to_proto, bundle.file_chunk_from_proto),
    "adapter_import": (values.imports, bundle.adapter_import_to_proto, bundle.adapter_import_from_proto),
    "export_manifest": (values.exports, bundle.export_manifest_to_proto, bundle.export_manifest_from_proto),
    "model_info": (values.model_infos, model_info.model_info_to_proto, model_info.model_info_from_proto),
    "job_config": (values.job_configs, job.job_config_to_proto, job.job_config_from_proto),
    "job": (values.jobs, job.job_to_proto, job.job_from_proto),
    "job_event": (values.jobs | values.progresses, job.job_event_to_proto, job.job_event_from_proto),
    "preset": (values.presets, job.preset_to_proto, job.preset_from_proto),
    "dataset": (values.datasets, dataset.dataset_to_proto, dataset.dataset_from_proto),
    "dataset_upload": (values.uploads, dataset.dataset_upload_to_proto, dataset.dataset_upload_from_proto),
}
INFERENCE = {
    "query": (Skill.QUERY, inference.query_request_to_proto, answer.query_answer_to_proto),
    "point": (Skill.POINT, inference.point_request_to_proto, answer.point_answer_to_proto),
    "detect": (Skill.DETECT, inference.detect_request_to_proto, answer.detect_answer_to_proto),
    "caption": (Skill.CAPTION, inference.caption_request_to_proto, answer.caption_answer_to_proto),
}
for _name, (_skill, _ask, _answer) in INFERENCE.items():
    _stream_ask = getattr(inference, f"stream_{_name}_request_to_proto")
    _event = getattr(answer, f"{_name}_event_to_proto")
    _piece = {Skill.POINT: values.points, Skill.DETECT: values.boxes}.get(_skill, values.deltas)
    _orders = values.inference_requests(_skill)
    CASES[f"{_name} request"] = (_orders, _ask, inference.inference_request_from_proto)
    CASES[f"{_name} stream request"] = (_orders, _stream_ask, inference.inference_request_from_proto)
    CASES[f"{_name} answer"] = (values.answers(_skill), _answer, answer.answer_from_proto)
    CASES[f"{_name} event"] = (_piece | values.answers(_skill), _event, answer.event_from_proto)

# The same examples on each run: a default test that fails once a month teaches nobody anything.
quick = settings(
    max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
many = settings(quick, max_examples=150)


def over_the_wire(message):
    return type(message).FromString(message.SerializeToString())


@pytest.mark.parametrize("name", CASES)
@quick
@given(data=st.data())
def test_a_value_comes_back_as_it_went(name, data):
    strategy, to_proto, from_proto = CASES[name]
    value = data.draw(strategy)
    assert from_proto(over_the_wire(to_proto(value))) == value


@quick
@given(step=values.train_steps)
def test_a_step_comes_back_from_its_stream(step):
    header, *groups = [over_the_wire(message) for message in training.train_step_to_messages(step)]
    read, count = training.train_header_from_proto(header.header)
    assert read == dataclasses.replace(step, groups=())
    assert count == len(groups) == len(step.groups)
    held = {group.request.image.sha256: group.request.image for group in reversed(step.groups) if group.request.image}
    assert [with_bytes(training.group_from_proto(message.group), held) for message in groups] == [
        with_bytes(group, held) for group in step.groups
    ]


def with_bytes(group, held):
    named = group.request.image
    return dataclasses.replace(group, request=dataclasses.replace(group.request, image=named and held[named.sha256]))


def test_a_step_sends_the_bytes_of_an_image_once():
    ask = SkillRequest(Skill.DETECT, Image.of(b"picture"), object="cat")
    step = TrainStep("ft", "id", (SftGroup(ask, GroundTruth(boxes=())),) * 3)
    sources = [
        message.group.sft.request.images[0].WhichOneof("source")
        for message in training.train_step_to_messages(step)
        if message.HasField("group")
    ]
    assert sources == ["data", "sha256", "sha256"]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_an_item_error_comes_back_as_its_class(kind):
    error = kind("no", metadata={"step": "3"}, violations=[FieldViolation("a.b", "bad")], retry_after_s=1.5)
    back = item_error.item_error_from_proto(over_the_wire(item_error.item_error_to_proto(error)))
    assert type(back) is kind
    assert (back.message, back.metadata, back.violations, back.retry_after_s) == (
        "no",
        {"step": "3"},
        (FieldViolation("a.b", "bad"),),
        1.5,
    )


def test_unset_settings_take_the_callers_defaults():
    ask = request.request_pb2.SkillRequest(query={"question": "why?"})
    ask.settings.max_tokens = 7
    assert request.request_from_proto(ask).settings == SamplingSettings(max_tokens=7)
    read = request.request_from_proto(ask, defaults=inference_defaults)
    assert read.settings == dataclasses.replace(inference_defaults(Skill.QUERY), max_tokens=7)


def note_fields(message, written, declared):
    """Collect the fields set in a message and below, and those that the messages met declare."""
    declared.update(field.full_name for field in message.DESCRIPTOR.fields)
    for field, value in message.ListFields():
        written.add(field.full_name)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for item in value if field.is_repeated else [value]:
                note_fields(item, written, declared)


def test_no_field_of_a_mapped_message_is_forgotten():
    """A field of the contract that no value ever sets would be silently ignored."""
    written: set[str] = set()
    declared: set[str] = set()
    for strategy, to_proto, _ in [*CASES.values(), (values.train_steps, training.train_header_to_proto, None)]:
        messages = strategy.map(to_proto)
        quick(given(message=messages)(lambda message: note_fields(message, written, declared)))()
    assert sorted(declared - written) == []
