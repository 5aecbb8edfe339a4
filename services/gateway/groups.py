"""Groups of a train step: bodies to values."""

from moontune.errors import InvalidField
from moontune.values.ground_truth import GroundTruth
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.sampling import rollout_defaults
from moontune.values.skill import Skill
from moontune.values.training import Group, RlGroup, SftGroup
from services.gateway.convert import boxes_of, points_of, request_of
from services.gateway.images import image_from_url
from services.gateway.record import RecordSigner
from services.gateway.rollout_objects import reasoning_of, rollout_of
from services.gateway.schemas import RlGroupBody, SftGroupBody, TargetBody


class GroupReader:
    """Reads groups for one caller and finetune."""

    def __init__(self, signer: RecordSigner, organisation: str, unknown: PolicyVersion, image_bytes: int) -> None:
        """unknown: stands in for the policy of a rollout that carries no record of ours."""
        self._signer = signer
        self._organisation = organisation
        self._unknown = unknown
        self._image_bytes = image_bytes

    def read(self, body: RlGroupBody | SftGroupBody, field: str) -> Group:
        """The group; InvalidField names what is wrong below `field`."""
        defaults = rollout_defaults(Skill(body.request.skill))
        url, image_field = body.request.image_url, f"{field}.request.image_url"
        image = image_from_url(url, image_field, self._image_bytes) if url else None
        request = request_of(body.request, defaults, f"{field}.request", image)
        if isinstance(body, SftGroupBody):
            return SftGroup(request, _target(body.target, request, f"{field}.target"))
        if len(body.rewards) != len(body.rollouts):
            allowed = f"{len(body.rollouts)} rewards, one a rollout"
            raise InvalidField.of(f"{field}.rewards", f"{len(body.rewards)} rewards", allowed)
        read = [
            rollout_of(rollout, request, self._signer, self._organisation, self._unknown, f"{field}.rollouts[{index}]")
            for index, rollout in enumerate(body.rollouts)
        ]
        return RlGroup(
            request=request,
            rollouts=tuple(rollout for rollout, _ in read),
            rewards=tuple(body.rewards),
            verified=all(ours for _, ours in read),
            target=None if body.target is None else _target(body.target, request, f"{field}.target"),
        )


def _target(body: TargetBody, request: SkillRequest, field: str) -> QueryOutput | GroundTruth:
    given = sorted(name for name in body.model_fields_set if getattr(body, name) is not None)
    if request.skill is Skill.QUERY:
        wanted = ["answer", "reasoning"] if request.reasoning else ["answer"]
        if given != wanted or body.answer is None:
            raise InvalidField.of(field, given, f"{' and '.join(wanted)} for this query")
        return QueryOutput(body.answer, reasoning_of(body.reasoning))
    if "answer" in given or "reasoning" in given:
        raise InvalidField.of(field, given, "boxes" if request.skill is Skill.DETECT else "points or boxes")
    truth = GroundTruth(
        boxes=None if body.boxes is None else boxes_of(body.boxes),
        points=None if body.points is None else points_of(body.points),
    )
    truth.validate(request.skill, field)
    if request.skill is Skill.DETECT and not truth.boxes:
        raise InvalidField.of(f"{field}.boxes", [], "one or more boxes")
    return truth
