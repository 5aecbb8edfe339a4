"""Settings of the reward service. Environment prefix MOONTUNE_REWARD_."""

from typing import ClassVar

from pydantic import Field

from moontune.serving.settings import ServiceSettings
from moontune.values.sandbox import SandboxProfile


class RewardSettings(ServiceSettings):
    """Where to listen, and how user code would be kept in."""

    prefix: ClassVar[str] = "MOONTUNE_REWARD_"

    port: int = Field(7052, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    sandbox: SandboxProfile = Field(SandboxProfile.POD, description="How user code is kept in: pod, host or trusted.")
