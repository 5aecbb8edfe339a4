"""/v1/tuning/finetunes/{id}/checkpoints: list, save, delete."""

import re
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from moontune.errors import CheckpointNotFound, InvalidField
from services.gateway.convert import Json, checkpoint_json
from services.gateway.paging import page_of
from services.gateway.state import state_of

router = APIRouter(prefix="/v1/tuning/finetunes/{finetune_id}/checkpoints", tags=["tuning"])

_CURSOR = re.compile(r"\d{9}", re.ASCII)
Step = Annotated[int, Path(ge=0, le=999_999_999)]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.get("", response_model=None)
async def list_saved(request: Request, finetune_id: str, limit: Limit = 20, cursor: str | None = None) -> Json:
    """Saved checkpoints by ascending step."""
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise InvalidField.of("cursor", cursor, "next_cursor of the page before")
    saved = await state_of(request).upstream.list_checkpoints(finetune_id)
    page = page_of(saved, lambda checkpoint: f"{checkpoint.step:09d}", limit, cursor)
    return {"checkpoints": [checkpoint_json(checkpoint) for checkpoint in page.items], **page.json()}


@router.post("/save", response_model=None)
async def save(request: Request, finetune_id: str) -> Json:
    """Save the current step; again is harmless."""
    checkpoint = await state_of(request).upstream.save_checkpoint(finetune_id)
    return {"ok": True, "checkpoint": checkpoint_json(checkpoint)}


@router.delete("/{step}", response_model=None)
async def delete(request: Request, finetune_id: str, step: Step) -> Json:
    """Delete one; again is success, a step that the finetune never reached is 404."""
    upstream = state_of(request).upstream
    try:
        await upstream.delete_checkpoint(finetune_id, step)
    except CheckpointNotFound:
        finetune = await upstream.get_finetune(finetune_id)
        if step > finetune.step:
            raise
    return {"ok": True}
