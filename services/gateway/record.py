"""The record that rides in a rollout object under the key `moontune`: what the policy did, signed.

The API's own fields hold no log-probabilities, which off-policy correction needs. The record does, with the policy
version, seed and temperature. Only strings and integers stand in it, so that any JSON library carries it unchanged:

    {"policy": {base, base_digest, finetune_id, step, adapter_digest}, "seed": "17", "temperature": "1.0",
     "top_p": "1.0", "thinking_count": 0, "decisions": base64, "nuclei": {"3": [..]}, "mac": base64}

`decisions` packs head (1 byte), choice (uint32) and log-probability (float32) of each, little endian. The MAC covers
the record, the rollout's own token fields, the request that it answers, and the organisation.
"""

import base64
import binascii
import hashlib
import hmac
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from moontune.values.model_ref import PolicyVersion
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, Head, Rollout
from services.gateway.convert import Json

_HEADS = (Head.TOKEN, Head.GO, Head.X, Head.Y, Head.WIDTH, Head.HEIGHT)
_DECISION = struct.Struct("<BIf")


@dataclass(frozen=True, slots=True)
class Record:
    """What a valid record says."""

    policy: PolicyVersion
    seed: int
    temperature: float
    top_p: float
    thinking_count: int
    decisions: tuple[Decision, ...]


class RecordSigner:
    """Writes and checks records with one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def write(self, rollout: Rollout, visible: Json, request: SkillRequest, organisation: str) -> Json:
        """The record of a rollout. visible: the rollout object's own fields, covered by the MAC."""
        policy = rollout.policy
        record: Json = {
            "policy": {
                "base": policy.base,
                "base_digest": policy.base_digest,
                "finetune_id": policy.finetune_id,
                "step": policy.step,
                "adapter_digest": policy.adapter_digest,
            },
            "seed": str(rollout.seed),
            "temperature": repr(rollout.temperature),
            "top_p": repr(rollout.top_p),
            "thinking_count": rollout.thinking_count,
            "decisions": _packed(rollout.decisions),
            "nuclei": {
                str(index): list(decision.nucleus)
                for index, decision in enumerate(rollout.decisions)
                if decision.nucleus is not None
            },
        }
        return record | {"mac": self._mac(record, visible, request, organisation)}

    def read(self, given: object, visible: Json, request: SkillRequest, organisation: str) -> Record | None:
        """The record, or None unless its MAC holds for exactly this rollout, request and organisation."""
        if not isinstance(given, dict):
            return None
        record = dict(cast("dict[str, object]", given))
        mac = record.pop("mac", None)
        try:
            expected = self._mac(record, visible, request, organisation)
            if not isinstance(mac, str) or not hmac.compare_digest(mac.encode(), expected.encode()):
                return None
            return _record(record)
        except (ValueError, TypeError, KeyError, RecursionError, struct.error, binascii.Error):
            return None

    def _mac(self, record: Mapping[str, object], visible: Json, request: SkillRequest, organisation: str) -> str:
        covered = {
            "record": record,
            "rollout": visible,
            "request": request_digest(request),
            "organisation": organisation,
        }
        text = json.dumps(covered, sort_keys=True, separators=(",", ":"))
        return base64.b64encode(hmac.new(self._secret, text.encode(), hashlib.sha256).digest()).decode()


def request_digest(request: SkillRequest) -> str:
    """SHA-256 over what was asked about which image; sampling settings are the rollout's own."""
    refs = [repr(ref) for ref in request.spatial_refs]
    image = request.image.sha256 if request.image else ""
    asked = [str(request.skill), image, request.question, request.object, refs, request.reasoning]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _packed(decisions: Sequence[Decision]) -> str:
    packed = b"".join(_DECISION.pack(_HEADS.index(one.head), one.choice, one.logprob) for one in decisions)
    return base64.b64encode(packed).decode()


def _record(record: Mapping[str, object]) -> Record:
    """Read a record whose MAC held: we wrote it, so its shape is ours."""
    policy = cast("Mapping[str, object]", record["policy"])
    nuclei = cast("Mapping[str, Sequence[int]]", record["nuclei"])
    unpacked = _DECISION.iter_unpack(base64.b64decode(str(record["decisions"]), validate=True))
    decisions = [
        Decision(
            head=_HEADS[cast("int", head)],
            choice=cast("int", choice),
            logprob=cast("float", logprob),
            nucleus=tuple(nuclei[str(index)]) if str(index) in nuclei else None,
        )
        for index, (head, choice, logprob) in enumerate(unpacked)
    ]
    return Record(
        policy=PolicyVersion(
            base=str(policy["base"]),
            base_digest=str(policy["base_digest"]),
            finetune_id=str(policy["finetune_id"]),
            step=cast("int", policy["step"]),
            adapter_digest=str(policy["adapter_digest"]),
        ),
        seed=int(str(record["seed"])),
        temperature=float(str(record["temperature"])),
        top_p=float(str(record["top_p"])),
        thinking_count=cast("int", record["thinking_count"]),
        decisions=tuple(decisions),
    )
