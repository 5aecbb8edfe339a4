"""Every service behind keys, in one process over one worker, and a gateway in front."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx

from moontune.auth.keys import KeyStore
from moontune.clients.credentials import Credentials
from moontune.clients.inference import InferenceClient
from moontune.clients.jobs import JobClient
from moontune.clients.retry import NO_RETRY
from moontune.clients.reward import RewardClient
from moontune.clients.trainer import TrainerClient
from moontune.serving.chassis import Chassis
from moontune.serving.server import ServiceApp, opened
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.principal import KeyLimits
from services.__main__ import shared_worker
from services.gateway.config import GatewaySettings
from services.gateway.http_server import server
from services.inference.config import InferenceSettings
from services.inference.servicer import build as build_inference
from services.jobs.config import JobsSettings
from services.jobs.servicer import build as build_jobs
from services.reward.config import RewardSettings
from services.reward.servicer import build as build_reward
from services.rollout.config import RolloutSettings
from services.rollout.servicer import build as build_rollout
from services.trainer.__main__ import worker as trainer_worker
from services.trainer.config import TrainerSettings
from services.trainer.servicer import build as build_trainer
from tests.fakes.tiny_base import write_tiny_base
from tests.services.model_stack import _free_port

TOKEN = "between our services"
NOBODY = "127.0.0.1:9"
"""The jobs service's peers: its jobs wait, and train nothing."""


@dataclass(frozen=True, slots=True)
class TenancyStack:
    """keys: of the organisations, by name; `poor` has a storage quota of one byte, `hasty` one request in 1,000 s.

    channels: by service package ("trainer"). http: of the gateway.
    """

    keys: dict[str, str]
    channels: dict[str, grpc.aio.Channel]
    http: httpx.AsyncClient
    openapi: dict
    trainer: TrainerClient
    inference: InferenceClient
    jobs: JobClient
    reward: RewardClient


@contextlib.asynccontextmanager
async def tenancy_stack(folder: Path) -> AsyncGenerator[TenancyStack]:
    """Start everything; `owner` and `stranger` are the organisations, the clients are the owner's."""
    url = f"sqlite:///{folder}/keys.db"
    store = KeyStore(url)
    keys = {name: store.create(name)[1] for name in ("owner", "stranger")}
    keys["poor"] = store.create("poor", limits=KeyLimits(storage_bytes=1))[1]
    keys["hasty"] = store.create("hasty", limits=KeyLimits(requests_per_s=0.001))[1]
    store.close()
    base = str(write_tiny_base(folder / "base"))
    ports = {name: _free_port() for name in ("trainer", "reward")}
    shared = {"keys_database": url, "internal_token": TOKEN}
    model = {"base": base, "device": "cpu"}
    checkpoints = str(folder / "data" / "checkpoints")
    judges = {"database": f"sqlite:///{folder}/rewards.db", "allowed_endpoints": [NOBODY]}
    reward = RewardSettings(port=ports["reward"], **judges, **shared)
    trainer = TrainerSettings(port=ports["trainer"], data_dir=folder / "data", **model, **shared)
    peers = {"trainer_address": f"127.0.0.1:{ports['trainer']}", "reward_address": f"127.0.0.1:{ports['reward']}"}
    rollout = RolloutSettings(port=0, **peers, **model, **shared)
    inference = InferenceSettings(port=0, checkpoint_store=checkpoints, recheck_s=0.0, **model, **shared)
    away = {f"{name}_address": NOBODY for name in ("rollout", "reward", "trainer")}
    jobs = JobsSettings(port=0, database=f"sqlite:///{folder}/jobs.db", data_dir=folder / "jobs", **away, **shared)
    apps = [
        _app("reward", reward, build_reward),
        _app("trainer", trainer, build_trainer),
        _app("rollout", rollout, build_rollout),
        _app("inference", inference, build_inference),
        _app("jobs", jobs, build_jobs),
    ]
    specs = {"rollout": rollout.worker(), "trainer": trainer_worker(trainer), "inference": inference.worker()}
    async with contextlib.AsyncExitStack() as stack:
        started = await stack.enter_async_context(opened(apps, shared_worker(specs)))
        address = {app.name: f"127.0.0.1:{each.port}" for app, each in zip(apps, started, strict=True)}
        channels = {name: grpc.aio.insecure_channel(where) for name, where in address.items()}
        for channel in channels.values():
            stack.push_async_callback(channel.close)
        upstream = {f"{name}_address": where for name, where in address.items()}
        http = await stack.enter_async_context(_gateway(folder, **upstream, **shared))
        credentials = Credentials(api_key=keys["owner"])
        clients = [
            await stack.enter_async_context(kind(address[name], credentials, retry=NO_RETRY))
            for name, kind in (
                ("trainer", TrainerClient),
                ("inference", InferenceClient),
                ("jobs", JobClient),
                ("reward", RewardClient),
            )
        ]
        document = (await http.get("/openapi.json")).json()
        yield TenancyStack(keys, channels, http, document, *clients)


@contextlib.asynccontextmanager
async def _gateway(folder: Path, **settings: object) -> AsyncGenerator[httpx.AsyncClient]:
    made = GatewaySettings(port=0, database=f"sqlite:///{folder}/gateway.db", **settings)
    http = server(made, ServiceMetrics())
    http.install_signal_handlers = lambda: None
    serving = asyncio.create_task(http.serve())
    while not http.started:
        await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
    port = http.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield client
    finally:
        http.should_exit = True
        await serving


def _app(name: str, settings: object, build: object) -> ServiceApp:
    async def start(chassis: Chassis) -> None:
        await build(chassis, settings)

    return ServiceApp(name, settings, start)
