# ruff: noqa: N802 (generated names)
"""The loop's services as a caller sees them, without a model: real servicers, real channels, scripted answers.

FakeTrainer keeps the contract that callers lean on: idempotent request ids with a payload digest, a step counter,
saved steps. FakeRollout makes rollouts whose numbers follow from the seed. Both note what they were asked.
"""

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ulid import ULID

from moontune.api.inference.v1 import inference_service_pb2 as inference_pb
from moontune.api.inference.v1 import inference_service_pb2_grpc
from moontune.api.rollout.v1 import rollout_service_pb2 as rollout_pb
from moontune.api.rollout.v1 import rollout_service_pb2_grpc
from moontune.api.trainer.v1 import trainer_service_pb2 as trainer_pb
from moontune.api.trainer.v1 import trainer_service_pb2_grpc
from moontune.checkpoints.digest import adapter_digest
from moontune.errors import (
    CheckpointNotFound,
    FinetuneExists,
    FinetuneNotFound,
    InvalidField,
    MoontuneError,
    RequestIdReused,
)
from moontune.values.adapter import AdapterManifest, BundleFile, ExportManifest
from moontune.values.finetune import Checkpoint, Finetune, LoraSettings, MetricPoint
from moontune.values.geometry import Box, Point
from moontune.values.inference import InferenceResult, ModelInfo, TextDelta, Usage
from moontune.values.model_ref import ModelRef, PolicyVersion
from moontune.values.output import CaptionOutput, DetectOutput, PointOutput, QueryOutput, Reasoning
from moontune.values.request import SkillRequest
from moontune.values.rollout import Decision, FinishReason, Head, Rollout, RolloutGroup
from moontune.values.skill import Skill
from moontune.values.training import Group, RlGroup, SftGroup, TrainStep, TrainStepResult
from moontune.wire.answer import (
    caption_answer_to_proto,
    caption_event_to_proto,
    detect_answer_to_proto,
    point_answer_to_proto,
    query_answer_to_proto,
    query_event_to_proto,
)
from moontune.wire.bundle import (
    EXPORT_KINDS,
    adapter_manifest_to_proto,
    chunks_of,
    export_manifest_to_proto,
    file_chunk_to_proto,
)
from moontune.wire.checkpoint import checkpoint_ref_from_proto, checkpoint_to_proto
from moontune.wire.finetune import finetune_to_proto, new_finetune_from_proto
from moontune.wire.inference import inference_request_from_proto
from moontune.wire.metric import metric_point_to_proto
from moontune.wire.model_info import model_info_to_proto
from moontune.wire.rollout import rollout_group_to_proto
from moontune.wire.rollout_order import rollout_order_from_proto
from moontune.wire.training import group_from_proto, train_header_from_proto, train_result_to_proto

BASE, BASE_DIGEST = "moontune-tiny", "sha256:" + "b" * 64
DETECTED, POINTED = Box(0.25, 0.25, 0.5, 0.75), Point(0.5, 0.25)


ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * (1024 * 1024 + 7)}


def digest_of(finetune_id: str, step: int) -> str:
    return "sha256:" + hashlib.sha256(f"{finetune_id}@{step}".encode()).hexdigest()


