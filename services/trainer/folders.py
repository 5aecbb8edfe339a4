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

    def name(self, path: str) -> str:
        """The name of a folder by its path."""
        return str(Path(path).relative_to(self._steps))

    def path(self, name: str) -> Path:
        """The folder of a name."""
        return self._steps / name

    def remove(self, name: str) -> None:
        """Delete a step's files."""
        remove_folder(self.path(name))

    def remove_finetune(self, finetune_id: str) -> None:
        """Delete every step of a finetune."""
        shutil.rmtree(self._steps / finetune_id, ignore_errors=True)

    def clean_all(self, known: Collection[str]) -> list[str]:
        """Remove what a killed process left: spools, partial folders, steps that were never acknowledged.

        Only at start, before any call. Returns the names of the removed steps.
        """
        remove_spools(self.spool)
        return [name for finetune in list(self._steps.iterdir()) for name in self.clean(finetune.name, known)]

    def clean(self, finetune_id: str, known: Collection[str]) -> list[str]:
        """Remove a finetune's folders that are not `known`; only while nothing writes there. Returns their names."""
        folder = self._steps / finetune_id
        if not folder.is_dir():
            return []
        remove_partials(folder)
        unknown = [name for path in folder.iterdir() if (name := f"{finetune_id}/{path.name}") not in known]
        for name in unknown:
            self.remove(name)
        if not any(folder.iterdir()):
            folder.rmdir()
        return unknown
