"""Everything that users and operators bring beside the catalogue: how it is checked, kept, found and scored."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from aiolimiter import AsyncLimiter
from cachetools import LRUCache

from moontune.clients.credentials import Credentials, Tls
from moontune.clients.inference import InferenceClient
from moontune.clients.reward_plugin import RewardPluginClient
from moontune.errors import InvalidField, RewardNotFound
from moontune.serving.database import open_database
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.reward import RewardInfo, RewardSpec
from moontune.values.reward_definition import ContainerReward, JudgeReward, RemoteReward, RewardDefinition, UserCode
from moontune.values.sandbox import SandboxStatus
from services.reward.batch_reward import BatchReward
from services.reward.catalogue import CATALOGUE, entry_named
from services.reward.composite import Lookup
from services.reward.config import RewardSettings
from services.reward.registered import NAME, Registered, RegisteredRewards
from services.reward.sandbox.sandbox import Sandbox
from services.reward.usercode.code import SandboxedCode
from services.reward.usercode.container import Containers, ContainerSource
from services.reward.usercode.endpoints import check_endpoint
from services.reward.usercode.judge import Ask, ImagesSeen, Judge
from services.reward.usercode.judge_models import OpenAiJudge, OwnJudge
from services.reward.usercode.plugin import installed_plugins
from services.reward.usercode.remote import RemoteService
from services.reward.usercode.source import Source
from services.reward.usercode.user_reward import UserReward

MIGRATIONS = Path(__file__).parent / "migrations"
MAX_RUBRIC_CHARACTERS = 16_384
READY_REWARDS = 1024
"""Rewards kept ready to score, those used last."""


class _Closable(Protocol):
    async def close(self) -> None: ...


class UserRewards:
    """Registered rewards, operators' plugins, and the ways to run them. `open` it in the service's event loop."""

    def __init__(self, settings: RewardSettings, metrics: ServiceMetrics, registered: RegisteredRewards) -> None:
        self._settings, self._metrics, self._registered = settings, metrics, registered
        self._sandbox = Sandbox(settings.sandbox, settings.limits, settings.sandbox_processes, metrics)
        self._containers = Containers(settings.docker_host)
        self._images = ImagesSeen(settings.judge_image_bytes)
        self._limiter = AsyncLimiter(settings.judge_requests_per_minute, 60.0)
        self._plugins = {
            name: UserReward(info, source, metrics)
            for name, (info, source) in installed_plugins(settings.plugins).items()
        }
        self._ready: LRUCache[tuple[str, str], UserReward] = LRUCache(READY_REWARDS)
        self._shared: dict[object, _Closable] = {}

    @classmethod
    async def open(cls, settings: RewardSettings, metrics: ServiceMetrics) -> "UserRewards":
        """Open the database. Raises InvalidField where that cannot be, StartupError for a plugin that is missing."""
        engine = await asyncio.to_thread(open_database, settings.database or "sqlite://", MIGRATIONS, "reward_version")
        return cls(settings, metrics, RegisteredRewards(engine))

    async def close(self) -> None:
        """End jails, containers and connections."""
        await self._sandbox.close()
        await asyncio.to_thread(self._containers.close)
        for shared in self._shared.values():
            await shared.close()
        await asyncio.to_thread(self._registered.close)

    async def sandbox_status(self) -> SandboxStatus:
        """Which layers hold user code."""
        return await self._sandbox.status()

    async def lookup(self, organisation: str, spec: RewardSpec | None, *, again_every: int | None = None) -> Lookup:
        """What a spec's names mean to an organisation: built-ins, then plugins, then its own.

        again_every: see `UserReward`. Raises RewardNotFound, and SandboxMissing where a reward's code may not run.
        """
        names = {component.name for component in spec.components} if spec else set[str]()
        found: dict[str, BatchReward] = {}
        for name in names - CATALOGUE.keys():
            if name in self._plugins:
                found[name] = self._plugins[name]
                continue
            try:
                registered = await asyncio.to_thread(self._registered.find, organisation, name)
            except RewardNotFound:
                continue  # told by the composite, which knows the component
            found[name] = await self._reward(organisation, registered, again_every)
        return _finder(found)

    async def trial(self, organisation: str, definition: RewardDefinition) -> Lookup:
        """Lookup of one definition that need not be registered, scored twice on every batch. Raises as `register`."""
        info = await self._checked(organisation, definition)
        reward = UserReward(info, self._source(organisation, definition), self._metrics, again_every=1)
        return _finder({definition.name: reward})

    async def register(self, organisation: str, request_id: str, definition: RewardDefinition) -> Registered:
        """Check a definition and keep it; the same request again answers the same.

        Raises:
            InvalidField: a name, code, image, host or rubric that cannot be used; the message says why.
            SandboxMissing: code that may not run here, a container without a daemon.
        """
        info = await self._checked(organisation, definition)
        return await asyncio.to_thread(self._registered.register, organisation, request_id, definition, info)

    async def listed(self, organisation: str) -> list[RewardInfo]:
        """Plugins and the organisation's registered rewards, each part by name."""
        own = await asyncio.to_thread(self._registered.listed, organisation)
        return [*(self._plugins[name].info for name in sorted(self._plugins)), *(each.info for each in own)]

    async def _reward(self, organisation: str, registered: Registered, again_every: int | None) -> UserReward:
        code = registered.definition.source
        if isinstance(code, UserCode):
            await self._sandbox.require(code.language)
        if again_every is not None:
            source = self._source(organisation, registered.definition)
            return UserReward(registered.info, source, self._metrics, registered.version, again_every)
        key = (organisation, registered.version)
        if key not in self._ready:
            source = self._source(organisation, registered.definition)
            self._ready[key] = UserReward(registered.info, source, self._metrics, registered.version)
        return self._ready[key]

    async def _checked(self, organisation: str, definition: RewardDefinition) -> RewardInfo:
        """The entry of a definition that can be used here."""
        name = definition.name
        if not NAME.fullmatch(name) or name in CATALOGUE or name in self._plugins:
            allowed = "1 to 64 of a-z, 0-9, _ and -, not the name of a built-in or of an installed plugin"
            raise InvalidField.of("definition.name", name, allowed)
        info = RewardInfo(
            name,
            definition.description or f"the organisation's own, {_kind(definition)}",
            tuple(str(skill) for skill in definition.skills),
            (),
            definition.minimum,
            definition.maximum,
        )
        match definition.source:
            case UserCode() as code:
                await self._sandbox.require(code.language)
                await SandboxedCode(self._sandbox, organisation, code).check()
            case ContainerReward() as container:
                await asyncio.to_thread(self._containers.check, container.image)
            case RemoteReward() as remote:
                return await self._described(remote, info)
            case JudgeReward() as judge:
                self._check_judge(judge)
        return info

    async def _described(self, remote: RemoteReward, info: RewardInfo) -> RewardInfo:
        """What a plugin says of itself, under the registered name and for the registered skills."""
        check_endpoint(remote.endpoint, self._settings.allowed_endpoints, "definition.remote.endpoint")
        said = await self._remote(remote).describe()
        return RewardInfo(info.name, said.description, info.skills, said.parameters, said.minimum, said.maximum)

    def _check_judge(self, judge: JudgeReward) -> None:
        if judge.endpoint:
            check_endpoint(judge.endpoint, self._settings.allowed_endpoints, "definition.judge.endpoint")
            if not judge.endpoint.startswith(("http://", "https://")):
                raise InvalidField.of("definition.judge.endpoint", judge.endpoint, "an http:// or https:// URL")
        if "{answer}" not in judge.rubric or len(judge.rubric) > MAX_RUBRIC_CHARACTERS:
            allowed = f"text of at most {MAX_RUBRIC_CHARACTERS} characters with {{answer}} in it"
            raise InvalidField.of("definition.judge.rubric", judge.rubric, allowed)

    def _source(self, organisation: str, definition: RewardDefinition) -> Source:
        match definition.source:
            case UserCode() as code:
                return SandboxedCode(self._sandbox, organisation, code)
            case ContainerReward() as container:
                return ContainerSource(self._containers, organisation, container)
            case RemoteReward() as remote:
                check_endpoint(remote.endpoint, self._settings.allowed_endpoints, "reward.components.name")
                return self._remote(remote)
            case JudgeReward() as judge:
                score_range = (definition.minimum, definition.maximum)
                return Judge(judge, self._judge_model(judge), self._images, self._limiter, score_range)

    def _remote(self, remote: RemoteReward) -> RemoteService:
        """The one connection to an endpoint with these settings: its cap and its breaker are everyone's."""
        if remote not in self._shared:
            tls = Tls(authority=self._settings.plugins_ca) if self._settings.plugins_ca else None
            client = RewardPluginClient(remote.endpoint, Credentials(tls=tls), deadline_s=remote.timeout_s)
            self._shared[remote] = RemoteService(remote, client)
        service = self._shared[remote]
        assert isinstance(service, RemoteService)
        return service

    def _judge_model(self, judge: JudgeReward) -> Ask:
        key = (judge.endpoint, judge.model, judge.timeout_s)
        if key not in self._shared:
            self._shared[key] = self._new_judge_model(judge)
        model = self._shared[key]
        assert isinstance(model, OpenAiJudge | OwnJudge)
        return model

    def _new_judge_model(self, judge: JudgeReward) -> OpenAiJudge | OwnJudge:
        if judge.endpoint:
            check_endpoint(judge.endpoint, self._settings.allowed_endpoints, "reward.components.name")
            secret = self._settings.judge_keys.get(urlsplit(judge.endpoint).hostname or "")
            return OpenAiJudge(
                judge.endpoint, judge.model, secret.get_secret_value() if secret else "", judge.timeout_s
            )
        secret, authority = self._settings.internal_token, self._settings.services_ca
        credentials = Credentials(
            internal_token=secret.get_secret_value() if secret else None,
            tls=Tls(authority=authority) if authority else None,
        )
        client = InferenceClient(self._settings.inference_address, credentials)
        return OwnJudge(client, judge.model, judge.timeout_s)


def _finder(found: Mapping[str, BatchReward]) -> Lookup:
    return lambda name: found[name] if name in found else entry_named(name)


def _kind(definition: RewardDefinition) -> str:
    match definition.source:
        case UserCode(language):
            return f"{language} code"
        case ContainerReward():
            return "a container"
        case RemoteReward():
            return "a remote service"
        case JudgeReward():
            return "a judge"
