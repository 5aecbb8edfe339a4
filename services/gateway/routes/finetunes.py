"""/v1/tuning/finetunes: create, list, read, delete, log metrics."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request

from moontune.errors import InvalidField
from moontune.values.finetune import MetricPoint
from moontune.values.model_ref import FINETUNE_ID
from services.gateway.convert import Json, finetune_json
from services.gateway.json_route import JsonRoute
from services.gateway.paging import page_of
from services.gateway.schemas import CreateFinetuneBody, MetricsBody
from services.gateway.state import state_of

router = APIRouter(prefix="/v1/tuning/finetunes", tags=["tuning"], route_class=JsonRoute)

RESERVED_METRICS = ("sys/", "usr/")
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("", response_model=None)
async def create(request: Request, body: CreateFinetuneBody) -> Json:
    """Create, or find the one of this name and rank."""
    finetune = await state_of(request).upstream.create_finetune(body.name, body.rank)
    return {"finetune_id": finetune.id, "finetune": finetune_json(finetune)}


@router.get("", response_model=None)
async def list_all(request: Request, limit: Limit = 20, cursor: str | None = None) -> Json:
    """Oldest first. A finetune's id is a ULID, so its order is that of creation."""
    if cursor is not None and not FINETUNE_ID.fullmatch(cursor):
        raise InvalidField.of("cursor", cursor, "next_cursor of the page before")
    finetunes = await state_of(request).upstream.list_finetunes()
    page = page_of(finetunes, lambda finetune: finetune.id, limit, cursor)
    return {"finetunes": [finetune_json(finetune) for finetune in page.items], **page.json()}


@router.get("/{finetune_id}", response_model=None)
async def read(request: Request, finetune_id: str) -> Json:
    """One finetune."""
    return {"finetune": finetune_json(await state_of(request).upstream.get_finetune(finetune_id))}


@router.delete("/{finetune_id}", response_model=None)
async def delete(request: Request, finetune_id: str) -> Json:
    """Delete it with its checkpoints."""
    await state_of(request).upstream.delete_finetune(finetune_id)
    return {"ok": True}


@router.post("/{finetune_id}/metrics", response_model=None)
async def log_metrics(request: Request, finetune_id: str, body: MetricsBody) -> Json:
    """Log the caller's own numbers for a step."""
    for name in body.metrics:
        if name.startswith(RESERVED_METRICS):
            raise InvalidField.of("metrics", name, f"a name that does not begin with {' or '.join(RESERVED_METRICS)}")
    now = datetime.now(UTC)
    points = [MetricPoint(body.step, name, value, now) for name, value in body.metrics.items()]
    await state_of(request).upstream.log_metrics(finetune_id, points)
    return {"ok": True, "step": body.step, "logged_count": len(points)}
