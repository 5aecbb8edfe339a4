"""A run over a trainer that is killed again and again, and what must hold after each restart.

The run keeps its own book: what was acknowledged, and the one call that was under way at the kill. After a restart the
trainer must stand where the book says, with that call wholly done or wholly not, and sending it again (same request id)
must settle it. Weights are a hash chain, so every digest is known beforehand (`small_learner`).
"""

import asyncio
import contextlib
import io
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image as PilImage

from moontune.checkpoints import CheckpointStore
from moontune.checkpoints.folder import verify_folder
from moontune.clients.retry import RetryPolicy
from moontune.clients.trainer import TrainerClient
from moontune.errors import CheckpointNotFound, MoontuneError
from moontune.values.finetune import CheckpointRef, Finetune, LoraSettings, NewFinetune
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.request import SkillRequest
from moontune.values.skill import Skill
from moontune.values.training import SftGroup, TrainStep
from tests.services.trainer.process import TrainerProcess
from tests.services.trainer.small_learner import FIRST, digest_of, stepped


def picture() -> bytes:
    file = io.BytesIO()
    PilImage.new("RGB", (16, 16), "red").save(file, "PNG")
    return file.getvalue()


ONCE = RetryPolicy(attempts=1)
GROUP = SftGroup(
    SkillRequest(Skill.DETECT, Image.of(picture()), object="dot"), GroundTruth(boxes=(Box(0.1, 0.1, 0.4, 0.4),))
)
SETTLE_S = 30.0


@dataclass(slots=True)
class Book:
    """What the run knows.

    weights, parents, states (the caller's bytes): by step number. standing: the finetune's step. saved: listed steps.
    """

    weights: dict[int, bytes] = field(default_factory=lambda: {0: FIRST})
    parents: dict[int, int] = field(default_factory=dict[int, int])
    states: dict[int, bytes] = field(default_factory=dict[int, bytes])
    standing: int = 0
    saved: set[int] = field(default_factory=set[int])
    calls: int = 0

    @property
    def next_step(self) -> int:
        return max(self.weights) + 1


@dataclass(frozen=True, slots=True)
class Move:
    """One change: how to ask for it (again and again with one request id), and what it does to the book."""

    name: str
    ask: Callable[[TrainerClient], Awaitable[object]]
    note: Callable[[Book], None]


