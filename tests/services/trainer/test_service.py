"""The trainer through a real channel, in a real process: what it answers, what it refuses, what it never half-does."""

import asyncio
import contextlib
import io
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from PIL import Image as PilImage

from moontune.api.trainer.v1 import trainer_service_pb2 as pb
from moontune.api.trainer.v1 import trainer_service_pb2_grpc as pb_grpc
from moontune.checkpoints import CheckpointStore
from moontune.checkpoints.digest import adapter_digest_of
from moontune.clients.trainer import TrainerClient
from moontune.errors import (
    CheckpointCorrupt,
    CheckpointNotFound,
    FinetuneExists,
    FinetuneNotFound,
    ImageInvalid,
    ImageTooLarge,
    ImageUnknown,
    InvalidField,
    MoontuneError,
    RequestIdReused,
    StepMismatch,
    StepNotFound,
    WrongBase,
)
from moontune.values.finetune import (
    BranchPoint,
    CheckpointRef,
    Finetune,
    LoraSettings,
    LoraTarget,
    MetricPoint,
    NewFinetune,
)
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.logprobs import RolloutBatch
from moontune.values.skill import Skill
from moontune.values.training import RlGroup, SftGroup, TrainSettings, TrainStep
from moontune.wire.training import train_step_to_messages
from tests.services.trainer.made import picture, policy_of, rl_group, sft_group
from tests.services.trainer.process import TrainerProcess

SETTINGS = TrainSettings(learning_rate=1e-2)


def unverified(seed: int, skill: Skill = Skill.DETECT) -> RlGroup:
    """Trains wherever the finetune stands: nothing recorded is believed."""
    from moontune.values.model_ref import PolicyVersion

    return rl_group(skill, seed, PolicyVersion("any", "sha256:" + "0" * 64), verified=False)


def step_of(finetune: Finetune, *groups, request_id: str = "", **fields) -> TrainStep:
    return TrainStep(finetune.id, request_id, groups or (unverified(1),), fields.pop("settings", SETTINGS), **fields)


async def refused(client: TrainerClient, finetune: Finetune, *groups, **fields) -> MoontuneError:
    """The error of a step, after which nothing has changed."""
    before = await client.get_finetune(finetune.id)
    with pytest.raises(MoontuneError) as raised:
        await client.train_step(step_of(finetune, *groups, **fields))
    assert await client.get_finetune(finetune.id) == before
    return raised.value


async def test_creating_again_is_the_same_finetune(client: TrainerClient, finetune: Finetune) -> None:
    again = await client.create_finetune(NewFinetune("", finetune.name, lora=LoraSettings(4)))
    assert again == finetune
    assert (finetune.step, finetune.base, finetune.organisation) == (0, "tiny-fake", "local")
    with pytest.raises(FinetuneExists, match="rank 8"):
        await client.create_finetune(NewFinetune("", finetune.name, lora=LoraSettings(8)))
    once = NewFinetune("create-1", "created-by-id", lora=LoraSettings(2))
    assert (await client.create_finetune(once)).id == (await client.create_finetune(once)).id
    with pytest.raises(RequestIdReused):
        await client.create_finetune(replace(once, name="another"))


@pytest.mark.parametrize(
    ("new", "error", "told"),
    [
        (NewFinetune("", "bad", lora=LoraSettings(0)), InvalidField, "lora.rank is 0; allowed: 1 to 256"),
        (NewFinetune("", "bad", lora=LoraSettings(257)), InvalidField, "lora.rank is 257"),
        (NewFinetune("", "bad", lora=LoraSettings(4, alpha=-1.0)), InvalidField, "lora.alpha"),
        (NewFinetune("", "bad", lora=LoraSettings(4, targets=(LoraTarget.REGION,) * 2)), InvalidField, "targets"),
        (NewFinetune("", "  "), InvalidField, "name"),
        (NewFinetune("", "bad", base="moondream3-preview"), WrongBase, "tiny-fake"),
        (NewFinetune("", "bad", branch_from=BranchPoint("01HZZZZZZZZZZZZZZZZZZZZZZZ", 3)), FinetuneNotFound, "01HZ"),
    ],
)
async def test_what_cannot_be_created(client: TrainerClient, new: NewFinetune, error: type, told: str) -> None:
    with pytest.raises(error, match=told):
        await client.create_finetune(new)


