"""Where the trainer keeps files on its local volume.

<data_dir>/steps/<finetune_id>/<step, 8 digits>-<ulid>/   one applied step; the ULID keeps a step that was never
                                                          acknowledged apart from the one that takes its number
<data_dir>/spool/<ulid>/                                  the groups of a call under way
"""

import shutil
from collections.abc import Collection
from pathlib import Path

from ulid import ULID

from moontune.checkpoints.folder import remove_folder, remove_partials
from services.trainer.spool import remove_spools


class StepFolders:
    """Names and paths of step folders; a name is what the database holds."""

    def __init__(self, data_dir: Path) -> None:
        self._steps = data_dir.absolute() / "steps"
        self.spool = data_dir.absolute() / "spool"
        self._steps.mkdir(parents=True, exist_ok=True)

    def new_name(self, finetune_id: str, step: int) -> str:
        """A name that was never used."""
        return f"{finetune_id}/{step:08d}-{ULID()}"

    def path(self, name: str) -> Path:
        """The folder of a name."""
        return self._steps / name

    def remove(self, name: str) -> None:
        """Delete a step's files."""
        remove_folder(self.path(name))

    def remove_finetune(self, finetune_id: str) -> None:
        """Delete every step of a finetune."""
        shutil.rmtree(self._steps / finetune_id, ignore_errors=True)

    def clean(self, known: Collection[str]) -> list[str]:
        """Remove what a killed process left: spools, partial folders, steps that were never acknowledged.

        Only at start, before any call. Returns the names of the removed steps.
        """
        remove_spools(self.spool)
        removed: list[str] = []
        for finetune in self._steps.iterdir():
            remove_partials(finetune)
            for folder in list(finetune.iterdir()):
                name = f"{finetune.name}/{folder.name}"
                if name not in known:
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(name)
            if not any(finetune.iterdir()):
                finetune.rmdir()
        return removed
