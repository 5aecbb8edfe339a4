"""What an engine has done since it started, in numbers."""

from moontune.engine.batch import Batch
from moontune.engine.entry import Entry
from moontune.values.engine import EngineWork


class Tally:
    """Written by the model thread, read by any."""

    def __init__(self) -> None:
        """Nothing done."""
        self._steps = self._rows = self._adapters = self._stopped = self._cut = 0
        self.cancelled = self.settled = 0

    def count(self, batch: Batch) -> None:
        """One step of a batch."""
        self._steps += 1
        self._rows += len(batch)
        self._adapters += len({owner.digest for owner in batch.owners})

    def finish(self, entry: Entry) -> None:
        """An order has all its rollouts."""
        stopped = sum(record is not None and record.stopped for record in entry.records)
        self._stopped += stopped
        self._cut += len(entry.records) - stopped

    def work(self) -> EngineWork:
        """The numbers."""
        return EngineWork(
            steps=self._steps,
            row_steps=self._rows,
            adapter_steps=self._adapters,
            stopped=self._stopped,
            cut=self._cut,
            cancelled=self.cancelled,
            settled=self.settled,
        )