async def test_listing_pages_newest_first(client: TrainerClient) -> None:
    made = [await client.create_finetune(NewFinetune("", f"listed-{n}", lora=LoraSettings(1))) for n in range(3)]
    first = await client.list_finetunes(page_size=2)
    assert [finetune.id for finetune in first.items] == [made[2].id, made[1].id]
    second = await client.list_finetunes(page_size=2, page_token=first.next_page_token)
    assert second.items[0].id == made[0].id
    with pytest.raises(InvalidField, match="page_size is 1001"):
        await client.list_finetunes(page_size=1001)


async def test_deleting_frees_everything_but_the_id(client: TrainerClient, finetune: Finetune, trainer) -> None:
    await client.train_step(step_of(finetune))
    await client.save_checkpoint(finetune.id)
    await client.delete_finetune(finetune.id, request_id="delete-1")
    await client.delete_finetune(finetune.id, request_id="delete-1")
    for call in (
        client.get_finetune(finetune.id),
        client.train_step(step_of(finetune)),
        client.list_checkpoints(finetune.id),
        client.delete_finetune(finetune.id),
    ):
        with pytest.raises(FinetuneNotFound):
            await call
    assert not (trainer.data_dir / "steps" / finetune.id).exists()
    assert CheckpointStore(str(trainer.data_dir / "checkpoints")).steps(finetune.id) == []
    assert (await client.create_finetune(NewFinetune("", finetune.name, lora=LoraSettings(4)))).id != finetune.id


async def test_a_step_moves_the_policy_and_a_retry_does_not(client: TrainerClient, finetune: Finetune) -> None:
    order = step_of(finetune, request_id="step-1", expected_step=0)
    result = await client.train_step(order)
    assert (result.step, result.applied, result.replayed) == (1, True, False)
    assert result.adapter_digest != finetune.adapter_digest
    assert all(math.isfinite(value) for value in result.metrics.values())
    again = await client.train_step(order)
    assert replace(again, replayed=False) == result
    assert again.replayed
    # the image by bytes or by digest is one payload
    with pytest.raises(RequestIdReused, match="step-1"):
        await client.train_step(replace(order, settings=replace(SETTINGS, learning_rate=2e-2)))
    with pytest.raises(StepMismatch, match=r"expected_step is 0; finetune .* is at step 1"):
        await client.train_step(replace(order, request_id="step-2"))
    now = await client.get_finetune(finetune.id)
    assert (now.step, now.adapter_digest) == (1, result.adapter_digest)


async def test_a_step_whose_caller_leaves_is_whole_or_not_there(client: TrainerClient, finetune: Finetune) -> None:
    groups = tuple(unverified(seed) for seed in range(40))
    for number, wait_s in enumerate((0.05, 0.3)):
        order = step_of(finetune, *groups, request_id=f"left-{number}", expected_step=number)
        sent = asyncio.create_task(client.train_step(order))
        await asyncio.sleep(wait_s)
        sent.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sent
        result = await client.train_step(order)  # replayed where it was applied, else applied now
        assert (result.step, result.applied) == (number + 1, True)
        assert (await client.get_finetune(finetune.id)).adapter_digest == result.adapter_digest


async def test_finetunes_are_trained_side_by_side(client: TrainerClient) -> None:
    made = [await client.create_finetune(NewFinetune("", f"side-{n}", lora=LoraSettings(1 + n))) for n in range(3)]
    await asyncio.gather(*(client.train_step(step_of(each)) for each in made for _ in range(2)))
    assert [(await client.get_finetune(each.id)).step for each in made] == [2, 2, 2]


