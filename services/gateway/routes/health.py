"""GET /health."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from services.gateway.readiness import ServiceState
from services.gateway.state import state_of

router = APIRouter()


@router.get("/health", response_model=None)
async def health(request: Request) -> JSONResponse:
    """200 when every service is ready, else 503; `services` tells which."""
    states = await state_of(request).readiness.check()
    ready = all(state is ServiceState.READY for state in states.values())
    body = {"status": "ok" if ready else "not_ready", "services": {name: str(state) for name, state in states.items()}}
    return JSONResponse(body, status_code=200 if ready else 503)
