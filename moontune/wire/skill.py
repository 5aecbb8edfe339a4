"""Skills."""

from moontune.api.common.v1 import skill_pb2
from moontune.values.skill import Skill
from moontune.wire.checks import EnumMap

SKILLS = EnumMap(
    {
        Skill.QUERY: skill_pb2.SKILL_QUERY,
        Skill.POINT: skill_pb2.SKILL_POINT,
        Skill.DETECT: skill_pb2.SKILL_DETECT,
        Skill.CAPTION: skill_pb2.SKILL_CAPTION,
    }
)


def skill_to_proto(skill: Skill) -> skill_pb2.Skill.ValueType:
    """The enum's number."""
    return SKILLS.encode(skill)


def skill_from_proto(number: skill_pb2.Skill.ValueType, field: str = "skill") -> Skill:
    """The value; unspecified is refused."""
    return SKILLS.decode(number, field)
