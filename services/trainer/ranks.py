"""Where this process stands among the ranks that torchrun started. No torch: the front reads it too."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class Ranks(BaseSettings):
    """What torchrun puts into the environment; without it one rank, alone.

    rank: 0 leads and serves. world_size: how many ranks. master_addr, master_port: of torchrun's key-value store.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    rank: int = 0
    world_size: int = 1
    master_addr: str = "127.0.0.1"
    master_port: int = 29500
    torchelastic_run_id: str = "none"
    torchelastic_restart_count: int = 0

    @property
    def key(self) -> str:
        """Prefix of this start's keys in the store."""
        return f"moontune/{self.torchelastic_run_id}/{self.torchelastic_restart_count}"
