"""Settings of the inference service. Environment prefix MOONTUNE_INFERENCE_."""

from typing import ClassVar

from pydantic import Field

from moontune.serving.engine_service import EngineServiceSettings


class InferenceSettings(EngineServiceSettings):
    """Where to listen, what to answer with, and where saved steps are."""

    prefix: ClassVar[str] = "MOONTUNE_INFERENCE_"

    port: int = Field(7054, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    checkpoint_store: str = Field("data/checkpoints", description="Folder or fsspec URL of the checkpoint store.")
    recheck_s: float = Field(10.0, ge=0, description="How long a saved step is served before the store is asked again.")
