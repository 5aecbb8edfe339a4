"""Settings of the reward service. Environment prefix MOONTUNE_REWARD_."""

import os
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, SecretStr, model_validator

from moontune.serving.settings import ServiceSettings
from moontune.values.sandbox import SandboxProfile
from services.reward.sandbox.limits import MIB, SandboxLimits


class RewardSettings(ServiceSettings):
    """Where to listen, how user code is kept in, and whom user rewards may be sent to."""

    prefix: ClassVar[str] = "MOONTUNE_REWARD_"

    port: int = Field(7052, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    database: str = Field(
        "", description="SQLAlchemy URL of the registered rewards; empty: in memory, gone at the end."
    )
    sandbox: SandboxProfile = Field(SandboxProfile.POD, description="How user code is kept in: pod, host or trusted.")
    sandbox_processes: int = Field(
        max(2, min(8, os.cpu_count() or 2)), ge=1, le=256, description="Most jails for each language of user code."
    )
    code_cpu_s: float = Field(2.0, gt=0, le=120, description="CPU seconds of user code for one sample.")
    code_wall_s: float = Field(5.0, gt=0, le=120, description="Seconds of user code for one sample.")
    code_memory_bytes: int = Field(512 * MIB, ge=16 * MIB, description="Memory of one batch's process of user code.")
    allowed_endpoints: list[str] = Field(
        default_factory=list[str], description="Hosts, or host:port, that remote rewards and judges may be at."
    )
    plugins_ca: Path | None = Field(None, description="PEM roots of remote rewards' certificates; unset: plaintext.")
    plugins: list[str] = Field(
        default_factory=list[str], description="Installed plugins (entry points) to load; trusted."
    )
    docker_host: str = Field("", description="Docker daemon for container rewards; empty: there are none.")
    inference_address: str = Field("127.0.0.1:7054", description="host:port of the inference service, for judges.")
    services_ca: Path | None = Field(None, description="PEM roots of the services' certificates; unset: plaintext.")
    judge_keys: dict[str, SecretStr] = Field(
        default_factory=dict[str, SecretStr], description="API keys of judges by host."
    )
    judge_requests_per_minute: float = Field(600.0, gt=0, description="Most questions to judges in a minute, of all.")
    judge_image_bytes: int = Field(64 * MIB, ge=0, description="Memory for images that judges see.")

    @property
    def limits(self) -> SandboxLimits:
        """Of one grade of user code."""
        return SandboxLimits(self.code_cpu_s, self.code_wall_s, self.code_memory_bytes)

    @model_validator(mode="after")
    def _trusted_only_at_home(self) -> Self:
        if self.sandbox is SandboxProfile.TRUSTED and not self.loopback:
            raise ValueError("sandbox trusted runs user code unconfined: only a host on loopback may have it")
        return self
