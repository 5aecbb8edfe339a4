"""Creating, reading and deleting finetunes."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

from ulid import ULID

from moontune.checkpoints.fail_points import fail_point
from moontune.errors import FinetuneExists, NotImplementedYet, Unavailable, WrongBase
from moontune.serving.worker import ModelWorker
from moontune.values.finetune import Finetune, FinetuneKind, NewFinetune
from moontune.values.page import Page
from services.trainer.answers import Answer, Answers
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
        folders: StepFolders,
        worker: ModelWorker,
        turns: Turns,
    ) -> None:
        self._ledger, self._answers, self._saves = ledger, answers, saves
        self._folders, self._worker, self._turns = folders, worker, turns

    async def create(self, organisation: str, new: NewFinetune, payload_digest: str) -> Finetune:
        """Create a finetune at step 0, which equals the base; the same name and settings again is the same finetune.

        Raises:
            FinetuneExists: the name is taken by one with other settings. WrongBase: another base is asked for.
            RequestIdReused. InvalidField. NotImplementedYet: kinds other than LoRA, and branching.
        """
        answer = Answer(organisation, CREATE, new.request_id, payload_digest, {})
        async with self._turns.of(f"{organisation}/{new.name}"):
            # Within the turn: a retry may come while the first call still runs.
            stored = await asyncio.to_thread(self._answers.replay, organisation, CREATE, new.request_id, payload_digest)
            if stored is not None:
                return await self.get(organisation, cast("str", stored["finetune_id"]))
            self._check(new)
            existing = await asyncio.to_thread(self._ledger.named, organisation, new.name)
            if existing is None:
                return await self._create(organisation, new, answer)
            _check_same(existing.finetune, new)
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
            await uninterrupted(self._saves.finish_removals, finetune_id)
            await self._worker.call("learner", "forget", finetune_id)
        await asyncio.to_thread(self._folders.remove_finetune, finetune_id)

    def _check(self, new: NewFinetune) -> None:
        if not self._worker.ready:
            raise Unavailable("the model worker is not loaded yet; try again", retry_after_s=1.0)
        base = self._worker.facts["name"]
        if new.base not in ("", base):
            raise WrongBase(f"base is {new.base!r}; this process serves {base!r}", metadata={"base": base})
        if new.kind is not FinetuneKind.LORA:
            raise NotImplementedYet(f"finetunes of kind {new.kind} are not built yet; allowed: {FinetuneKind.LORA}")
        if new.branch_from is not None and new.branch_from.step > 0:
            raise NotImplementedYet("branching from a saved step is not built yet; create a finetune from the base")
        new.lora.validate("lora")

    async def _create(self, organisation: str, new: NewFinetune, answer: Answer) -> Finetune:
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
        order = CreateOrder(finetune, str(self._folders.path(name)))
        written: WrittenStep = await self._worker.call("learner", "create", order)
        row = FinetuneRow(replace(finetune, adapter_digest=written.adapter_digest), name)
        answer = replace(answer, response={"finetune_id": finetune.id})
        await uninterrupted(self._ledger.add_finetune, row, written.size_bytes, answer)
        return row.finetune


def _check_same(finetune: Finetune, new: NewFinetune) -> None:
    if (finetune.lora, finetune.kind) != (new.lora, new.kind):
        raise FinetuneExists(
            f"name {new.name!r} is taken by finetune {finetune.id} with {finetune.kind} {_shown(finetune)}; asked for: "
            f"{new.kind} {_shown(new)}; take another name or the same settings",
            metadata={"finetune_id": finetune.id},
        )


def _shown(of: Finetune | NewFinetune) -> str:
    lora = of.lora
    return f"rank {lora.rank}, scale {lora.scale:g}, targets {', '.join(lora.targets)}, seed {lora.seed}"
