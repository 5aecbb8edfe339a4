"""Fake services over the real contract: they keep what they were sent and fail as a test asks."""

# ruff: noqa: N802  (rpcs are named as the contract names them)
import hashlib
from collections import deque
from datetime import UTC, datetime

from moontune.api.reward.v1 import reward_service_pb2, reward_service_pb2_grpc
from moontune.api.rollout.v1 import rollout_service_pb2, rollout_service_pb2_grpc
from moontune.api.trainer.v1 import trainer_service_pb2, trainer_service_pb2_grpc
from moontune.auth.context import current_principal
from moontune.checkpoints.digest import adapter_digest
from moontune.errors import FinetuneNotFound, ImageUnknown, MoontuneError
from moontune.values.adapter import AdapterManifest, BundleFile
from moontune.values.finetune import Finetune, LoraSettings, StepApplied
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import PointOutput
from moontune.values.reward import RewardResult
from moontune.values.rollout import FinishReason, Rollout, RolloutGroup
from moontune.values.skill import Skill
from moontune.values.training import TrainStepResult
from moontune.wire.bundle import adapter_manifest_to_proto, chunks_of, file_chunk_to_proto
from moontune.wire.finetune import finetune_to_proto
from moontune.wire.finetune_event import finetune_event_to_proto
from moontune.wire.image import images_from_proto
from moontune.wire.item_error import item_error_to_proto
from moontune.wire.reward import reward_result_to_proto
from moontune.wire.rollout import rollout_group_to_proto
from moontune.wire.rollout_order import rollout_order_from_proto
from moontune.wire.training import train_result_to_proto

NOW = datetime(2026, 1, 2, tzinfo=UTC)
POLICY = PolicyVersion("fake", "sha256:" + "0" * 64)


def finetune(id: str = "01J00000000000000000000000", organisation: str = "local", step: int = 0) -> Finetune:
    digest = "sha256:" + "1" * 64
    return Finetune(id, "a", organisation, "fake", "sha256:" + "0" * 64, LoraSettings(), step, digest, NOW, NOW)


class FakeTrainer(trainer_service_pb2_grpc.TrainerServiceServicer):
    """Applies a step once per request id; `failures` are raised first, one a call, after the stream was read."""

    def __init__(self) -> None:
        self.failures: deque[MoontuneError] = deque()
        self.calls = 0
        self.request_ids: list[str] = []
        self.group_images: list[list[str | None]] = []
        self.applied: set[str] = set()
        self.organisations: list[str] = []
        self.files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * (2 * 1024 * 1024 + 7)}
        self.corrupt = ""
        self.steps = 3

    def fail(self) -> None:
        self.calls += 1
        self.organisations.append(current_principal().organisation)
        if self.failures:
            raise self.failures.popleft()

    async def GetFinetune(self, request, context):
        self.fail()
        if request.finetune_id == "missing":
            raise FinetuneNotFound(f"no finetune {request.finetune_id!r}")
        return trainer_service_pb2.GetFinetuneResponse(finetune=finetune_to_proto(finetune()))

    async def DeleteFinetune(self, request, context):
        self.request_ids.append(request.request_id)
        self.fail()
        return trainer_service_pb2.DeleteFinetuneResponse()

    async def TrainStep(self, requests, context):
        images: list[str | None] = []
        async for message in requests:
            if message.WhichOneof("payload") == "header":
                self.request_ids.append(message.header.request_id)
                continue
            image = message.group.rl.request.images[0]
            images.append(image.WhichOneof("source"))
            assert images_from_proto([image]) is not None
        self.group_images.append(images)
        replayed = self.request_ids[-1] in self.applied
        self.applied.add(self.request_ids[-1])
        self.fail()
        digest = "sha256:" + "1" * 64
        result = TrainStepResult(len(self.applied), True, digest, metrics={"reward_mean": 0.5}, replayed=replayed)
        return trainer_service_pb2.TrainStepResponse(result=train_result_to_proto(result))

    async def DownloadAdapter(self, request, context):
        self.fail()
        shas = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        files = tuple(BundleFile(name, len(self.files[name]), shas[name]) for name in sorted(self.files))
        digest = adapter_digest(shas) if self.corrupt != "digest" else "sha256:" + "2" * 64
        policy = PolicyVersion("fake", "sha256:" + "0" * 64, "01J00000000000000000000000", 1, digest)
        manifest = adapter_manifest_to_proto(AdapterManifest(policy, LoraSettings(), files))
        yield trainer_service_pb2.DownloadAdapterResponse(manifest=manifest)
        for name, data in sorted(self.files.items()):
            sent = data[:-1] + b"X" if self.corrupt == "bytes" else data
            for chunk in chunks_of(name, [sent]):
                yield trainer_service_pb2.DownloadAdapterResponse(chunk=file_chunk_to_proto(chunk))

    async def WatchFinetune(self, request, context):
        self.fail()
        yield finetune_event_to_proto(finetune())
        for step in range(1, self.steps + 1):
            yield finetune_event_to_proto(StepApplied(step, "sha256:" + "1" * 64, NOW))
        self.fail()


class FakeRollouts(rollout_service_pb2_grpc.RolloutServiceServicer):
    """Holds the images it was sent; `remember` False makes it forget them at once."""

    def __init__(self, remember: bool = True) -> None:
        self.remember = remember
        self.images: dict[str, bytes] = {}
        self.sources: list[str] = []

    def group(self, message) -> RolloutGroup:
        order = rollout_order_from_proto(message)
        image = order.request.image
        assert image is not None
        self.sources.append("digest" if image.data is None else "bytes")
        if image.data is None and image.sha256 not in self.images:
            raise ImageUnknown(f"no image {image.sha256}")
        if image.data is not None and self.remember:
            self.images[image.sha256] = image.data
        rollout = Rollout(Skill.POINT, PointOutput(()), (), FinishReason.STOP, POLICY, 1, 1.0)
        request = order.request
        return RolloutGroup(
            type(request)(Skill.POINT, image.named(), object=request.object, settings=request.settings),
            (rollout,) * order.rollout_count,
        )

    async def GenerateRollouts(self, request, context):
        group = rollout_group_to_proto(self.group(request.order))
        return rollout_service_pb2.GenerateRolloutsResponse(group=group)

    async def StreamRollouts(self, requests, context):
        async for request in requests:
            try:
                group = rollout_group_to_proto(self.group(request.order))
                yield rollout_service_pb2.StreamRolloutsResponse(tag=request.tag, group=group)
            except MoontuneError as error:
                yield rollout_service_pb2.StreamRolloutsResponse(tag=request.tag, error=item_error_to_proto(error))


class FakeRewards(reward_service_pb2_grpc.RewardServiceServicer):
    """Scores every sample 0.5 and keeps how its image came."""

    def __init__(self) -> None:
        self.sources: list[str | None] = []

    async def Score(self, request, context):
        self.sources += [sample.request.images[0].WhichOneof("source") for sample in request.samples]
        results = [reward_result_to_proto(RewardResult(0.5)) for _ in request.samples]
        return reward_service_pb2.ScoreResponse(results=results)
