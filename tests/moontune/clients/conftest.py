import pytest

from moontune.api.reward.v1.reward_service_pb2_grpc import add_RewardServiceServicer_to_server
from moontune.api.rollout.v1.rollout_service_pb2_grpc import add_RolloutServiceServicer_to_server
from moontune.api.trainer.v1.trainer_service_pb2_grpc import add_TrainerServiceServicer_to_server
from moontune.serving.server import ServiceApp, opened
from moontune.serving.settings import ServiceSettings
from tests.fakes.services import FakeRewards, FakeRollouts, FakeTrainer


class Fakes:
    """Three fake services behind one real chassis."""

    def __init__(self) -> None:
        self.trainer = FakeTrainer()
        self.rollouts = FakeRollouts()
        self.rewards = FakeRewards()
        self.address = ""

    async def build(self, chassis) -> None:
        chassis.add(add_TrainerServiceServicer_to_server, self.trainer)
        chassis.add(add_RolloutServiceServicer_to_server, self.rollouts)
        chassis.add(add_RewardServiceServicer_to_server, self.rewards)


@pytest.fixture
async def fakes():
    served = Fakes()
    settings = ServiceSettings(internal_token="shared")
    async with opened([ServiceApp("fakes", settings, served.build)]) as [chassis]:
        served.address = f"127.0.0.1:{chassis.port}"
        yield served
