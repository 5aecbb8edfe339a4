"""Creating, reading and deleting finetunes."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from ulid import ULID

from moontune.checkpoints.fail_points import fail_point
from moontune.errors import FinetuneExists, Unavailable, WrongBase
from moontune.serving.worker import ModelWorker
from moontune.values.finetune import Finetune, NewFinetune
from moontune.values.page import Page
from services.trainer.answers import Answer, Answers
from services.trainer.branches import Branches
from services.trainer.folders import StepFolders
from services.trainer.ledger import Ledger
from services.trainer.orders import CreateOrder, WrittenStep
from services.trainer.rows import FinetuneRow
from services.trainer.saves import Saves
from services.trainer.turns import Turns, uninterrupted

CREATE, DELETE = "CreateFinetune", "DeleteFinetune"


class Finetunes:
    """Finetunes of the base that this process serves."""

    def __init__(
        self,
        ledger: Ledger,
        answers: Answers,
        saves: Saves,
        branches: Branches,
        folders: StepFolders,
        worker: ModelWorker,
        turns: Turns,
    ) -> None:
        self._ledger, self._answers, self._saves, self._branches = ledger, answers, saves, branches
        self._folders, self._worker, self._turns = folders, worker, turns

    async def create(
        self, organisation: str, new: NewFinetune, payload_digest: str, rpc: str = CREATE, source: str = ""
    ) -> Finetune:
        """Create a finetune at step 0: the base, or a step to branch from; the same name and settings is the same one.

        rpc: that was called. source: a PEFT folder to start from; then the name must be free.

        Raises:
            FinetuneExists: the name is taken by one with other settings. WrongBase: another base is asked for.
            RequestIdReused. InvalidField. CheckpointNotFound: the step to branch from is not saved.
        """
        answer = Answer(organisation, rpc, new.request_id, payload_digest, {})
        async with self._turns.of(f"{organisation}/{new.name}"):
            # Within the turn: a retry may come while the first call still runs.
            stored = await asyncio.to_thread(self._answers.replay, organisation, rpc, new.request_id, payload_digest)
            if stored is not None:
                return await self.get(organisation, cast("str", stored["finetune_id"]))
            self.check_base(new.base)
            new.lora.validate("lora")
            existing = await asyncio.to_thread(self._ledger.named, organisation, new.name)
            if existing is None:
                return await self._create(organisation, new, answer, source)
            if source:
                raise FinetuneExists(f"name {new.name!r} is taken by finetune {existing.finetune.id}; take another")
            await asyncio.to_thread(self._check_same, existing.finetune, new)
            known = replace(answer, response={"finetune_id": existing.finetune.id})
            await asyncio.to_thread(self._answers.remember, known)
            return existing.finetune

    async def get(self, organisation: str, finetune_id: str) -> Finetune:
        """A finetune of this organisation; FinetuneNotFound."""
        row = await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
        return row.finetune

    async def list(self, organisation: str, page_size: int, page_token: str) -> Page[Finetune]:
        """Newest first; the token is the id of the page's last finetune."""
        rows = await asyncio.to_thread(self._ledger.list_finetunes, organisation, page_size + 1, page_token)
        items = tuple(row.finetune for row in rows[:page_size])
        return Page(items, items[-1].id if len(rows) > page_size else "")

    async def delete(self, organisation: str, request_id: str, finetune_id: str, payload_digest: str) -> None:
        """Delete a finetune: it leaves the list with its checkpoints, then their files go, then those of its steps."""
        async with self._turns.of(finetune_id):
            replayed = await asyncio.to_thread(self._answers.replay, organisation, DELETE, request_id, payload_digest)
            if replayed is not None:
                return
            await asyncio.to_thread(self._ledger.finetune, organisation, finetune_id)
            answer = Answer(organisation, DELETE, request_id, payload_digest, {})
            await uninterrupted(self._ledger.delete_finetune, organisation, finetune_id, answer)
            fail_point("delete.committed")
            await uninterrupted(self._saves.remove_all, finetune_id)
            await self._worker.call("learner", "forget", finetune_id)
        await asyncio.to_thread(self._folders.remove_finetune, finetune_id)

    def check_base(self, asked: str) -> None:
        """Raise WrongBase unless `asked` ("" is any) is the base of this process; Unavailable while it loads."""
        if not self._worker.ready:
            raise Unavailable("the model worker is not loaded yet; try again", retry_after_s=1.0)
        base = self._worker.facts["name"]
        if asked not in ("", base):
            raise WrongBase(f"base is {asked!r}; this process serves {base!r}", metadata={"base": base})

    async def _create(self, organisation: str, new: NewFinetune, answer: Answer, source: str) -> Finetune:
        now = datetime.now(UTC)
        finetune = Finetune(
            id=str(ULID()),
            name=new.name,
            organisation=organisation,
            base=self._worker.facts["name"],
            base_digest=self._worker.facts["digest"],
            lora=new.lora,
            step=0,
            adapter_digest="",
            created_at=now,
            updated_at=now,
            kind=new.kind,
        )
        name = self._folders.new_name(finetune.id, 0)
        written = await self._write_first(new, finetune, self._folders.path(name), source)
        row = FinetuneRow(replace(finetune, adapter_digest=written.adapter_digest), name)
        answer = replace(answer, response={"finetune_id": finetune.id})
        await uninterrupted(self._ledger.add_finetune, row, written.size_bytes, answer)
        return row.finetune

    async def _write_first(self, new: NewFinetune, finetune: Finetune, folder: Path, source: str) -> WrittenStep:
        point = new.branch_from
        if point is not None and await asyncio.to_thread(self._branches.holds, finetune.organisation, point):
            return await asyncio.to_thread(self._branches.copy, point, new, finetune, folder)
        return await self._worker.call("learner", "create", CreateOrder(finetune, str(folder), source))

    def _check_same(self, finetune: Finetune, new: NewFinetune) -> None:
        point = new.branch_from
        same = (finetune.lora, finetune.kind) == (new.lora, new.kind)
        if same and point is not None and self._branches.holds(finetune.organisation, point):
            first = self._ledger.step(finetune.id, 0).adapter_digest
            same = first == self._ledger.step(point.finetune_id, point.step).adapter_digest
        if not same:
            raise FinetuneExists(
                f"name {new.name!r} is taken by finetune {finetune.id} with {finetune.kind} {_shown(finetune)}; asked "
                f"for: {new.kind} {_shown(new)}{_start(new)}; take another name or the same settings and start",
                metadata={"finetune_id": finetune.id},
            )


def _start(new: NewFinetune) -> str:
    point = new.branch_from
    return "" if point is None else f", from {point.finetune_id}@{point.step}"


def _shown(of: Finetune | NewFinetune) -> str:
    lora = of.lora
    return f"rank {lora.rank}, scale {lora.scale:g}, targets {', '.join(lora.targets)}, seed {lora.seed}"
