"""Finetunes: their shape, what creates them, and what they are."""

from moontune.api.trainer.v1 import finetune_pb2, trainer_service_pb2
from moontune.values.finetune import (
    DEFAULT_TARGETS,
    AttentionWiring,
    BranchPoint,
    Finetune,
    FinetuneKind,
    LoraSettings,
    LoraTarget,
    NewFinetune,
)
from moontune.wire.checks import EnumMap, at_least, each, encodes, request_id, required, resource_name, text
from moontune.wire.moments import timestamp_from_proto, timestamp_to_proto

FINETUNE_KINDS = EnumMap(
    {
        FinetuneKind.LORA: finetune_pb2.FINETUNE_KIND_LORA,
        FinetuneKind.LORA_REGION: finetune_pb2.FINETUNE_KIND_LORA_REGION,
        FinetuneKind.FULL: finetune_pb2.FINETUNE_KIND_FULL,
    }
)
LORA_TARGETS = EnumMap(
    {
        LoraTarget.TEXT_ATTENTION: finetune_pb2.LORA_TARGET_TEXT_ATTENTION,
        LoraTarget.TEXT_MLP: finetune_pb2.LORA_TARGET_TEXT_MLP,
        LoraTarget.REGION: finetune_pb2.LORA_TARGET_REGION,
        LoraTarget.VISION: finetune_pb2.LORA_TARGET_VISION,
    }
)
ATTENTION_WIRINGS = EnumMap(
    {
        AttentionWiring.ORDINARY: finetune_pb2.ATTENTION_WIRING_ORDINARY,
        AttentionWiring.BLOCK_INPUT: finetune_pb2.ATTENTION_WIRING_BLOCK_INPUT,
    }
)


@encodes("lora")
def lora_to_proto(lora: LoraSettings) -> finetune_pb2.LoraSettings:
    """The message."""
    return finetune_pb2.LoraSettings(
        rank=lora.rank,
        alpha=lora.alpha,
        targets=[LORA_TARGETS.encode(target) for target in lora.targets],
        seed=lora.seed,
        wiring=ATTENTION_WIRINGS.encode(lora.wiring),
    )


def lora_from_proto(message: finetune_pb2.LoraSettings, field: str = "lora") -> LoraSettings:
    """The value; an unset message is the defaults."""
    lora = LoraSettings(
        rank=message.rank if message.HasField("rank") else LoraSettings().rank,
        alpha=message.alpha if message.HasField("alpha") else None,
        targets=each(f"{field}.targets", message.targets, LORA_TARGETS.decode) or DEFAULT_TARGETS,
        seed=message.seed,
        wiring=ATTENTION_WIRINGS.decode_or(message.wiring, f"{field}.wiring", AttentionWiring.ORDINARY),
    )
    lora.validate(field)
    return lora


@encodes("finetune")
def finetune_to_proto(finetune: Finetune) -> finetune_pb2.Finetune:
    """The message."""
    return finetune_pb2.Finetune(
        id=finetune.id,
        name=finetune.name,
        organisation=finetune.organisation,
        base=finetune.base,
        base_digest=finetune.base_digest,
        kind=FINETUNE_KINDS.encode(finetune.kind),
        lora=lora_to_proto(finetune.lora),
        step=finetune.step,
        adapter_digest=finetune.adapter_digest,
        created_at=timestamp_to_proto(finetune.created_at),
        updated_at=timestamp_to_proto(finetune.updated_at),
    )


def finetune_from_proto(message: finetune_pb2.Finetune, field: str = "finetune") -> Finetune:
    """The value."""
    required(message.HasField("lora"), f"{field}.lora", "the adapter's shape")
    required(message.HasField("created_at"), f"{field}.created_at", "a time")
    required(message.HasField("updated_at"), f"{field}.updated_at", "a time")
    return Finetune(
        id=text(message.id, f"{field}.id"),
        name=text(message.name, f"{field}.name"),
        organisation=text(message.organisation, f"{field}.organisation"),
        base=text(message.base, f"{field}.base"),
        base_digest=message.base_digest,
        kind=FINETUNE_KINDS.decode(message.kind, f"{field}.kind"),
        lora=lora_from_proto(message.lora, f"{field}.lora"),
        step=at_least(message.step, 0, f"{field}.step"),
        adapter_digest=message.adapter_digest,
        created_at=timestamp_from_proto(message.created_at, f"{field}.created_at"),
        updated_at=timestamp_from_proto(message.updated_at, f"{field}.updated_at"),
    )


@encodes("finetune")
def new_finetune_to_proto(new: NewFinetune) -> trainer_service_pb2.CreateFinetuneRequest:
    """The request that creates it."""
    message = trainer_service_pb2.CreateFinetuneRequest(
        request_id=new.request_id,
        name=new.name,
        base=new.base,
        kind=FINETUNE_KINDS.encode(new.kind),
        lora=lora_to_proto(new.lora),
    )
    if new.branch_from is not None:
        branch = finetune_pb2.BranchPoint(finetune_id=new.branch_from.finetune_id, step=new.branch_from.step)
        message.branch_from.CopyFrom(branch)
    return message


def new_finetune_from_proto(message: trainer_service_pb2.CreateFinetuneRequest) -> NewFinetune:
    """What the request asks for."""
    branch = None
    if message.HasField("branch_from"):
        finetune_id = text(message.branch_from.finetune_id, "branch_from.finetune_id")
        branch = BranchPoint(finetune_id, at_least(message.branch_from.step, 0, "branch_from.step"))
    return NewFinetune(
        request_id=request_id(message.request_id),
        name=resource_name(message.name),
        base=message.base,
        lora=lora_from_proto(message.lora, "lora"),
        kind=FINETUNE_KINDS.decode_or(message.kind, "kind", FinetuneKind.LORA),
        branch_from=branch,
    )
