"""Outputs: the answer's kind names the skill."""

from moontune.api.common.v1 import output_pb2
from moontune.errors import InvalidField
from moontune.values.output import CaptionOutput, DetectOutput, Grounding, Output, PointOutput, QueryOutput, Reasoning
from moontune.values.skill import Skill
from moontune.wire.checks import each, encodes
from moontune.wire.geometry import box_from_proto, box_to_proto, point_from_proto, point_to_proto


def skill_of(output: Output) -> Skill:
    """The skill that gives outputs of this kind."""
    match output:
        case QueryOutput():
            return Skill.QUERY
        case PointOutput():
            return Skill.POINT
        case DetectOutput():
            return Skill.DETECT
        case CaptionOutput():
            return Skill.CAPTION


@encodes("output")
def output_to_proto(output: Output) -> output_pb2.Output:
    """The message."""
    match output:
        case QueryOutput():
            return output_pb2.Output(query=query_output_to_proto(output))
        case PointOutput():
            return output_pb2.Output(point=point_output_to_proto(output))
        case DetectOutput():
            return output_pb2.Output(detect=detect_output_to_proto(output))
        case CaptionOutput():
            return output_pb2.Output(caption=caption_output_to_proto(output))


def output_from_proto(message: output_pb2.Output, field: str = "output") -> Output:
    """The value."""
    match message.WhichOneof("answer"):
        case "query":
            return query_output_from_proto(message.query, f"{field}.query")
        case "point":
            return point_output_from_proto(message.point, f"{field}.point")
        case "detect":
            return detect_output_from_proto(message.detect, f"{field}.detect")
        case "caption":
            return CaptionOutput(message.caption.caption)
        case None:
            raise InvalidField.of(f"{field}.answer", None, "query, point, detect or caption")


def query_output_to_proto(output: QueryOutput) -> output_pb2.QueryOutput:
    """The message; without reasoning where the value has none."""
    message = output_pb2.QueryOutput(answer=output.answer)
    if output.reasoning is not None:
        spans = [_grounding_to_proto(span) for span in output.reasoning.grounding]
        message.reasoning.CopyFrom(output_pb2.Reasoning(text=output.reasoning.text, grounding=spans))
    return message


def _grounding_to_proto(span: Grounding) -> output_pb2.Grounding:
    return output_pb2.Grounding(start=span.start, end=span.end, points=[point_to_proto(point) for point in span.points])


def query_output_from_proto(message: output_pb2.QueryOutput, field: str = "query") -> QueryOutput:
    """The value; its spans lie inside the reasoning text."""
    if not message.HasField("reasoning"):
        return QueryOutput(message.answer)
    length = len(message.reasoning.text)

    def grounding(span: output_pb2.Grounding, path: str) -> Grounding:
        if not 0 <= span.start <= span.end <= length:
            allowed = f"0 <= start <= end <= {length}, the length of the text"
            raise InvalidField.of(path, (span.start, span.end), allowed)
        return Grounding(span.start, span.end, each(f"{path}.points", span.points, point_from_proto))

    spans = each(f"{field}.reasoning.grounding", message.reasoning.grounding, grounding)
    return QueryOutput(message.answer, Reasoning(message.reasoning.text, spans))


def point_output_to_proto(output: PointOutput) -> output_pb2.PointOutput:
    """The message."""
    return output_pb2.PointOutput(points=[point_to_proto(point) for point in output.points])


def point_output_from_proto(message: output_pb2.PointOutput, field: str = "point") -> PointOutput:
    """The value."""
    return PointOutput(each(f"{field}.points", message.points, point_from_proto))


def detect_output_to_proto(output: DetectOutput) -> output_pb2.DetectOutput:
    """The message."""
    return output_pb2.DetectOutput(objects=[box_to_proto(box) for box in output.objects])


def detect_output_from_proto(message: output_pb2.DetectOutput, field: str = "detect") -> DetectOutput:
    """The value."""
    return DetectOutput(each(f"{field}.objects", message.objects, box_from_proto))


def caption_output_to_proto(output: CaptionOutput) -> output_pb2.CaptionOutput:
    """The message."""
    return output_pb2.CaptionOutput(caption=output.caption)
