"""Branching from a saved step, importing an adapter, exporting a checkpoint: through a real trainer."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from moontune.api.trainer.v1 import trainer_service_pb2 as pb
from moontune.api.trainer.v1 import trainer_service_pb2_grpc as pb_grpc
from moontune.checkpoints.digest import ADAPTER_FILES, adapter_digest_of
from moontune.clients.trainer import TrainerClient
from moontune.errors import CheckpointNotFound, FinetuneExists, InvalidField, RequestIdReused
from moontune.values.adapter import AdapterImport, BundleFile, ExportKind, ImportKind
from moontune.values.finetune import (
    BranchPoint,
    CheckpointRef,
    Finetune,
    FinetuneKind,
    LoraSettings,
    LoraTarget,
    NewFinetune,
)
from moontune.values.skill import Skill
from moontune.wire.bundle import adapter_import_to_proto
from tests.services.trainer.made import policy_of, rl_group
from tests.services.trainer.process import TrainerProcess
from tests.services.trainer.test_service import step_of, unverified


async def trained(client: TrainerClient, finetune: Finetune) -> Finetune:
    """One step on, and saved."""
    await client.train_step(step_of(finetune, unverified(7), client_state=b"at one"))
    await client.save_checkpoint(finetune.id)
    return await client.get_finetune(finetune.id)


async def test_a_branch_goes_on_from_the_step_bit_for_bit(client: TrainerClient, finetune: Finetune) -> None:
    source = await trained(client, finetune)
    new = NewFinetune("", f"branch of {source.id}", lora=LoraSettings(4), branch_from=BranchPoint(source.id, 1))
    branch = await client.create_finetune(new)
    assert (branch.step, branch.adapter_digest) == (0, source.adapter_digest)
    assert branch.id != source.id
    assert await client.create_finetune(new) == branch
    onwards = [await client.train_step(step_of(source, unverified(seed))) for seed in (8, 9)]
    beside = [await client.train_step(step_of(branch, unverified(seed))) for seed in (8, 9)]
    assert [each.adapter_digest for each in beside] == [each.adapter_digest for each in onwards]
    # A branch is a finetune of its own: it trains on its own attempts, and outlives its source.
    now = await client.get_finetune(branch.id)
    await client.train_step(step_of(now, rl_group(Skill.DETECT, 1, policy_of(now))))
    await client.delete_finetune(source.id)
    saved = await client.save_checkpoint(branch.id)
    assert (await client.restore_checkpoint(CheckpointRef(branch.id, step=saved.step)))[1] == b"at one"


async def test_what_cannot_be_branched_from(client: TrainerClient, finetune: Finetune) -> None:
    await trained(client, finetune)
    await client.train_step(step_of(finetune, unverified(2)))

    def branch(step: int, lora: LoraSettings, name: str = "never") -> NewFinetune:
        return NewFinetune("", name, lora=lora, branch_from=BranchPoint(finetune.id, step))

    with pytest.raises(CheckpointNotFound, match=r"step 2 .* is not saved; save it"):
        await client.create_finetune(branch(2, LoraSettings(4)))
    with pytest.raises(InvalidField, match=r"branch_from.*this one has kind lora, rank 4, scale 2"):
        await client.create_finetune(branch(1, LoraSettings(8)))
    with pytest.raises(InvalidField, match="targets"):
        await client.create_finetune(branch(1, LoraSettings(4, targets=(LoraTarget.REGION,))))
    with pytest.raises(FinetuneExists, match=f"from {finetune.id}@1"):
        await client.create_finetune(branch(1, LoraSettings(4), finetune.name))
    from_the_base = await client.create_finetune(branch(0, LoraSettings(4), f"from the base {finetune.id}"))
    assert from_the_base.adapter_digest == finetune.adapter_digest


async def test_an_adapter_goes_out_and_comes_in_again(
    client: TrainerClient, finetune: Finetune, tmp_path: Path
) -> None:
    source = await trained(client, finetune)
    ref = CheckpointRef(source.id, step=1)
    exported = await client.export_checkpoint(ref, ExportKind.PEFT, tmp_path / "peft")
    assert exported.policy == policy_of(source)
    assert {file.name for file in exported.files} == {*ADAPTER_FILES, "manifest.json"}
    assert adapter_digest_of(tmp_path / "peft") == source.adapter_digest
    order = AdapterImport("import-1", f"import of {source.id}", ImportKind.PEFT, ())
    imported = await client.import_adapter(order, tmp_path / "peft")
    assert (imported.step, imported.adapter_digest, imported.lora.rank) == (0, source.adapter_digest, 4)
    assert await client.import_adapter(order, tmp_path / "peft") == imported
    with pytest.raises(RequestIdReused):
        await client.import_adapter(replace(order, alpha=3.0), tmp_path / "peft")
    with pytest.raises(FinetuneExists, match="taken"):
        await client.import_adapter(replace(order, request_id="import-2"), tmp_path / "peft")
    assert (await client.train_step(step_of(imported))).step == 1


async def test_a_merged_export_is_a_base_that_can_be_loaded(
    client: TrainerClient, finetune: Finetune, tmp_path: Path
) -> None:
    source = await trained(client, finetune)
    await client.export_checkpoint(CheckpointRef(source.id, step=1), ExportKind.MERGED, tmp_path / "merged")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in (tmp_path / "merged").iterdir()}
    with pytest.raises(CheckpointNotFound):
        await client.export_checkpoint(CheckpointRef(source.id, step=0), ExportKind.MERGED, tmp_path / "none")
    # Photon's form holds the text MLP alone.
    with pytest.raises(InvalidField, match="attn"):
        await client.export_checkpoint(CheckpointRef(source.id, step=1), ExportKind.PHOTON, tmp_path / "photon")


async def test_an_import_of_other_bytes_is_refused_and_leaves_nothing(
    client: TrainerClient, finetune: Finetune, trainer: TrainerProcess, tmp_path: Path
) -> None:
    await client.download_adapter(finetune.id, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({**config, "r": 3}))
    order = AdapterImport("", "refused", ImportKind.PEFT, ())
    with pytest.raises(InvalidField):
        await client.import_adapter(order, tmp_path / "peft")
    assert not list((trainer.data_dir / "spool").iterdir())
    assert "refused" not in {each.name for each in (await client.list_finetunes(page_size=1000)).items}


def announced(*contents: bytes) -> pb.ImportAdapterRequest:
    files = tuple(BundleFile(f"f{n}", len(each), hashlib.sha256(each).hexdigest()) for n, each in enumerate(contents))
    return pb.ImportAdapterRequest(header=adapter_import_to_proto(AdapterImport("raw", "raw", ImportKind.PEFT, files)))


def chunk(file: str, data: bytes) -> pb.ImportAdapterRequest:
    message = pb.ImportAdapterRequest()
    message.chunk.file, message.chunk.data = file, data
    return message


async def test_broken_imports_are_read_to_their_end_and_named(trainer: TrainerProcess) -> None:
    async with grpc.aio.insecure_channel(trainer.address) as channel:
        stub = pb_grpc.TrainerServiceStub(channel)
        for messages, told in (
            ([], "the stream was empty"),
            ([chunk("f0", b"x")], "header in the first message"),
            ([announced(b"ab"), chunk("f0", b"abc")], "3 bytes of 'f0' after 0 bytes"),
            ([announced(b"ab"), chunk("f1", b"ab")], "of 'f1' after 0 bytes of 'f0'"),
            ([announced(b"ab", b"c"), chunk("f1", b"c"), chunk("f0", b"ab")], "of 'f1'"),
            ([announced(b"ab"), chunk("f0", b"ax")], "SHA-256"),
            ([announced(b"ab", b"c"), chunk("f0", b"ab")], "f1 is '0 bytes'"),
            ([announced(b"ab"), announced(b"ab")], "chunk after the header"),
            ([announced(b"ab"), chunk("../f0", b"ab")], "file name"),
            ([announced(b"ab"), *[chunk("f0", b"x" * 2**20)] * 8], "bytes of 'f0' after"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=told) as raised:
                await stub.ImportAdapter(iter(messages))
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT, told
    assert not list((trainer.data_dir / "spool").iterdir())


@pytest.mark.parametrize("kind", [FinetuneKind.LORA_REGION, FinetuneKind.FULL])
async def test_every_kind_is_saved_restored_and_branched_bit_for_bit(
    client: TrainerClient, kind: FinetuneKind, tmp_path: Path
) -> None:
    made = await client.create_finetune(NewFinetune("", f"kind {kind}", lora=LoraSettings(4), kind=kind))
    source = await trained(client, made)
    straight = await client.train_step(step_of(source, unverified(8)))
    restored, state = await client.restore_checkpoint(CheckpointRef(source.id, step=1))
    assert (restored.adapter_digest, restored.kind, state) == (source.adapter_digest, kind, b"at one")
    again = await client.train_step(step_of(source, unverified(8)))
    assert again.adapter_digest == straight.adapter_digest
    point = BranchPoint(source.id, 1)
    branch = await client.create_finetune(
        NewFinetune("", f"branch of {kind}", lora=LoraSettings(4), kind=kind, branch_from=point)
    )
    assert (await client.train_step(step_of(branch, unverified(8)))).adapter_digest == straight.adapter_digest
    manifest = await client.download_adapter(source.id, tmp_path / "down", step=1)
    assert (manifest.kind, manifest.policy.adapter_digest) == (kind, source.adapter_digest)


async def test_a_full_finetune_is_exported_whole_and_never_as_deltas(client: TrainerClient, tmp_path: Path) -> None:
    made = await client.create_finetune(NewFinetune("", "full export", kind=FinetuneKind.FULL))
    source = await trained(client, made)
    ref = CheckpointRef(source.id, step=1)
    await client.export_checkpoint(ref, ExportKind.MERGED, tmp_path / "merged")
    assert (tmp_path / "merged" / "config.json").exists()
    for kind in (ExportKind.PHOTON, ExportKind.VARIANT):
        with pytest.raises(InvalidField, match=rf"kind is '{kind}'.*merged or int4"):
            await client.export_checkpoint(ref, kind, tmp_path / str(kind))