@dataclass
class FakeTrainer(trainer_service_pb2_grpc.TrainerServiceServicer):
    """slow_s: how long a step takes. steps: what was applied, in order."""

    slow_s: float = 0.0
    finetunes: dict[str, Finetune] = field(default_factory=dict)
    saved: dict[tuple[str, int], Checkpoint] = field(default_factory=dict)
    steps: list[TrainStep] = field(default_factory=list)
    metrics: list[tuple[str, int, str, float]] = field(default_factory=list)
    answers: dict[str, tuple[bytes, TrainStepResult]] = field(default_factory=dict)
    running: dict[str, asyncio.Lock] = field(default_factory=dict)

    def _finetune(self, finetune_id: str) -> Finetune:
        if finetune_id not in self.finetunes:
            raise FinetuneNotFound(f"no finetune {finetune_id}")
        return self.finetunes[finetune_id]

    async def CreateFinetune(self, request, context):
        new = new_finetune_from_proto(request)
        for finetune in self.finetunes.values():
            if finetune.name == new.name:
                if finetune.lora != new.lora:
                    raise FinetuneExists(f"{new.name} has rank {finetune.lora.rank}, not {new.lora.rank}")
                return trainer_pb.CreateFinetuneResponse(finetune=finetune_to_proto(finetune))
        now, new_id = datetime.now(UTC), str(ULID())
        made = Finetune(new_id, new.name, "local", BASE, BASE_DIGEST, new.lora, 0, digest_of(new_id, 0), now, now)
        self.finetunes[new_id] = made
        return trainer_pb.CreateFinetuneResponse(finetune=finetune_to_proto(made))

    async def GetFinetune(self, request, context):
        return trainer_pb.GetFinetuneResponse(finetune=finetune_to_proto(self._finetune(request.finetune_id)))

    async def ListFinetunes(self, request, context):
        newest = sorted(self.finetunes.values(), key=lambda finetune: finetune.id, reverse=True)
        return trainer_pb.ListFinetunesResponse(finetunes=[finetune_to_proto(finetune) for finetune in newest])

    async def DeleteFinetune(self, request, context):
        self._finetune(request.finetune_id)
        del self.finetunes[request.finetune_id]
        return trainer_pb.DeleteFinetuneResponse()

    async def LogMetrics(self, request, context):
        self._finetune(request.finetune_id)
        self.metrics += [(request.finetune_id, one.step, one.name, one.value) for one in request.points]
        return trainer_pb.LogMetricsResponse()

    async def TrainStep(self, request_iterator, context):
        payload = hashlib.sha256()
        step: TrainStep | None = None
        groups: list[Group] = []
        async for message in request_iterator:
            payload.update(message.SerializeToString(deterministic=True))
            if message.WhichOneof("payload") == "header":
                step, _ = train_header_from_proto(message.header)
            else:
                groups.append(group_from_proto(message.group, f"groups[{len(groups)}]"))
        assert step is not None
        async with self.running.setdefault(step.request_id, asyncio.Lock()):
            result = await self._apply(replace(step, groups=tuple(groups)), payload.digest())
        return trainer_pb.TrainStepResponse(result=train_result_to_proto(result))

    async def _apply(self, step: TrainStep, payload: bytes) -> TrainStepResult:
        if step.request_id in self.answers:
            known, result = self.answers[step.request_id]
            if known != payload:
                raise RequestIdReused(f"{step.request_id} came with another payload")
            return replace(result, replayed=True)
        finetune = self._finetune(step.finetune_id)
        for group in step.groups:
            if isinstance(group, RlGroup) and any(rollout.temperature == 0.0 for rollout in group.rollouts):
                raise InvalidField.of("groups[0].rollouts[0].temperature", 0.0, "more than 0")
        await asyncio.sleep(self.slow_s)
        self.steps.append(step)
        now = finetune.step + 1
        self.finetunes[finetune.id] = replace(finetune, step=now, adapter_digest=digest_of(finetune.id, now))
        unverified = sum(isinstance(group, RlGroup) and not group.verified for group in step.groups)
        metrics = {"reward_mean": 0.5, "grad_norm": 1.5, "unverified_groups": float(unverified)}
        metrics["n_sft_groups"] = float(sum(isinstance(group, SftGroup) for group in step.groups))
        metrics["n_groups"] = len(step.groups) - metrics["n_sft_groups"]
        self.metrics += [(finetune.id, now, name, value) for name, value in metrics.items()]
        result = TrainStepResult(now, True, digest_of(finetune.id, now), metrics=metrics)
        self.answers[step.request_id] = (payload, result)
        return result

    async def SaveCheckpoint(self, request, context):
        finetune = self._finetune(request.finetune_id)
        key = (finetune.id, finetune.step)
        if key not in self.saved:
            digest = digest_of(*key)
            self.saved[key] = Checkpoint(str(ULID()), finetune.id, finetune.step, digest, 100, datetime.now(UTC))
        return trainer_pb.SaveCheckpointResponse(checkpoint=checkpoint_to_proto(self.saved[key]))

    async def ListCheckpoints(self, request, context):
        self._finetune(request.finetune_id)
        mine = [one for key, one in sorted(self.saved.items(), reverse=True) if key[0] == request.finetune_id]
        return trainer_pb.ListCheckpointsResponse(checkpoints=[checkpoint_to_proto(one) for one in mine])

    async def GetCheckpoint(self, request, context):
        ref = checkpoint_ref_from_proto(request.ref)
        for one in self.saved.values():
            if one.finetune_id == ref.finetune_id and (ref.checkpoint_id == one.id or ref.step == one.step):
                return trainer_pb.GetCheckpointResponse(checkpoint=checkpoint_to_proto(one))
        raise CheckpointNotFound(f"no checkpoint {ref.checkpoint_id or ref.step} of {ref.finetune_id}")

    async def DownloadAdapter(self, request, context):
        self._finetune(request.finetune_id)
        shas = {name: hashlib.sha256(data).hexdigest() for name, data in ADAPTER.items()}
        files = tuple(BundleFile(name, len(ADAPTER[name]), shas[name]) for name in sorted(ADAPTER))
        policy = PolicyVersion(BASE, BASE_DIGEST, request.finetune_id, request.step, adapter_digest(shas))
        manifest = adapter_manifest_to_proto(AdapterManifest(policy, LoraSettings(), files))
        yield trainer_pb.DownloadAdapterResponse(manifest=manifest)
        for name, data in sorted(ADAPTER.items()):
            for chunk in chunks_of(name, [data]):
                yield trainer_pb.DownloadAdapterResponse(chunk=file_chunk_to_proto(chunk))

    async def ExportCheckpoint(self, request, context):
        """Photon's form is one file, whatever it holds here."""
        kind, data = EXPORT_KINDS.decode(request.kind, "kind"), b"photon's bytes"
        files = (BundleFile("adapter.pt", len(data), hashlib.sha256(data).hexdigest()),)
        policy = PolicyVersion(BASE, BASE_DIGEST, request.ref.finetune_id, request.ref.step, "sha256:" + "5" * 64)
        header = export_manifest_to_proto(ExportManifest(policy, kind, files))
        yield trainer_pb.ExportCheckpointResponse(header=header)
        for chunk in chunks_of("adapter.pt", [data]):
            yield trainer_pb.ExportCheckpointResponse(chunk=file_chunk_to_proto(chunk))

    async def ListMetrics(self, request, context):
        """By step; the page token is how many points came before."""
        self._finetune(request.finetune_id)
        after = request.after_step if request.HasField("after_step") else -1
        mine = [
            MetricPoint(step, name, value, datetime.now(UTC))
            for finetune_id, step, name, value in sorted(self.metrics)
            if finetune_id == request.finetune_id and step > after
        ]
        first = int(request.page_token or 0)
        page = mine[first : first + (request.page_size or 1000)]
        token = str(first + len(page)) if first + len(page) < len(mine) else ""
        points = [metric_point_to_proto(point) for point in page]
        return trainer_pb.ListMetricsResponse(points=points, next_page_token=token)

    async def DeleteCheckpoint(self, request, context):
        ref = checkpoint_ref_from_proto(request.ref)
        if (ref.finetune_id, ref.step) not in self.saved:
            raise CheckpointNotFound(f"no checkpoint of {ref.finetune_id} at step {ref.step}")
        del self.saved[ref.finetune_id, ref.step]
        return trainer_pb.DeleteCheckpointResponse()


