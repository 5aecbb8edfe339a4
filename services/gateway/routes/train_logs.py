"""/v1/tuning/finetunes/{id}/train_logs: what each applied step reported, newest first."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request

from moontune.errors import InvalidField, StepNotFound
from services.gateway.convert import Json
from services.gateway.state import state_of
from services.gateway.step_log import StepLog, read_logs

router = APIRouter(prefix="/v1/tuning/finetunes/{finetune_id}/train_logs", tags=["tuning"])

Limit = Annotated[int, Query(ge=1, le=100)]
_FILE = re.compile(r"(\d{9})-rl=\d{1,9}-sft=\d{1,9}\.json", re.ASCII)
_CURSOR = re.compile(r"\d{1,9}", re.ASCII)


@router.get("", response_model=None)
async def list_logs(request: Request, finetune_id: str, limit: Limit = 20, cursor: str | None = None) -> Json:
    """Applied steps, newest first; `cursor` is `next_cursor` of the page before."""
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise InvalidField.of("cursor", cursor, "next_cursor of the page before")
    upstream = state_of(request).upstream
    finetune = await upstream.get_finetune(finetune_id)
    newest = finetune.step if cursor is None else min(int(cursor), finetune.step)
    logs = await read_logs(upstream, finetune_id, max(0, newest - limit), newest)
    following = newest - limit
    shown: list[Json] = [
        {"id": _file_id(log), "step": log.step, "metadata": {"rl": log.rl_groups, "sft": log.sft_groups}}
        for log in sorted(logs, key=lambda log: log.step, reverse=True)
    ]
    more = following > 0
    return {"steps": shown, "next_cursor": str(following) if more else None, "has_more": more}


@router.get("/{file_id}", response_model=None)
async def read_log(request: Request, finetune_id: str, file_id: str) -> Json:
    """One step's figures."""
    match = _FILE.fullmatch(file_id)
    if match is None:
        raise InvalidField.of("file_id", file_id, "an id of train_logs, as 000000123-rl=4-sft=8.json")
    step = int(match[1])
    upstream = state_of(request).upstream
    await upstream.get_finetune(finetune_id)
    for log in await read_logs(upstream, finetune_id, step - 1, step):
        if _file_id(log) == file_id:
            return {
                "step": step,
                "metadata": {"rl": log.rl_groups, "sft": log.sft_groups},
                "metrics": dict(log.metrics),
            }
    raise StepNotFound(f"finetune {finetune_id} has no train log {file_id}")


def _file_id(log: StepLog) -> str:
    return f"{log.step:09d}-rl={log.rl_groups}-sft={log.sft_groups}.json"
