"""Rewards that the operator installed: Python packages with an entry point in the group `moontune.rewards`.

They run in the service's own process and are trusted as the service is; only those whose names the operator lists are
loaded. A user can neither bring nor change one.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from moontune.serving.settings import StartupError
from moontune.values.reward import Parameter, RewardInfo, RewardSample
from moontune.values.skill import Skill
from services.reward.sandbox.verdict import Failure, Verdict, verdict_from_json
from services.reward.usercode.sample_json import sample_to_document

GROUP = "moontune.rewards"


class InstalledPlugin:
    """`score(sample)` of an installed package; see `Source`. It reads the same document that user code does."""

    kind = "plugin"

    def __init__(self, score: Callable[[dict[str, Any]], Any]) -> None:
        self._function = score

    async def score(self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]) -> Sequence[Verdict]:
        """One verdict a sample, from a thread."""
        return await asyncio.to_thread(lambda: [self._one(sample, parameters) for sample in samples])

    def _one(self, sample: RewardSample, parameters: Mapping[str, Parameter]) -> Verdict:
        try:
            given = self._function(sample_to_document(sample, parameters))
            return verdict_from_json(json.dumps(given if type(given) is dict else {"reward": given}).encode())
        except Exception as error:  # a broken grade is this sample's alone
            return Verdict.failed(Failure.RAISED, f"{type(error).__name__}: {error}")


def installed_plugins(names: Sequence[str]) -> dict[str, tuple[RewardInfo, InstalledPlugin]]:
    """The plugins of these names, loaded. Raises StartupError for one that is not installed or does not load."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    loaded: dict[str, tuple[RewardInfo, InstalledPlugin]] = {}
    for name in names:
        if name not in found:
            listed = ", ".join(sorted(found)) or "none"
            raise StartupError(f"no installed package has the reward plugin {name!r}; installed ones: {listed}")
        try:
            score = found[name].load()
        except Exception as error:
            raise StartupError(f"the reward plugin {name!r} does not load: {error}") from error
        info = RewardInfo(name, (score.__doc__ or "an installed plugin").strip(), tuple(map(str, Skill)), ())
        loaded[name] = (info, InstalledPlugin(score))
    return loaded
