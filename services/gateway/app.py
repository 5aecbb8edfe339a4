"""The application: routes, error handlers and the gate, over one state."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from moontune.auth.authenticator import Authenticator
from moontune.auth.keys import KeyStore
from moontune.clients.connection import Target
from moontune.errors import MoontuneError
from moontune.telemetry.logs import get_logger
from moontune.telemetry.metrics import ServiceMetrics
from services.gateway import errors, openapi
from services.gateway.config import GatewaySettings
from services.gateway.deliveries import DeliveryCounters
from services.gateway.gate import BodyLimits, Gate
from services.gateway.images import ImageReader
from services.gateway.links import LinkSigner
from services.gateway.model_names import ModelNames
from services.gateway.readiness import Readiness
from services.gateway.record import RecordSigner
from services.gateway.remote_images import GuardedNetwork, RemoteImages, allowed_addresses
from services.gateway.routes import (
    chat,
    checkpoints,
    downloads,
    finetunes,
    health,
    inference,
    models,
    rollouts,
    train_logs,
    training,
)
from services.gateway.state import GatewayState
from services.gateway.unfinished import HeldResults
from services.gateway.upstream import Upstream, credentials_of

log = get_logger(__name__)

DESCRIPTION = """Moondream's HTTP API over your own moontune services: tuning under `/v1/tuning`, inference under `/v1`.
Send an API key as `X-Moondream-Auth` or `Authorization: Bearer`; without keys only this machine is served."""


def create_app(settings: GatewaySettings, metrics: ServiceMetrics | None = None) -> FastAPI:
    """The ASGI application. It opens the databases here, the channels at its start, and closes both at its end."""
    keys = KeyStore(settings.keys_database) if settings.keys_database else None
    counters = DeliveryCounters(settings.database)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        state = await _state(settings, counters)
        app.state.gateway = state
        if keys is None or not await asyncio.to_thread(keys.any):
            log.warning("no API keys are configured: only this machine is served, with any key or none")
        try:
            yield
        finally:
            await state.close()
            if keys is not None:
                await asyncio.to_thread(keys.close)

    app = FastAPI(title="moontune", version=version("moontune"), description=DESCRIPTION, lifespan=lifespan)
    for module in (inference, rollouts, training, chat, finetunes, checkpoints, downloads, train_logs, models, health):
        app.include_router(module.router)
    app.add_exception_handler(MoontuneError, errors.on_moontune)
    app.add_exception_handler(RequestValidationError, errors.on_validation)
    app.add_exception_handler(UnicodeEncodeError, errors.on_text)
    app.add_exception_handler(ClientDisconnect, errors.on_departure)
    app.add_exception_handler(HTTPException, errors.on_http)
    app.add_exception_handler(Exception, errors.on_bug)
    openapi.install(app)
    _add_gate(app, settings, keys, metrics or ServiceMetrics())
    return app


def _add_gate(app: FastAPI, settings: GatewaySettings, keys: KeyStore | None, metrics: ServiceMetrics) -> None:
    app.add_middleware(
        Gate,
        authenticator=Authenticator(keys),
        keys=keys,
        limits=BodyLimits(settings.body_bytes, settings.train_body_bytes),
        allowed_hosts=settings.allowed_hosts,
        metrics=metrics,
        audit=keys.audit if keys is not None else None,
    )


async def _state(settings: GatewaySettings, counters: DeliveryCounters) -> GatewayState:
    secret = settings.record_secret
    signing = secret.get_secret_value().encode() if secret else await asyncio.to_thread(counters.record_secret)
    upstream = Upstream(settings)
    return GatewayState(
        settings=settings,
        upstream=upstream,
        models=ModelNames(upstream),
        readiness=Readiness(_targets(settings)),
        counters=counters,
        signer=RecordSigner(signing),
        links=LinkSigner(signing),
        images=ImageReader(settings.image_bytes, _remote_images(settings)),
        rollouts=HeldResults(settings.held_s),
    )


def _remote_images(settings: GatewaySettings) -> RemoteImages:
    network = GuardedNetwork(allowed_addresses(settings.image_networks))
    return RemoteImages(settings.image_hosts, settings.image_bytes, network, settings.image_ports)


def _targets(settings: GatewaySettings) -> dict[str, Target]:
    addresses = {
        "rollout": settings.rollout_address,
        "reward": settings.reward_address,
        "trainer": settings.trainer_address,
        "inference": settings.inference_address,
        "jobs": settings.jobs_address,
    }
    credentials = credentials_of(settings)
    return {name: Target(address, credentials) for name, address in addresses.items() if address}
