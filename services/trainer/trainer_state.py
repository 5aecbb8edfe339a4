"""`trainer_state.json`: the step's number and the caller's opaque bytes. Torch-free: saving a checkpoint edits it."""

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path

from moontune.errors import CheckpointCorrupt

TRAINER_STATE_FILE = "trainer_state.json"


@dataclass(frozen=True, slots=True)
class TrainerState:
    """step: applied optimiser steps. client_state: at most 64 KiB of the caller's own, or None."""

    step: int
    client_state: bytes | None = None

    def to_json(self) -> str:
        """Readable JSON, the bytes in base64."""
        held = None if self.client_state is None else base64.b64encode(self.client_state).decode()
        return json.dumps({"step": self.step, "client_state": held}, indent=2, sort_keys=True)

    @classmethod
    def read(cls, folder: Path) -> "TrainerState":
        """Of a step folder; CheckpointCorrupt, naming the file, when it cannot be read."""
        path = folder / TRAINER_STATE_FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CheckpointCorrupt(f"{path} cannot be read: {error}") from error
        return cls.from_json(content, str(path))

    @classmethod
    def from_json(cls, content: bytes, where: str) -> "TrainerState":
        """Read the file's content back; CheckpointCorrupt, naming `where`, when it is something else."""
        try:
            fields = json.loads(content)
            held = fields["client_state"]
            return cls(int(fields["step"]), None if held is None else base64.b64decode(held, validate=True))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise CheckpointCorrupt(f"{where} cannot be read: {error}") from error