async def test_nothing_to_learn_is_told_and_replayable(client: TrainerClient, finetune: Finetune) -> None:
    flat = replace(unverified(1), rewards=(0.5,) * 4)
    result = await client.train_step(step_of(finetune, flat, request_id="flat"))
    assert (result.step, result.applied, result.adapter_digest) == (0, False, finetune.adapter_digest)
    assert "signal" in result.reason
    assert (await client.train_step(step_of(finetune, flat, request_id="flat"))).replayed


async def test_skills_kinds_and_shared_images_mix_in_a_step(client: TrainerClient, finetune: Finetune) -> None:
    shared = picture(5)
    groups = (
        rl_group(Skill.DETECT, 1, policy_of(finetune), image=shared),
        rl_group(Skill.QUERY, 2, policy_of(finetune), image=shared),
        sft_group(Skill.POINT, 3),
        sft_group(Skill.QUERY, 4),
    )
    result = await client.train_step(step_of(finetune, *groups))
    assert result.metrics["n_groups"] == result.metrics["n_sft_groups"] == 2


def changed(group: RlGroup, **fields) -> RlGroup:
    return replace(group, rollouts=(replace(group.rollouts[0], **fields), *group.rollouts[1:]))


def bad_groups(finetune: Finetune) -> dict[str, tuple[object, type, str]]:
    policy = policy_of(finetune)
    good = rl_group(Skill.DETECT, 1, policy)
    wide = io.BytesIO()
    PilImage.new("1", (10_000, 10_000)).save(wide, "PNG")
    cut = picture(3).data or b""
    boxes = GroundTruth(boxes=(Box(0.1, 0.1, 1.2, 0.5),))
    other = "01HZZZZZZZZZZZZZZZZZZZZZZZ"
    return {
        "nan reward": (replace(good, rewards=(math.nan, 0.0, 1.0, 1.0)), InvalidField, r"groups\[0\].*reward is nan"),
        "infinite": (replace(good, rewards=(math.inf, 0.0, 1.0, 1.0)), InvalidField, r"groups\[0\].*reward is inf"),
        "huge reward": (replace(good, rewards=(1e300, 0.0, 1.0, 1.0)), InvalidField, r"reward is 1e\+300; allowed"),
        "other length": (replace(good, rewards=(1.0, 0.0)), InvalidField, "2 rewards"),
        "no rollouts": (replace(good, rollouts=(), rewards=()), InvalidField, r"groups\[0\].rl.rollouts"),
        "greedy": (changed(good, temperature=0.0), InvalidField, "evaluation"),
        "other finetune": (changed(good, policy=replace(policy, finetune_id=other)), InvalidField, other),
        "other base": (
            changed(good, policy=replace(policy, base_digest="sha256:" + "1" * 64)),
            WrongBase,
            "base_digest",
        ),
        "future": (changed(good, policy=replace(policy, step=5)), InvalidField, r"policy.step is 5; allowed: 0 to 0"),
        "other weights": (
            changed(good, policy=replace(policy, adapter_digest="sha256:" + "2" * 64)),
            InvalidField,
            "adapter_digest",
        ),
        "not an image": (rl_group(Skill.DETECT, 1, policy, image=Image.of(b"hello")), ImageInvalid, r"groups\[0\]"),
        "cut image": (rl_group(Skill.DETECT, 1, policy, image=Image.of(cut[:-40])), ImageInvalid, r"groups\[0\]"),
        "100 megapixels": (rl_group(Skill.DETECT, 1, policy, image=Image.of(wide.getvalue())), ImageTooLarge, "pixels"),
        "unknown image": (rl_group(Skill.DETECT, 1, policy, image=picture(9).named()), ImageUnknown, picture(9).sha256),
        "box outside": (
            SftGroup(good.request, boxes),
            InvalidField,
            r"x_max is 1.2; allowed: a finite number from 0 to 1",
        ),
        "no label": (SftGroup(good.request, GroundTruth(answers=("x",))), InvalidField, "boxes"),
        "blank question": (
            replace(good, request=replace(good.request, object=" ")),
            InvalidField,
            r"groups\[0\].*object",
        ),
        "long question": (
            replace(
                rl_group(Skill.QUERY, 1, policy), request=replace(good.request, skill=Skill.QUERY, question="w" * 999)
            ),
            InvalidField,
            "tokens",
        ),
        "bin out of range": (
            changed(
                rl_group(Skill.QUERY, 1, policy),
                decisions=(replace(rl_group(Skill.QUERY, 1, policy).rollouts[0].decisions[0], choice=5000),),
            ),
            InvalidField,
            r"choice is 5000; allowed: 0 to 265",
        ),
    }


