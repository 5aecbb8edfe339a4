"""Settings of the inference service. Environment prefix MOONTUNE_INFERENCE_."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from moontune.engine.settings import MEBIBYTE, EngineSettings
from moontune.serving.settings import ServiceSettings
from moontune.serving.worker_protocol import WorkerSpec

ENGINE = {"engine": "moontune.engine.worker:build"}
"""The worker component that answers; rollout names it alike and shares it where both run in one process."""


class InferenceSettings(ServiceSettings):
    """Where to listen, what to answer with, and where saved steps are."""

    prefix: ClassVar[str] = "MOONTUNE_INFERENCE_"

    port: int = Field(7054, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    base: str = Field("moontune-tiny", description="Name or folder of the base model; a process serves exactly one.")
    base_aliases: tuple[str, ...] = Field(("moondream3-preview",), description="Other names of the base.")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, ...; unset takes the best there is.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one operation.")
    checkpoint_store: str = Field("data/checkpoints", description="Folder or fsspec URL of the checkpoint store.")
    recheck_s: float = Field(10.0, ge=0, description="How long a saved step is served before the store is asked again.")
    adapter_dir: Path | None = Field(None, description="Folder of fetched adapters; unset takes a temporary one.")
    adapter_dir_bytes: int = Field(2048 * MEBIBYTE, ge=0, description="Most bytes of adapter files there.")
    adapter_bytes: int = Field(512 * MEBIBYTE, ge=0, description="Most bytes of adapters kept on the device.")
    image_bytes: int = Field(256 * MEBIBYTE, ge=0, description="Most bytes of encoded images kept for their digests.")
    image_token_bytes: int = Field(256 * MEBIBYTE, ge=0, description="Most bytes of image tokens on the device.")
    max_sequences: int = Field(128, ge=1, le=65536, description="Answers decoded at once.")
    gather_ms: float = Field(1.0, ge=0, le=1000, description="How long a batch waits for one more request.")

    def worker(self) -> WorkerSpec:
        """The model worker that the service needs."""
        return WorkerSpec(
            base=self.base,
            device=self.device,
            threads=self.threads,
            components=ENGINE,
            options={"engine": self.engine()},
        )

    def engine(self) -> EngineSettings:
        """The engine's share of the settings."""
        return EngineSettings(
            max_sequences=self.max_sequences,
            gather_s=self.gather_ms / 1000,
            image_cache_bytes=self.image_token_bytes,
            adapter_cache_bytes=self.adapter_bytes,
        )
