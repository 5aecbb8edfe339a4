"""GET /v1/models."""

from fastapi import APIRouter, Request

from services.gateway.convert import Json
from services.gateway.state import state_of

router = APIRouter(prefix="/v1", tags=["inference"])


@router.get("/models", response_model=None)
async def models(request: Request) -> Json:
    """What can be named as `model`: the base, then the organisation's saved steps."""
    listed = await state_of(request).upstream.list_models()
    return {
        "object": "list",
        "data": [
            {
                "id": model.name,
                "object": "model",
                "created": int(model.created_at.timestamp()) if model.created_at else 0,
                "owned_by": "moontune",
                "skills": [str(skill) for skill in model.skills],
                "adapter_digest": model.policy.adapter_digest,
            }
            for model in listed
        ],
    }
