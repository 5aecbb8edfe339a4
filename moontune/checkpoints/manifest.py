"""The manifest of a checkpoint: what it is, and the size and SHA-256 of each of its files."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import cast

from moontune.errors import CheckpointCorrupt
from moontune.values.finetune import AttentionWiring, Checkpoint, FinetuneKind, LoraSettings, LoraTarget

MANIFEST_FILE = "manifest.json"
MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint: its name in the folder, SHA-256 (64 hex digits) and size in bytes."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything known of a checkpoint without opening its tensors.

    checkpoint_id: a ULID. adapter_digest: `sha256:<64 hex>` over the adapter's files. expires_at: None never.
    parent_digest: adapter digest of the weights that the step was made from, "" for none; so steps make a chain.
    metrics: of the step that made it. versions: of the libraries that wrote it, by distribution name.
    """

    checkpoint_id: str
    finetune_id: str
    finetune_name: str
    organisation: str
    base: str
    base_digest: str
    lora: LoraSettings
    step: int
    adapter_digest: str
    created_at: datetime
    files: tuple[FileEntry, ...]
    kind: FinetuneKind = FinetuneKind.LORA
    expires_at: datetime | None = None
    parent_digest: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def size_bytes(self) -> int:
        """Of all files together, without the manifest."""
        return sum(entry.size_bytes for entry in self.files)

    def file(self, name: str) -> FileEntry:
        """The entry of this name; CheckpointCorrupt when the manifest lists no such file."""
        for entry in self.files:
            if entry.name == name:
                return entry
        raise CheckpointCorrupt(f"the manifest of {self.finetune_id}@{self.step} lists no file {name!r}")

    def checkpoint(self) -> Checkpoint:
        """The value that the API lists."""
        return Checkpoint(
            id=self.checkpoint_id,
            finetune_id=self.finetune_id,
            step=self.step,
            adapter_digest=self.adapter_digest,
            size_bytes=self.size_bytes,
            created_at=self.created_at,
            expires_at=self.expires_at,
            metrics=dict(self.metrics),
        )

    def to_json(self) -> str:
        """Stable, readable JSON with a digest of itself: sorted keys, so that equal manifests are equal files."""
        fields = self._fields()
        return _text({**fields, "sha256": _digest(fields)})

    def _fields(self) -> dict[str, object]:
        return {
            "version": MANIFEST_VERSION,
            "checkpoint_id": self.checkpoint_id,
            "finetune_id": self.finetune_id,
            "finetune_name": self.finetune_name,
            "organisation": self.organisation,
            "base": self.base,
            "base_digest": self.base_digest,
            "kind": self.kind.value,
            "lora": {
                "rank": self.lora.rank,
                "alpha": self.lora.alpha,
                "targets": [target.value for target in self.lora.targets],
                "seed": self.lora.seed,
                "wiring": self.lora.wiring.value,
            },
            "step": self.step,
            "adapter_digest": self.adapter_digest,
            "parent_digest": self.parent_digest,
            "created_at": self.created_at.isoformat(),
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
            "versions": dict(self.versions),
            "files": {entry.name: {"sha256": entry.sha256, "size_bytes": entry.size_bytes} for entry in self.files},
        }

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Read a manifest back.

        Args:
            text: the file's content.
            where: the file's path or URL, for the message.

        Raises:
            CheckpointCorrupt: it is not JSON, a field is missing or of another type, or its version is unknown.
        """
        try:
            fields = json.loads(text)
            told = fields.pop("sha256", None)  # manifests of before 2026-11-21 have none
            if told is not None and told != _digest(fields):
                raise CheckpointCorrupt(f"{where} was changed after it was written: its digest does not match")
            if fields["version"] != MANIFEST_VERSION:
                raise CheckpointCorrupt(
                    f"{where} has manifest version {fields['version']!r}; this build reads {MANIFEST_VERSION}"
                )
            return cls._from_fields(cast("Mapping[str, object]", fields))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointCorrupt(f"{where} is not a manifest: {type(error).__name__}: {error}") from error

    @classmethod
    def _from_fields(cls, fields: Mapping[str, object]) -> "Manifest":
        lora = cast("Mapping[str, object]", fields["lora"])
        alpha, expires_at = lora["alpha"], fields["expires_at"]
        files = cast("Mapping[str, Mapping[str, object]]", fields["files"])
        metrics = cast("Mapping[str, object]", fields["metrics"])
        versions = cast("Mapping[str, object]", fields["versions"])
        return cls(
            checkpoint_id=str(fields["checkpoint_id"]),
            finetune_id=str(fields["finetune_id"]),
            finetune_name=str(fields["finetune_name"]),
            organisation=str(fields["organisation"]),
            base=str(fields["base"]),
            base_digest=str(fields["base_digest"]),
            kind=FinetuneKind(str(fields["kind"])),
            lora=LoraSettings(
                rank=_whole(lora["rank"]),
                alpha=None if alpha is None else _number(alpha),
                targets=tuple(LoraTarget(str(target)) for target in cast("list[object]", lora["targets"])),
                seed=_whole(lora["seed"]),
                wiring=AttentionWiring(str(lora.get("wiring", AttentionWiring.ORDINARY))),
            ),
            step=_whole(fields["step"]),
            adapter_digest=str(fields["adapter_digest"]),
            parent_digest=str(fields.get("parent_digest", "")),
            created_at=datetime.fromisoformat(str(fields["created_at"])),
            expires_at=None if expires_at is None else datetime.fromisoformat(str(expires_at)),
            metrics={name: _number(value) for name, value in metrics.items()},
            versions={name: str(value) for name, value in versions.items()},
            files=tuple(
                FileEntry(_file_name(name), str(entry["sha256"]), _whole(entry["size_bytes"]))
                for name, entry in files.items()
            ),
        )


def _text(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, indent=2, sort_keys=True, allow_nan=False)


def _digest(fields: Mapping[str, object]) -> str:
    return hashlib.sha256(_text(fields).encode()).hexdigest()


def _file_name(name: str) -> str:
    """The name, which readers join to folders of their own."""
    if not name or name.startswith(".") or name == MANIFEST_FILE or any(sign in name for sign in "/\\\0"):
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{value!r} is not a number")
    return float(value)