class KilledRun:
    """One finetune, trained, saved, downloaded, deleted and restored, in a process that is killed meanwhile."""

    def __init__(self, trainer: TrainerProcess, folder: Path, rng: random.Random) -> None:
        self.trainer, self.folder, self.rng = trainer, folder, rng
        self.store = CheckpointStore(str(trainer.data_dir / "checkpoints"))
        self.book = Book()
        self.finetune: Finetune

    async def begin(self) -> None:
        async with TrainerClient(self.trainer.address) as client:
            self.finetune = await client.create_finetune(NewFinetune("create", "killed", lora=LoraSettings(4)))

    async def until_killed(self, after_s: float | None) -> Move:
        """Change after change until the trainer is dead (after_s: we kill it then; None: a fail-point does).

        Returns the change whose answer never came.
        """
        killing = None if after_s is None else asyncio.create_task(self._kill_after(after_s))
        async with TrainerClient(self.trainer.address, retry=ONCE) as client:
            while True:
                move = self._next_move()
                try:
                    await move.ask(client)
                except MoontuneError as error:
                    assert error.retryable, (move.name, error)
                    break
                move.note(self.book)
        if killing is not None:
            await killing
        await asyncio.to_thread(self.trainer.kill)  # a fail-point in the worker leaves the front alive
        return move

    async def settle(self, move: Move) -> None:
        """After a restart: the change under way at the kill is there or not; sent again, it is there."""
        async with TrainerClient(self.trainer.address, retry=ONCE) as client:
            now = await client.get_finetune(self.finetune.id)
            noted = self._with(move)
            assert now.step in (self.book.standing, noted.standing), move.name
            weights = (self.book if now.step == self.book.standing else noted).weights[now.step]
            assert now.adapter_digest == digest_of(weights)
            assert await self._listed(client) in (self.book.saved, noted.saved), move.name
            await move.ask(client)
            self.book = noted
            now = await client.get_finetune(self.finetune.id)
            assert (now.step, now.adapter_digest) == (noted.standing, digest_of(noted.weights[noted.standing]))
            assert await self._listed(client) == noted.saved
            await self._nothing_left_over(client)

    def _with(self, move: Move) -> Book:
        book = self.book
        noted = Book(
            dict(book.weights), dict(book.parents), dict(book.states), book.standing, set(book.saved), book.calls
        )
        move.note(noted)
        return noted

    async def _listed(self, client: TrainerClient) -> set[int]:
        return {saved.step for saved in (await client.list_checkpoints(self.finetune.id, page_size=1000)).items}

    async def _nothing_left_over(self, client: TrainerClient) -> None:
        """The chain verifies, the store holds what is listed, and no file is there that nobody refers to."""
        steps = self.trainer.data_dir / "steps" / self.finetune.id
        for folder in steps.iterdir():
            manifest = verify_folder(folder)
            weights = self.book.weights[manifest.step]
            parent = self.book.parents.get(manifest.step)
            assert manifest.adapter_digest == digest_of(weights)
            assert manifest.parent_digest in ("", digest_of(self.book.weights[parent or 0]))
        assert not list((self.trainer.data_dir / "spool").glob("*"))
        end = time.monotonic() + SETTLE_S  # recovery of the store goes on behind the first calls
        while not self._store_is_clean():
            assert time.monotonic() < end, (self.store.steps(self.finetune.id), self.book.saved)
            await asyncio.sleep(0.05)
        for step in self.book.saved:
            assert self.store.verify(self.finetune.id, step).adapter_digest == digest_of(self.book.weights[step])

    def _store_is_clean(self) -> bool:
        folder = self.trainer.data_dir / "checkpoints" / self.finetune.id
        found = {path.name for path in folder.iterdir()} if folder.exists() else set[str]()
        return found == {f"{step:08d}" for step in self.book.saved}

    async def _kill_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.trainer.kill)

    def _next_move(self) -> Move:
        self.book.calls += 1
        number = self.book.calls
        moves = [self._step, self._step, self._save, self._download]
        if self.book.saved:
            moves += [self._delete, self._restore]
        return self.rng.choice(moves)(f"call-{number}")

    def _step(self, request_id: str) -> Move:
        standing, number, state = self.book.standing, self.book.next_step, request_id.encode()
        order = TrainStep(self.finetune.id, request_id, (GROUP,), expected_step=standing, client_state=state)

        def note(book: Book) -> None:
            book.weights[number] = stepped(book.weights[standing], state)
            book.parents[number], book.states[number], book.standing = standing, state, number

        return Move("step", lambda client: client.train_step(order), note)

    def _save(self, request_id: str) -> Move:
        step = self.book.standing
        return Move(
            "save",
            lambda client: client.save_checkpoint(self.finetune.id, request_id=request_id),
            lambda book: book.saved.add(step),
        )

    def _delete(self, request_id: str) -> Move:
        step = self.rng.choice(sorted(self.book.saved))
        ref = CheckpointRef(self.finetune.id, step=step)

        async def ask(client: TrainerClient) -> None:
            with contextlib.suppress(CheckpointNotFound):
                await client.delete_checkpoint(ref, request_id=request_id)

        return Move("delete", ask, lambda book: book.saved.discard(step))

    def _restore(self, request_id: str) -> Move:
        step = self.rng.choice(sorted(self.book.saved))
        ref = CheckpointRef(self.finetune.id, step=step)

        expected = self.book.states.get(step)

        async def ask(client: TrainerClient) -> None:
            _, state = await client.restore_checkpoint(ref, request_id=request_id)
            assert state == expected  # also of a save that a kill had cut before the list

        def note(book: Book) -> None:
            book.standing = step

        return Move("restore", ask, note)

    def _download(self, request_id: str) -> Move:
        step, expected = self.book.standing, digest_of(self.book.weights[self.book.standing])

        async def ask(client: TrainerClient) -> None:
            manifest = await client.download_adapter(self.finetune.id, self.folder / "download", step=step)
            assert manifest.policy.adapter_digest == expected

        return Move("download", ask, lambda book: None)