async def test_what_cannot_be_trained_on_is_named_and_nothing_is_applied(
    client: TrainerClient, finetune: Finetune
) -> None:
    for name, (group, error, told) in bad_groups(finetune).items():
        raised = await refused(client, finetune, group)
        assert isinstance(raised, error), (name, raised)
        with pytest.raises(error, match=told):
            raise raised
    good = await client.train_step(step_of(finetune, rl_group(Skill.DETECT, 1, policy_of(finetune))))
    assert good.step == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (replace(SETTINGS, learning_rate=math.nan), "settings.learning_rate is nan"),
        (replace(SETTINGS, clip_low=2.0), "settings.clip_low"),
        (replace(SETTINGS, passes=0), "settings.passes is 0"),
    ],
)
async def test_settings_out_of_range(client: TrainerClient, finetune: Finetune, settings, told: str) -> None:
    assert told in str(await refused(client, finetune, settings=settings))


async def test_broken_streams(client: TrainerClient, finetune: Finetune, trainer: TrainerProcess) -> None:
    header, group = list(train_step_to_messages(step_of(finetune, request_id="raw")))
    more = pb.TrainStepRequest(header=header.header)
    more.header.group_count = 2
    none = pb.TrainStepRequest(header=header.header)
    none.header.group_count = 0
    bare = pb.TrainStepRequest(group=group.group)
    bare.group.rl.request.ClearField("detect")
    async with grpc.aio.insecure_channel(trainer.address) as channel:
        stub = pb_grpc.TrainerServiceStub(channel)
        for messages, told in (
            ([], "the stream was empty"),
            ([group], "header in the first message"),
            ([none], "group_count is 0; allowed: 1 to 256"),
            ([header], "group_count is 1; allowed: the number of groups sent, 0"),
            ([more, group], "group_count is 2"),
            ([header, group, group], "more came"),
            ([header, header], "group after the header"),
            ([header, pb.TrainStepRequest()], "group"),
            ([header, bare], "query, point, detect"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=told) as raised:
                await stub.TrainStep(iter(messages))
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await client.get_finetune(finetune.id) == finetune
    assert not list((trainer.data_dir / "spool").iterdir())


async def test_unknown_names(client: TrainerClient, finetune: Finetune) -> None:
    other = "01HZZZZZZZZZZZZZZZZZZZZZZZ"
    with pytest.raises(FinetuneNotFound, match=other):
        await client.get_finetune(other)
    with pytest.raises(FinetuneNotFound):
        await client.train_step(TrainStep(other, "", (unverified(1),)))
    with pytest.raises(CheckpointNotFound, match="step 0"):
        await client.get_checkpoint(CheckpointRef(finetune.id, step=0))
    with pytest.raises(StepNotFound, match="no step 4"):
        await client.save_checkpoint(finetune.id, step=4)


async def test_save_download_and_continue_bit_exactly(
    client: TrainerClient, finetune: Finetune, tmp_path: Path
) -> None:
    await client.train_step(step_of(finetune, client_state=b"at 1"))
    saved = await client.save_checkpoint(finetune.id, request_id="save-1")
    assert saved == await client.save_checkpoint(finetune.id, request_id="save-1")
    assert saved.step == 1
    assert saved.metrics["n_groups"] == 1
    assert saved.size_bytes > 0
    straight = [await client.train_step(step_of(finetune, unverified(seed))) for seed in (2, 3)]
    restored, state = await client.restore_checkpoint(CheckpointRef(finetune.id, step=1), request_id="restore-1")
    assert (restored.step, restored.adapter_digest, state) == (1, saved.adapter_digest, b"at 1")
    again = [await client.train_step(step_of(finetune, unverified(seed))) for seed in (2, 3)]
    assert [each.adapter_digest for each in again] == [each.adapter_digest for each in straight]
    manifest = await client.download_adapter(finetune.id, tmp_path / "now")
    assert manifest.policy.step == 5  # 2 and 3 keep their names
    assert manifest.policy.adapter_digest == again[-1].adapter_digest == adapter_digest_of(tmp_path / "now")
    first = await client.download_adapter(finetune.id, tmp_path / "first", step=0)
    assert first.policy.adapter_digest == finetune.adapter_digest
    listed = await client.list_checkpoints(finetune.id)
    assert listed.items == (saved,)
    assert await client.get_checkpoint(CheckpointRef(finetune.id, checkpoint_id=saved.id)) == saved


async def test_any_saved_step_can_be_restored_and_no_name_comes_to_mean_other_weights(
    client: TrainerClient, finetune: Finetune, tmp_path: Path
) -> None:
    for seed in (1, 2):
        await client.train_step(step_of(finetune, unverified(seed)))
        await client.save_checkpoint(finetune.id, client_state=b"mine")
    await client.train_step(step_of(finetune, unverified(3)))
    digests = {step: await digest_of(client, finetune, step, tmp_path) for step in (1, 2, 3)}
    restored, state = await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
    assert (restored.step, restored.adapter_digest, state) == (1, digests[1], b"mine")
    onwards = await client.train_step(step_of(finetune, unverified(4), expected_step=1))
    assert onwards.step == 4
    # Steps 2 and 3 are beside the line and still what they were; 2 can be gone back to as well.
    assert {step: await digest_of(client, finetune, step, tmp_path) for step in (1, 2, 3)} == digests
    assert onwards.adapter_digest not in digests.values()
    assert (await client.restore_checkpoint(CheckpointRef(finetune.id, step=2)))[0].adapter_digest == digests[2]
    again = await client.train_step(step_of(finetune, unverified(3)))
    assert (again.step, again.adapter_digest) == (5, digests[3])
    await client.delete_checkpoint(CheckpointRef(finetune.id, step=2), request_id="d")
    await client.delete_checkpoint(CheckpointRef(finetune.id, step=2), request_id="d")
    assert [saved.step for saved in (await client.list_checkpoints(finetune.id)).items] == [1]


async def digest_of(client: TrainerClient, finetune: Finetune, step: int, folder: Path) -> str:
    return (await client.download_adapter(finetune.id, folder / f"at-{step}", step=step)).policy.adapter_digest


async def test_a_retry_of_a_step_that_a_restore_left_behind_gets_its_answer(
    client: TrainerClient, finetune: Finetune
) -> None:
    await client.train_step(step_of(finetune))
    await client.save_checkpoint(finetune.id)
    await client.train_step(step_of(finetune, unverified(2)))
    now = await client.get_finetune(finetune.id)
    order = step_of(now, rl_group(Skill.DETECT, 3, policy_of(now)), request_id="left-behind", expected_step=2)
    first = await client.train_step(order)
    await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
    again = await client.train_step(order)  # made by step 2, which the finetune no longer stands behind
    assert replace(again, replayed=False) == first
    assert again.replayed
    with pytest.raises(RequestIdReused):
        await client.train_step(replace(order, client_state=b"other"))
    assert (await client.get_finetune(finetune.id)).step == 1


async def test_a_damaged_checkpoint_is_not_restored(client: TrainerClient, finetune: Finetune, trainer) -> None:
    await client.train_step(step_of(finetune))
    await client.save_checkpoint(finetune.id)
    path = trainer.data_dir / "checkpoints" / finetune.id / "00000001" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match=r"optimizer\.safetensors"):
        await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
    assert (await client.get_finetune(finetune.id)).step == 1
    assert (await client.train_step(step_of(finetune))).step == 2


