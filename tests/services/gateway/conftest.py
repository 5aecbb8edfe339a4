"""A gateway on a real socket over fake services on real channels."""

import asyncio
import base64
import contextlib
import io
from dataclasses import dataclass

import httpx
import pytest
from PIL import Image

from moontune.api.inference.v1 import inference_service_pb2_grpc
from moontune.api.rollout.v1 import rollout_service_pb2_grpc
from moontune.api.trainer.v1 import trainer_service_pb2_grpc
from moontune.serving.server import ServiceApp, opened
from moontune.serving.settings import ServiceSettings
from moontune.telemetry.metrics import ServiceMetrics
from services.gateway.config import GatewaySettings
from services.gateway.http_server import server
from tests.fakes.loop import FakeInference, FakeRollout, FakeTrainer


def image_url(colour: str = "red", kind: str = "JPEG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), colour).save(buffer, format=kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass
class Running:
    """url, port: of the gateway. app: to look inside."""

    client: httpx.AsyncClient
    port: int
    trainer: FakeTrainer
    rollout: FakeRollout
    inference: FakeInference
    metrics: ServiceMetrics
    state: object

    async def finetune(self, name: str = "digits", rank: int = 8) -> str:
        answer = await self.client.post("/v1/tuning/finetunes", json={"name": name, "rank": rank})
        assert answer.status_code == 200, answer.text
        return answer.json()["finetune_id"]


@contextlib.asynccontextmanager
async def gateway(tmp_path, **changed):
    trainer, rollout = FakeTrainer(), FakeRollout()
    inference = FakeInference(trainer)

    async def build(chassis) -> None:
        chassis.add(trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server, trainer)
        chassis.add(rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server, rollout)
        chassis.add(inference_service_pb2_grpc.add_InferenceServiceServicer_to_server, inference)

    async with opened([ServiceApp("fakes", ServiceSettings(), build)]) as [chassis]:
        address = f"127.0.0.1:{chassis.port}"
        services = {f"{name}_address": address for name in ("rollout", "reward", "trainer", "inference", "jobs")}
        settings = GatewaySettings(
            port=0, database=f"sqlite:///{tmp_path}/gateway.db", **(services | {"control_timeout_s": 5.0} | changed)
        )
        metrics = ServiceMetrics()
        http = server(settings, metrics)
        http.config.lifespan = "on"
        http.install_signal_handlers = lambda: None
        serving = asyncio.create_task(http.serve())
        while not http.started:
            await asyncio.sleep(0.01)
            if serving.done():
                serving.result()
        port = http.servers[0].sockets[0].getsockname()[1]
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                app = http.config.app
                yield Running(client, port, trainer, rollout, inference, metrics, app.state.gateway)
        finally:
            http.should_exit = True
            await serving


@pytest.fixture
async def running(tmp_path):
    async with gateway(tmp_path) as running:
        yield running
