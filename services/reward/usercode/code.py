"""Python and JavaScript, in the sandbox."""

from collections.abc import Mapping, Sequence

from moontune.errors import InvalidField
from moontune.values.reward import Parameter, RewardSample
from moontune.values.reward_definition import UserCode
from services.reward.sandbox.sandbox import Sandbox
from services.reward.sandbox.verdict import Failure, Verdict
from services.reward.usercode.sample_json import sample_to_json


class SandboxedCode:
    """One organisation's code; see `Source`."""

    kind = "code"

    def __init__(self, sandbox: Sandbox, organisation: str, code: UserCode) -> None:
        self._sandbox, self._organisation, self._code = sandbox, organisation, code

    async def score(self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]) -> Sequence[Verdict]:
        """One verdict a sample. Raises SandboxMissing."""
        texts = [sample_to_json(sample, parameters) for sample in samples]
        return await self._sandbox.grade(self._organisation, self._code, texts)

    async def check(self) -> None:
        """Raise InvalidField where the code does not load (it is tried on an empty sample), SandboxMissing likewise."""
        (verdict,) = await self._sandbox.grade(self._organisation, self._code, [b"{}"])
        if verdict.failure is Failure.LOAD_FAILED:
            entry = "score(sample)" if self._code.language == "python" else "reward(out, gt)"
            raise InvalidField.of(
                "definition.code.source", verdict.reason, f"{self._code.language} code that loads and defines {entry}"
            )