async def test_history(client: TrainerClient, finetune: Finetune) -> None:
    await client.train_step(step_of(finetune))
    at = datetime(2026, 1, 1, tzinfo=UTC)
    mine = [MetricPoint(1, "held_out/f1", 0.5, at), MetricPoint(0, "held_out/f1", 0.25, at)]
    for _ in range(2):
        await client.log_metrics(finetune.id, mine, request_id="log-1")
    page = await client.list_metrics(finetune.id, names=["held_out/f1"], page_size=1)
    assert page.items == (mine[1],)
    page = await client.list_metrics(finetune.id, names=["held_out/f1"], page_token=page.next_page_token)
    assert page.items == (mine[0],)
    every = await client.list_metrics(finetune.id, after_step=0)
    assert {"reward_mean", "grad_norm", "held_out/f1"} <= {point.name for point in every.items}
    with pytest.raises(InvalidField, match="value"):
        await client.log_metrics(finetune.id, [MetricPoint(1, "x", math.nan, at)])


async def test_logprobs_agree_with_training(client: TrainerClient, finetune: Finetune) -> None:
    group = rl_group(Skill.POINT, 1, policy_of(finetune))
    result = await client.compute_logprobs([RolloutBatch(group.request, group.rollouts)], finetune_id=finetune.id)
    base = await client.compute_logprobs([RolloutBatch(group.request, group.rollouts)])
    assert result.policy == policy_of(finetune)
    assert base.policy.finetune_id == ""
    assert base.rollouts == result.rollouts
    recorded = replace(
        group,
        rollouts=tuple(
            replace(r, decisions=tuple(replace(d, logprob=s.logprob) for d, s in zip(r.decisions, scores, strict=True)))
            for r, scores in zip(group.rollouts, result.rollouts, strict=True)
        ),
    )
    metrics = (await client.train_step(step_of(finetune, recorded))).metrics
    assert metrics["mismatch_kl"] < 1e-9
    assert metrics["max_ratio"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("token", ["²", "x", "1:2:3", "-1", "9" * 40, "1:", "\uff11"])
async def test_page_tokens_that_are_not_ours(client: TrainerClient, finetune: Finetune, token: str) -> None:
    for call in (client.list_checkpoints, client.list_metrics):
        with pytest.raises(InvalidField, match="page_token"):
            await call(finetune.id, page_token=token)


async def test_a_retry_beside_the_first_call_is_the_same_call(client: TrainerClient, finetune: Finetune) -> None:
    await client.train_step(step_of(finetune))
    saves = await asyncio.gather(*(client.save_checkpoint(finetune.id, request_id="beside-save") for _ in range(3)))
    assert saves[0] == saves[1] == saves[2]
    ref = CheckpointRef(finetune.id, step=1)
    restored = await asyncio.gather(*(client.restore_checkpoint(ref, request_id="beside-restore") for _ in range(3)))
    assert {finetune.step for finetune, _ in restored} == {1}
    await asyncio.gather(*(client.delete_checkpoint(ref, request_id="beside-delete") for _ in range(3)))
    new = NewFinetune("beside-create", "created-beside", lora=LoraSettings(2))
    made = await asyncio.gather(*(client.create_finetune(new) for _ in range(3)))
    assert made[0] == made[1] == made[2]
    points = (MetricPoint(1, "mine", 0.5, datetime.now(UTC)),)
    await asyncio.gather(*(client.log_metrics(finetune.id, points, request_id="beside-log") for _ in range(4)))
    assert len((await client.list_metrics(finetune.id, names=("mine",))).items) == 1
    await asyncio.gather(*(client.delete_finetune(made[0].id, request_id="beside-end") for _ in range(3)))


async def test_a_save_whose_time_is_over_is_made_anew(client: TrainerClient, finetune: Finetune) -> None:
    short = await client.save_checkpoint(finetune.id, time_to_live_s=0.05)
    await asyncio.sleep(0.1)
    kept = await client.save_checkpoint(finetune.id)
    assert kept.id != short.id
    assert kept.expires_at is None
    assert (await client.restore_checkpoint(CheckpointRef(finetune.id, step=0)))[0].step == 0


async def test_rollouts_from_beside_the_line_are_refused(client: TrainerClient, finetune: Finetune) -> None:
    await client.train_step(step_of(finetune))
    await client.save_checkpoint(finetune.id)
    await client.train_step(step_of(finetune, unverified(2)))
    lost = policy_of(await client.get_finetune(finetune.id))
    assert lost.step == 2
    old = rl_group(Skill.DETECT, 1, lost)
    await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
    assert "policy.step is 2; allowed: 0 to 1" in str(await refused(client, finetune, old))
    assert (await client.train_step(step_of(finetune, unverified(3)))).step == 3
    assert "a restore left this one beside the line" in str(await refused(client, finetune, old))
    # Step 1 is one step back, whatever the numbers in between.
    from_one = rl_group(Skill.DETECT, 1, replace(lost, step=1, adapter_digest=(await first_save(client, finetune))))
    assert (await client.train_step(step_of(finetune, from_one))).metrics["staleness_max"] == 1


async def first_save(client: TrainerClient, finetune: Finetune) -> str:
    return (await client.list_checkpoints(finetune.id)).items[-1].adapter_digest


async def test_a_restore_while_groups_come_in_refuses_the_step(
    client: TrainerClient, finetune: Finetune, trainer: TrainerProcess
) -> None:
    await client.train_step(step_of(finetune))
    await client.save_checkpoint(finetune.id)
    await client.train_step(step_of(finetune, unverified(2)))
    old = rl_group(Skill.DETECT, 1, policy_of(await client.get_finetune(finetune.id)))
    header, group = list(train_step_to_messages(step_of(finetune, old, request_id="across-a-restore")))

    async def messages():
        yield header
        yield group
        while not any((trainer.data_dir / "spool").glob("*/group-00000.pickle")):  # noqa: ASYNC110  (another process)
            await asyncio.sleep(0.01)
        await client.restore_checkpoint(CheckpointRef(finetune.id, step=1))
        await client.train_step(step_of(finetune, unverified(3)))

    async with grpc.aio.insecure_channel(trainer.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="was restored while"):
            await pb_grpc.TrainerServiceStub(channel).TrainStep(messages())
    assert (await client.get_finetune(finetune.id)).step == 3


async def test_a_refused_stream_is_read_to_its_end(finetune: Finetune, trainer: TrainerProcess) -> None:
    # grpc.aio puts an internal error of its own in place of an answer that comes while it writes.
    bad = step_of(finetune, settings=replace(SETTINGS, clip_low=2.0), request_id="bad")
    header, group = list(train_step_to_messages(bad))
    written: list[bool] = []

    async def messages():
        yield header
        await asyncio.sleep(0.2)
        yield group
        written.append(True)

    async with grpc.aio.insecure_channel(trainer.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="clip_low"):
            await pb_grpc.TrainerServiceStub(channel).TrainStep(messages())
    assert written
