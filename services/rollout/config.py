"""Settings of the rollout service. Environment prefix MOONTUNE_ROLLOUT_."""

from typing import ClassVar

from pydantic import Field

from moontune.serving.engine_service import EngineServiceSettings


class RolloutSettings(EngineServiceSettings):
    """Where to listen, what to generate with, and whom to ask for adapters and scores."""

    prefix: ClassVar[str] = "MOONTUNE_ROLLOUT_"

    port: int = Field(7051, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    trainer_address: str = Field("127.0.0.1:7053", description="host:port that adapters come from.")
    reward_address: str = Field("127.0.0.1:7052", description="host:port that scores attempts against ground truth.")
    stream_orders: int = Field(64, ge=1, le=65536, description="Orders of one stream taken before their answers.")