@dataclass
class FakeRollout(rollout_service_pb2_grpc.RolloutServiceServicer):
    """slow_s: how long a group takes. failures: rollouts whose grade failed, by index."""

    slow_s: float = 0.0
    failures: tuple[int, ...] = ()
    orders: list = field(default_factory=list)
    cancelled: int = 0

    async def GenerateRollouts(self, request, context):
        order = rollout_order_from_proto(request.order)
        self.orders.append(order)
        try:
            await asyncio.sleep(self.slow_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        ref = ModelRef.parse(order.model)
        digest = digest_of(ref.finetune_id, ref.step)
        policy = PolicyVersion(BASE, BASE_DIGEST, ref.finetune_id, ref.step, digest)
        made = tuple(rollout_of(order.request, policy, 100 + index) for index in range(order.rollout_count))
        rewards = ()
        if order.ground_truth is not None:
            rewards = tuple(None if index in self.failures else index / 8 for index in range(len(made)))
        image = order.request.image
        asked = replace(order.request, image=image.named() if image else None)
        return rollout_pb.GenerateRolloutsResponse(group=rollout_group_to_proto(RolloutGroup(asked, made, rewards)))


def rollout_of(request: SkillRequest, policy: PolicyVersion, seed: int) -> Rollout:
    """One object, point or answer; bins and tokens follow from the seed."""
    settings = request.settings
    if request.skill is Skill.QUERY:
        ids = [7 + seed, 9]
        thought = (Decision(Head.TOKEN, 50, -0.5), Decision(Head.TOKEN, 3, -0.125)) if request.reasoning else ()
        decisions = (*thought, *(Decision(Head.TOKEN, one, -0.25) for one in ids), Decision(Head.TOKEN, 0, -0.75))
        reasoning = Reasoning("hm") if request.reasoning else None
        output: object = QueryOutput(f"answer {seed}", reasoning)
    elif request.skill is Skill.POINT:
        decisions = (Decision(Head.GO, 1, -0.1), Decision(Head.X, seed, -1.5), Decision(Head.Y, 300, -2.5))
        decisions += (Decision(Head.GO, 0, -0.3),)
        output = PointOutput((POINTED,))
    else:
        heads = (Head.X, Head.Y, Head.WIDTH, Head.HEIGHT)
        numbers = tuple(Decision(head, seed + index, -1.0 - index) for index, head in enumerate(heads))
        decisions = (Decision(Head.GO, 1, -0.1), *numbers, Decision(Head.GO, 0, -0.3))
        output = DetectOutput((DETECTED,))
    return Rollout(
        skill=request.skill,
        output=output,
        decisions=decisions,
        finish_reason=FinishReason.STOP,
        policy=policy,
        seed=seed,
        temperature=settings.temperature,
        top_p=settings.top_p,
        thinking_count=1 if request.skill is Skill.QUERY and request.reasoning else 0,
    )


@dataclass
class FakeInference(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers the same to every model; serves only steps that `trainer` has saved.

    slow_s: before an answer. pause_s: between the pieces of a streamed one. captions: whether it has them.
    fails: raised after the first piece of a stream.
    """

    trainer: FakeTrainer
    slow_s: float = 0.0
    pause_s: float = 0.0
    captions: bool = False
    fails: MoontuneError | None = None
    orders: list = field(default_factory=list)
    cancelled: int = 0

    async def _result(self, message, output) -> InferenceResult:
        order = inference_request_from_proto(message)
        self.orders.append(order)
        ref = ModelRef.parse(order.model)
        policy = PolicyVersion(BASE, BASE_DIGEST)
        if ref.finetune_id:
            if (ref.finetune_id, ref.step) not in self.trainer.saved:
                raise CheckpointNotFound(f"{order.model} is not a saved step")
            policy = PolicyVersion(BASE, BASE_DIGEST, ref.finetune_id, ref.step, digest_of(ref.finetune_id, ref.step))
        try:
            await asyncio.sleep(self.slow_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return InferenceResult(output, policy, FinishReason.STOP, Usage(735, 4, 0.001, 0.002, 0.003))

    async def Query(self, request, context):
        return query_answer_to_proto(await self._result(request, QueryOutput("a red car")))

    async def StreamQuery(self, request, context):
        result = await self._result(request, QueryOutput("a red car"))
        if request.task.reasoning:
            yield query_event_to_proto(TextDelta("hm", reasoning=True))
        async for piece in self._pieces():
            yield query_event_to_proto(TextDelta(piece))
        yield query_event_to_proto(result)

    async def StreamCaption(self, request, context):
        if not self.captions:
            raise InvalidField.of("task", "caption", "query, point or detect; this base cannot caption")
        result = await self._result(request, CaptionOutput("a red car"))
        async for piece in self._pieces():
            yield caption_event_to_proto(TextDelta(piece))
        yield caption_event_to_proto(result)

    async def _pieces(self):
        try:
            for piece in ("a ", "red ", "car"):
                yield piece
                if self.fails:
                    raise self.fails
                await asyncio.sleep(self.pause_s)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise

    async def Point(self, request, context):
        return point_answer_to_proto(await self._result(request, PointOutput((POINTED,))))

    async def Detect(self, request, context):
        return detect_answer_to_proto(await self._result(request, DetectOutput((DETECTED,))))

    async def Caption(self, request, context):
        if self.captions:
            return caption_answer_to_proto(await self._result(request, CaptionOutput("a red car")))
        raise InvalidField.of("task", "caption", "query, point or detect; this base cannot caption")

    async def ListModels(self, request, context):
        skills = (Skill.QUERY, Skill.POINT, Skill.DETECT)
        models = [ModelInfo(BASE, PolicyVersion(BASE, BASE_DIGEST), skills)]
        for (finetune_id, step), one in self.trainer.saved.items():
            policy = PolicyVersion(BASE, BASE_DIGEST, finetune_id, step, one.adapter_digest)
            models.append(ModelInfo(f"{BASE}/{finetune_id}@{step}", policy, skills, one.created_at))
        return inference_pb.ListModelsResponse(models=[model_info_to_proto(model) for model in models])
