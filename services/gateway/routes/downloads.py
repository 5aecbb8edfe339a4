"""A saved step's adapter as one file: a link for a key's holder, and the file for whoever has the link."""

import asyncio
import shutil
import tempfile
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Path as PathField
from fastapi.responses import Response, StreamingResponse

from moontune.auth.context import current_principal, set_principal
from moontune.values.adapter import ExportKind
from moontune.values.finetune import LoraTarget
from moontune.values.principal import Principal, Scope
from services.gateway.convert import Json
from services.gateway.errors import error_response
from services.gateway.links import CheckpointLink, LinkExpired
from services.gateway.state import state_of

DOWNLOADS = "/v1/downloads"
BLOCK_BYTES = 1024 * 1024

router = APIRouter(tags=["tuning"])


@router.get("/v1/tuning/finetunes/{finetune_id}/checkpoints/{step}/download", response_model=None)
async def link(request: Request, finetune_id: str, step: Annotated[int, PathField(ge=0, le=999_999_999)]) -> Json:
    """A link to the saved step's adapter, good for `expires_in` seconds without a key.

    `format` is photon (one file, as Photon loads it) where the finetune touches MLP layers alone, else peft (a zip of
    PEFT's directory): Photon's form cannot hold the other layers.
    """
    state = state_of(request)
    finetune = await state.upstream.get_finetune(finetune_id)
    checkpoint = await state.upstream.get_checkpoint_at(finetune_id, step)
    kind = ExportKind.PHOTON if finetune.lora.targets == (LoraTarget.TEXT_MLP,) else ExportKind.PEFT
    lifetime_s = state.settings.link_s
    token = state.links.write(CheckpointLink(current_principal().organisation, finetune_id, step, kind), lifetime_s)
    base = (state.settings.public_url or str(request.base_url)).rstrip("/")
    return {
        "url": f"{base}{DOWNLOADS}/{token}",
        "expires_in": lifetime_s,
        "format": str(kind),
        "adapter_digest": checkpoint.adapter_digest,
    }


@router.get(f"{DOWNLOADS}/{{token}}", response_model=None)
async def download(request: Request, token: str) -> Response:
    """The file behind a link; 410 once its time is over."""
    state = state_of(request)
    try:
        wanted = state.links.read(token)
    except LinkExpired:
        message = "the link's time is over; ask .../checkpoints/{step}/download for a new one"
        return error_response(410, "not_found_error", message, code="LINK_EXPIRED")
    set_principal(Principal(wanted.organisation, frozenset({Scope.READ})))
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=state.settings.spool_dir))
    try:
        await state.upstream.export(wanted.finetune_id, wanted.step, wanted.kind, folder / "files")
        file = await asyncio.to_thread(_one_file, folder, f"{wanted.finetune_id}@{wanted.step}")
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        raise
    headers = {
        "Content-Length": str(file.stat().st_size),
        "Content-Disposition": f'attachment; filename="{file.name}"',
        "X-Moontune-Format": str(wanted.kind),
    }
    return StreamingResponse(_blocks(file, folder), media_type="application/octet-stream", headers=headers)


def _one_file(folder: Path, name: str) -> Path:
    """The only file there is, or a zip of them all."""
    files = sorted((folder / "files").iterdir())
    if len(files) == 1:
        return files[0].rename(folder / f"{name}{files[0].suffix}")
    target = folder / f"{name}.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:  # tensors do not shrink
        for file in files:
            archive.write(file, file.name)
    return target


async def _blocks(file: Path, folder: Path) -> AsyncGenerator[bytes, None]:
    try:
        with file.open("rb") as opened:
            while block := await asyncio.to_thread(opened.read, BLOCK_BYTES):
                yield block
    finally:
        shutil.rmtree(folder, ignore_errors=True)
