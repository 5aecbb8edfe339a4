"""Checkpoints: what is in one, how it is digested, and the store that holds saved ones.

Torch-free and grpc-free: inference and the gateway read stores too. A checkpoint is a folder of files and a
`manifest.json`; it exists once its manifest does, and every read is checked against the manifest.

    <store url>/<finetune_id>/<step, 8 digits>/
        adapter_model.safetensors  adapter_config.json        the adapter, in PEFT's layout
        optimizer.safetensors      trainer_state.json         what a resume needs
        manifest.json                                         written last, deleted first
"""

from moontune.checkpoints.digest import ADAPTER_FILES, adapter_digest, sha256_file
from moontune.checkpoints.manifest import MANIFEST_FILE, FileEntry, Manifest
from moontune.checkpoints.store import CheckpointStore

__all__ = [
    "ADAPTER_FILES",
    "MANIFEST_FILE",
    "CheckpointStore",
    "FileEntry",
    "Manifest",
    "adapter_digest",
    "sha256_file",
]
