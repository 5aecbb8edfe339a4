"""A job's folder: its imported data sets and what it answered."""

from dataclasses import dataclass
from pathlib import Path

from moontune.data.dataset import Dataset, check_disjoint, import_dataset
from moontune.data.predictions import Prediction, read_predictions, write_predictions
from moontune.values.job import JobConfig


@dataclass(frozen=True, slots=True)
class JobFolder:
    """`<data>/jobs/<job id>/`: train.jsonl, held_out.jsonl, predictions/step-<8 digits>.jsonl."""

    path: Path

    def open_datasets(self, config: JobConfig) -> tuple[Dataset, Dataset]:
        """(train, held-out): imported and leak-checked at the first call, only opened afterwards."""
        train, held_out = self.path / "train.jsonl", self.path / "held_out.jsonl"
        if not (train.exists() and held_out.exists()):
            self.path.mkdir(parents=True, exist_ok=True)
            opened = import_dataset(config.train, config.skill, train)
            # Until held_out.jsonl is there under its own name, a restart imports and checks both again.
            checked = import_dataset(config.held_out, config.skill, self.path / "held_out.unchecked.jsonl")
            check_disjoint(opened, checked)
            (self.path / "held_out.unchecked.jsonl").replace(held_out)
        return Dataset(train), Dataset(held_out)

    def predictions_file(self, step: int) -> Path:
        """Where the held-out answers at a step are kept."""
        return self.path / "predictions" / f"step-{step:08d}.jsonl"

    def write_predictions(self, step: int, predictions: list[Prediction]) -> None:
        """Keep the held-out answers at a step."""
        write_predictions(self.predictions_file(step), predictions)

    def read_predictions(self, step: int) -> list[Prediction]:
        """The held-out answers at a step."""
        return read_predictions(self.predictions_file(step))
