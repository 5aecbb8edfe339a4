"""Rows of finetunes and steps as values, both ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa

from moontune.values.finetune import AttentionWiring, Finetune, FinetuneKind, LoraSettings, LoraTarget


@dataclass(frozen=True, slots=True)
class FinetuneRow:
    """A finetune and the name of the folder that holds its present step."""

    finetune: Finetune
    folder: str


@dataclass(frozen=True, slots=True)
class StepRow:
    """An applied step. folder is "" once its files have expired; size_bytes is of its files.

    parent: the step that it was made from; None where that is no step of this finetune.
    """

    finetune_id: str
    step: int
    adapter_digest: str
    folder: str
    size_bytes: int
    applied_at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    parent: int | None = None


def step_columns(step: StepRow, organisation: str) -> dict[str, object]:
    """A step as a row."""
    return {
        "finetune_id": step.finetune_id,
        "step": step.step,
        "organisation": organisation,
        "adapter_digest": step.adapter_digest,
        "folder": step.folder,
        "size_bytes": step.size_bytes,
        "metrics": dict(step.metrics),
        "applied_at": step.applied_at,
        "parent": step.parent,
    }


def _lora_columns(lora: LoraSettings) -> dict[str, object]:
    """An adapter's shape as a JSON column."""
    return {
        "rank": lora.rank,
        "alpha": lora.alpha,
        "targets": [str(target) for target in lora.targets],
        "seed": lora.seed,
        "wiring": lora.wiring.value,
    }


def finetune_columns(row: FinetuneRow) -> dict[str, object]:
    """A finetune as a row."""
    finetune = row.finetune
    return {
        "id": finetune.id,
        "organisation": finetune.organisation,
        "name": finetune.name,
        "base": finetune.base,
        "base_digest": finetune.base_digest,
        "kind": finetune.kind.value,
        "lora": _lora_columns(finetune.lora),
        "step": finetune.step,
        "adapter_digest": finetune.adapter_digest,
        "folder": row.folder,
        "created_at": finetune.created_at,
        "updated_at": finetune.updated_at,
    }


def finetune_row(fields: sa.RowMapping) -> FinetuneRow:
    """A row as a finetune."""
    lora = fields["lora"]
    finetune = Finetune(
        id=fields["id"],
        name=fields["name"],
        organisation=fields["organisation"],
        base=fields["base"],
        base_digest=fields["base_digest"],
        kind=FinetuneKind(fields["kind"]),
        lora=LoraSettings(
            rank=lora["rank"],
            alpha=lora["alpha"],
            targets=tuple(LoraTarget(target) for target in lora["targets"]),
            seed=lora["seed"],
            wiring=AttentionWiring(lora.get("wiring", AttentionWiring.ORDINARY)),
        ),
        step=fields["step"],
        adapter_digest=fields["adapter_digest"],
        created_at=fields["created_at"],
        updated_at=fields["updated_at"],
    )
    return FinetuneRow(finetune, fields["folder"])


def step_row(fields: sa.RowMapping) -> StepRow:
    """A row as a step."""
    return StepRow(
        finetune_id=fields["finetune_id"],
        step=fields["step"],
        adapter_digest=fields["adapter_digest"],
        folder=fields["folder"],
        size_bytes=fields["size_bytes"],
        applied_at=fields["applied_at"],
        metrics=fields["metrics"],
        parent=fields["parent"],
    )
