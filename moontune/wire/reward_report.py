"""Dry runs of a reward: what is graded and what was found."""

from moontune.api.reward.v1 import report_pb2
from moontune.errors import InvalidField
from moontune.values.ground_truth import GroundTruth
from moontune.values.reward_report import GradedExample, RewardProbe, RewardReport, SampleGroup
from moontune.wire.checks import at_least, each, encodes, finite, required, text
from moontune.wire.ground_truth import ground_truth_from_proto, ground_truth_to_proto
from moontune.wire.moments import duration_from_proto, duration_to_proto
from moontune.wire.output import output_from_proto, output_to_proto, skill_of
from moontune.wire.request import request_from_proto, request_to_proto
from moontune.wire.reward import optional_ground_truth, reward_result_from_proto, reward_result_to_proto


@encodes("group")
def sample_group_to_proto(group: SampleGroup) -> report_pb2.SampleGroup:
    """The message."""
    truth = optional_ground_truth(group.ground_truth)
    return report_pb2.SampleGroup(
        request=request_to_proto(group.request),
        outputs=[output_to_proto(output) for output in group.outputs],
        ground_truth=None if truth is None else ground_truth_to_proto(truth),
        token_counts=group.token_counts,
    )


def sample_group_from_proto(message: report_pb2.SampleGroup, field: str = "group") -> SampleGroup:
    """The value; each output is of the request's skill, and labels fit it."""
    required(message.HasField("request"), f"{field}.request", "the request")
    required(bool(message.outputs), f"{field}.outputs", "at least one output")
    request = request_from_proto(message.request, f"{field}.request")
    outputs = each(f"{field}.outputs", message.outputs, output_from_proto)
    for index, output in enumerate(outputs):
        if skill_of(output) is not request.skill:
            raise InvalidField.of(f"{field}.outputs[{index}]", str(skill_of(output)), f"an output of {request.skill}")
    truth = GroundTruth()
    if message.HasField("ground_truth"):
        truth = ground_truth_from_proto(message.ground_truth, f"{field}.ground_truth")
        truth.validate(request.skill, f"{field}.ground_truth")
    counts = each(f"{field}.token_counts", message.token_counts, lambda count, path: at_least(count, 0, path))
    if len(counts) not in (0, len(outputs)):
        raise InvalidField.of(
            f"{field}.token_counts", f"{len(counts)} counts", f"none, or one for each of {len(outputs)}"
        )
    return SampleGroup(request, outputs, truth, counts)


@encodes("report")
def reward_report_to_proto(report: RewardReport) -> report_pb2.RewardReport:
    """The message."""
    return report_pb2.RewardReport(
        samples=report.samples,
        parse_rate=report.parse_rate,
        failed_rate=report.failed_rate,
        mean=report.mean,
        std=report.std,
        dead_group_share=report.dead_group_share,
        time_per_grade=duration_to_proto(report.seconds_per_grade),
        warnings=report.warnings,
        examples=[
            report_pb2.GradedExample(
                group_index=example.group_index,
                output_index=example.output_index,
                result=reward_result_to_proto(example.result),
            )
            for example in report.examples
        ],
        probes=[
            report_pb2.RewardProbe(name=probe.name, description=probe.description, mean=probe.mean)
            for probe in report.probes
        ],
    )


def reward_report_from_proto(message: report_pb2.RewardReport, field: str = "report") -> RewardReport:
    """The value."""
    return RewardReport(
        samples=message.samples,
        parse_rate=finite(message.parse_rate, f"{field}.parse_rate"),
        failed_rate=finite(message.failed_rate, f"{field}.failed_rate"),
        mean=finite(message.mean, f"{field}.mean") if message.HasField("mean") else None,
        std=finite(message.std, f"{field}.std") if message.HasField("std") else None,
        dead_group_share=finite(message.dead_group_share, f"{field}.dead_group_share"),
        seconds_per_grade=duration_from_proto(message.time_per_grade, f"{field}.time_per_grade"),
        warnings=tuple(message.warnings),
        examples=each(f"{field}.examples", message.examples, _example_from_proto),
        probes=each(f"{field}.probes", message.probes, _probe_from_proto),
    )


def _example_from_proto(message: report_pb2.GradedExample, field: str) -> GradedExample:
    required(message.HasField("result"), f"{field}.result", "a result")
    result = reward_result_from_proto(message.result, f"{field}.result")
    return GradedExample(message.group_index, message.output_index, result)


def _probe_from_proto(message: report_pb2.RewardProbe, field: str) -> RewardProbe:
    mean = finite(message.mean, f"{field}.mean") if message.HasField("mean") else None
    return RewardProbe(text(message.name, f"{field}.name"), message.description, mean)
