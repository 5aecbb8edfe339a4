"""What is let go of: unsaved steps, checkpoints past their time, answers older than 7 days, orphaned folders.

An unsaved step stays while it is among the last `keep_steps` of its finetune. Older ones stay up to `keep_hours`, as
long as all of them together are within `keep_bytes`; beyond that the oldest go first. The present step never goes. The
local folder of a saved step goes by the same rule: its files are in the store.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from moontune.telemetry.logs import get_logger
from moontune.values.finetune import Checkpoint
from services.trainer.answers import Answers
from services.trainer.folders import StepFolders
from services.trainer.ledger import Ledger
from services.trainer.rows import FinetuneRow, StepRow
from services.trainer.saved import SavedCheckpoints
from services.trainer.saves import Saves
from services.trainer.turns import Turns

SWEEP_S = 600.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeepRule:
    """steps: the last ones always stay. hours, size_bytes: how long, and how much, older ones may stay."""

    steps: int = 8
    hours: float = 24.0
    size_bytes: int = 2 * 2**30


def expired_steps(rows: Sequence[StepRow], present: int, rule: KeepRule, now: datetime) -> list[StepRow]:
    """Which of a finetune's steps (ascending) have files that go now; never the `present` one."""
    held = [row for row in rows if row.folder and row.step != present]
    older = held[: max(0, len(held) - (rule.steps - 1))]
    gone: list[StepRow] = []
    total = 0
    for row in reversed(older):
        total += row.size_bytes
        if total > rule.size_bytes or now - row.applied_at > timedelta(hours=rule.hours):
            gone.append(row)
    return gone


class Retention:
    """Applies the rule: after each step to its finetune, and to everything from time to time."""

    def __init__(
        self,
        ledger: Ledger,
        answers: Answers,
        saved: SavedCheckpoints,
        saves: Saves,
        folders: StepFolders,
        turns: Turns,
        rule: KeepRule,
    ) -> None:
        self._ledger, self._answers, self._saved, self._saves = ledger, answers, saved, saves
        self._folders, self._turns, self._rule = folders, turns, rule

    async def tidy(self, finetune_id: str) -> None:
        """Let go of a finetune's expired steps, and of folders of steps that were computed and never committed."""
        async with self._turns.of(finetune_id):
            await asyncio.to_thread(self._tidy, finetune_id)

    async def sweep_forever(self) -> None:
        """Finish what a kill has cut, then let go of what is past its time, every ten minutes."""
        await self._each("recovery", self._recover)
        while True:
            started = time.monotonic()
            try:
                await self.sweep()
            except Exception:  # a database that is away for a moment must not end the sweeps
                log.exception("the sweep failed; the next one tries again")
            await asyncio.sleep(max(1.0, SWEEP_S - (time.monotonic() - started)))

    async def sweep(self) -> None:
        """Let go, once, of checkpoints past their time, of steps, of left-over files and of old answers."""
        for checkpoint in await asyncio.to_thread(self._saved.expired, datetime.now(UTC)):
            try:
                await self._expire_checkpoint(checkpoint)
            except Exception:  # one damaged or unreachable checkpoint must not keep all others
                log.exception("checkpoint not expired", finetune_id=checkpoint.finetune_id, step=checkpoint.step)
        for finetune_id in {checkpoint.finetune_id for checkpoint in await asyncio.to_thread(self._saved.leaving)}:
            async with self._turns.of(finetune_id):
                await asyncio.to_thread(self._saves.finish_removals, finetune_id)
        await self._each("tidying", lambda row: self._tidy(row.finetune.id))
        await asyncio.to_thread(self._answers.forget_old)

    async def _each(self, what: str, work: Callable[[FinetuneRow], None]) -> None:
        """Do it for every finetune in its turn; one that fails is logged and the others go on."""
        try:
            rows = await asyncio.to_thread(self._ledger.all_finetunes)
        except Exception:
            log.exception("the sweep failed; the next one tries again", work=what)
            return
        for row in rows:
            try:
                async with self._turns.of(row.finetune.id):
                    await asyncio.to_thread(work, row)
            except Exception:
                log.exception("a finetune was passed over", work=what, finetune_id=row.finetune.id)

    def _recover(self, row: FinetuneRow) -> None:
        self._saves.recover(row.finetune.organisation, row.finetune.id)

    async def _expire_checkpoint(self, checkpoint: Checkpoint) -> None:
        async with self._turns.of(checkpoint.finetune_id):
            # Looked up again in the turn: the step may have been deleted and saved anew meanwhile.
            listed = await asyncio.to_thread(self._saved.find, checkpoint.finetune_id, checkpoint_id=checkpoint.id)
            if listed is None:
                return
            await asyncio.to_thread(self._saves.remove, checkpoint)
        log.info("checkpoint expired", finetune_id=checkpoint.finetune_id, step=checkpoint.step)

    def _tidy(self, finetune_id: str) -> None:
        rows = self._ledger.steps(finetune_id)
        if not rows:  # deleted since
            return
        present = self._ledger.present_step(finetune_id)
        for row in expired_steps(rows, present, self._rule, datetime.now(UTC)):
            # The row first: what is listed as kept must be there.
            self._ledger.expire_step(finetune_id, row.step)
        self._folders.clean(finetune_id, {row.folder for row in self._ledger.steps(finetune_id)})
