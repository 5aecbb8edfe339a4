"""Settings of the trainer."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from moontune.serving.settings import ServiceSettings
from services.trainer.orders import LearnerOptions


class TrainerSettings(ServiceSettings):
    """Flags, MOONTUNE_TRAINER_* environment names and file keys; see `python -m services.trainer --help`."""

    prefix: ClassVar[str] = "MOONTUNE_TRAINER_"

    port: int = Field(7053, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    base: str = Field("moontune-tiny", description="Base model: a name in the package or a folder.")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, ...; unset takes the best there is.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one operation.")
    data_dir: Path = Field(Path("data"), description="Local folder of steps, spool and, unless set, the rest.")
    database: str = Field("", description="SQLAlchemy URL; empty is trainer.db in data_dir (SQLite).")
    checkpoint_store: str = Field("", description="Folder or fsspec URL of checkpoints; empty: in data_dir.")
    micro_tokens: int = Field(4096, ge=64, description="Most padded positions of one forward pass; bounds memory.")
    live_finetunes: int = Field(4, ge=1, le=1024, description="Finetunes kept in memory with their moments.")
    image_cache_bytes: int = Field(256 * 2**20, ge=0, description="Bytes of image embeddings kept in a step.")
    pass_memory_bytes: int = Field(0, ge=0, description="Activations of one pass; above 0 it decides micro_tokens.")
    recompute: bool = Field(False, description="Compute activations again for the backward: less memory, more time.")
    autocast: bool = Field(False, description="Compute the body in bf16; weights, moments and heads stay fp32.")
    shard_base: bool = Field(False, description="Under torchrun: divide the base's blocks among the ranks (FSDP2).")
    finetune_memory_bytes: int = Field(0, ge=0, description="For finetunes in memory; 0 is half of the device's.")
    most_watchers: int = Field(256, ge=1, le=65536, description="WatchFinetune calls at a time.")
    import_bytes: int = Field(8 * 2**30, ge=1, description="Most bytes of the files of one ImportAdapter.")
    keep_steps: int = Field(8, ge=1, description="Unsaved steps of a finetune that are always kept.")
    keep_hours: float = Field(24.0, ge=0, description="Older unsaved steps go after these hours.")
    keep_bytes: int = Field(2 * 2**30, ge=0, description="Bytes of older unsaved steps per finetune; oldest go first.")

    @property
    def database_url(self) -> str:
        """The database in use."""
        return self.database or f"sqlite:///{self.data_dir.absolute() / 'trainer.db'}"

    @property
    def store_url(self) -> str:
        """The checkpoint store in use."""
        return self.checkpoint_store or str(self.data_dir.absolute() / "checkpoints")

    @property
    def learner(self) -> LearnerOptions:
        """What the learner is limited to."""
        return LearnerOptions(
            self.micro_tokens,
            self.live_finetunes,
            self.image_cache_bytes,
            self.pass_memory_bytes,
            self.recompute,
            self.finetune_memory_bytes,
            self.autocast,
            self.shard_base,
            self.device,
        )
