"""What services over an engine share: its settings, its worker, and its folder of adapter files."""

import asyncio
import tempfile
from pathlib import Path

from pydantic import Field

from moontune.engine.adapter_folders import AdapterFolders
from moontune.engine.settings import MEBIBYTE, EngineSettings
from moontune.serving.chassis import Chassis
from moontune.serving.settings import ServiceSettings
from moontune.serving.worker_protocol import WorkerSpec
from moontune.telemetry import names

ENGINE = {"engine": "moontune.engine.worker:build"}
"""The worker component that generates; services that share a process name it alike and share one engine."""


class EngineServiceSettings(ServiceSettings):
    """Which base to generate with, and what the engine may use."""

    base: str = Field("moontune-tiny", description="Name or folder of the base model; a process serves exactly one.")
    base_aliases: tuple[str, ...] = Field(("moondream3-preview",), description="Other names of the base.")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, ...; unset takes the best there is.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one operation.")
    adapter_dir: Path | None = Field(None, description="Folder of fetched adapters; unset takes a temporary one.")
    adapter_dir_bytes: int = Field(2048 * MEBIBYTE, ge=0, description="Most bytes of adapter files there.")
    adapter_bytes: int = Field(512 * MEBIBYTE, ge=0, description="Most bytes of adapters kept on the device.")
    image_bytes: int = Field(256 * MEBIBYTE, ge=0, description="Most bytes of encoded images kept for their digests.")
    image_token_bytes: int = Field(256 * MEBIBYTE, ge=0, description="Most bytes of image tokens on the device.")
    adapter_host_bytes: int = Field(1024 * MEBIBYTE, ge=0, description="Most bytes of adapters kept in host memory.")
    kv_bytes: int = Field(2048 * MEBIBYTE, ge=0, description="Most bytes of keys and values of what is being decoded.")
    prefix_bytes: int = Field(256 * MEBIBYTE, ge=0, description="Most bytes of prompts kept for the next request.")
    prefill_positions: int = Field(2048, ge=1, description="Positions of prompts run between two decode steps.")
    max_sequences: int = Field(128, ge=1, le=65536, description="Attempts or answers decoded at once.")

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
            prefill_positions=self.prefill_positions,
            kv_bytes=self.kv_bytes,
            prefix_cache_bytes=self.prefix_bytes,
            adapter_host_bytes=self.adapter_host_bytes,
            image_cache_bytes=self.image_token_bytes,
            adapter_cache_bytes=self.adapter_bytes,
        )


def adapter_folders(chassis: Chassis, settings: EngineServiceSettings) -> AdapterFolders:
    """The folder of adapter files; a temporary one goes when the chassis stops."""
    folder = settings.adapter_dir
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="moontune-adapters-", ignore_cleanup_errors=True)

        async def remove() -> None:
            await asyncio.to_thread(temporary.cleanup)

        chassis.on_stop(remove)
        folder = Path(temporary.name)
    observe = chassis.metrics.histogram(names.ADAPTER_FETCH_SECONDS).observe
    return AdapterFolders(folder, settings.adapter_dir_bytes, observe)
