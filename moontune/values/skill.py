"""What can be asked of a model."""

from enum import StrEnum


class Skill(StrEnum):
    """A kind of request. Rollouts and training know query, point and detect; caption is inference only."""

    QUERY = "query"
    POINT = "point"
    DETECT = "detect"
    CAPTION = "caption"


TRAINABLE_SKILLS = (Skill.QUERY, Skill.POINT, Skill.DETECT)
