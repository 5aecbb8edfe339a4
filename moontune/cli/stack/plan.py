"""What `moontune up` starts: every service's port, environment and process, from a few options."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moontune.cli.stack.process import Listener, ProcessSpec
from moontune.errors import InvalidField
from moontune.values.sandbox import SandboxProfile

SERVICES = ("reward", "trainer", "rollout", "inference", "jobs", "gateway")
"""In the order of their start: each calls only those to its left. They stop the other way round."""

WITH_MODEL = ("rollout", "trainer", "inference")
"""In the order that a colocated process names them."""
PORT_OFFSETS: Mapping[str, int] = {"rollout": 1, "reward": 2, "trainer": 3, "inference": 4, "jobs": 5}
CALLS: Mapping[str, tuple[str, ...]] = {
    "rollout": ("trainer", "reward"),
    "reward": (),
    "trainer": (),
    "inference": (),
    "jobs": ("rollout", "reward", "trainer"),
    "gateway": ("rollout", "reward", "trainer", "inference", "jobs"),
}


@dataclass(frozen=True, slots=True)
class StackOptions:
    """The options of `moontune up`.

    data_dir: absolute. colocate: services with a model that share one process. without: services left down.
    root: the folder that `python -m services...` runs in. sandbox: the profile that user reward code runs under.
    """

    base: str
    data_dir: Path
    root: Path
    gateway_port: int = 8080
    port_base: int = 7050
    colocate: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    sandbox: SandboxProfile = SandboxProfile.POD
    internal_token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def validate(self) -> None:
        """Raise InvalidField for names and ports that cannot be."""
        for name in ("colocate", "without"):
            allowed = WITH_MODEL if name == "colocate" else SERVICES
            if unknown := sorted(set(getattr(self, name)) - set(allowed)):
                raise InvalidField.of(name, ",".join(unknown), ", ".join(allowed))
        if both := sorted(set(self.colocate) & set(self.without)):
            raise InvalidField.of("without", ",".join(both), "services that are not in --colocate")
        if not 1 <= self.gateway_port <= 64535:
            raise InvalidField.of("gateway_port", self.gateway_port, "1 to 64535 (metrics are 1000 above)")
        if not 1 <= self.port_base <= 64530:
            raise InvalidField.of("port_base", self.port_base, "1 to 64530 (metrics are 1000 above)")

    def port(self, service: str) -> int:
        """Where a service listens."""
        return self.gateway_port if service == "gateway" else self.port_base + PORT_OFFSETS[service]

    @property
    def services(self) -> tuple[str, ...]:
        """Those that are started, in order."""
        return tuple(service for service in SERVICES if service not in self.without)


def plan(options: StackOptions) -> list[ProcessSpec]:
    """The processes, those that others call first; colocated services are one process."""
    together = tuple(service for service in WITH_MODEL if service in options.colocate)
    if len(together) == 1:  # with nobody to share its process, a service runs as it does without the option
        together = ()
    specs: list[ProcessSpec] = []
    if together:
        specs.append(_spec(options, "+".join(together), together, ("services", "--colocate", ",".join(together))))
    specs += [
        _spec(options, service, (service,), (f"services.{service}",))
        for service in options.services
        if service not in together
    ]
    return specs


def listeners(options: StackOptions) -> list[Listener]:
    """Every port that something listens on."""
    return [_listener(options, service) for service in options.services]


def _listener(options: StackOptions, service: str) -> Listener:
    if service != "gateway":
        return Listener(service, options.port(service))
    behind = tuple(other for other in options.services if other != "gateway")
    return Listener(service, options.port(service), http=True, needs=behind)


def _spec(options: StackOptions, name: str, services: tuple[str, ...], module: tuple[str, ...]) -> ProcessSpec:
    environment: dict[str, str] = {"PYTHONUNBUFFERED": "1"}
    for service in services:
        environment |= environment_of(options, service)
    return ProcessSpec(
        name=name,
        arguments=("-m", *module),
        listeners=tuple(_listener(options, service) for service in services),
        log=options.data_dir / "logs" / f"{name}.log",
        folder=options.root,
        environment=environment,
        wave=1 if name in ("jobs", "gateway") else 0,
    )


def environment_of(options: StackOptions, service: str) -> dict[str, str]:
    """The settings of one service as environment names."""
    data = options.data_dir
    settings = {
        "port": str(options.port(service)),
        "internal_token": options.internal_token,
        "keys_database": f"sqlite:///{data / 'gateway.db'}",
    }
    settings |= {f"{peer}_address": f"127.0.0.1:{options.port(peer)}" for peer in CALLS[service]}
    if service in WITH_MODEL:
        settings |= {"base": options.base}
    if service == "reward":  # judges ask inference; nothing else of the reward service does
        settings |= {"sandbox": options.sandbox, "inference_address": f"127.0.0.1:{options.port('inference')}"}
    settings |= _storage(service, data)
    return {f"MOONTUNE_{service.upper()}_{name.upper()}": value for name, value in settings.items()}


def _storage(service: str, data: Path) -> dict[str, str]:
    """Where a service keeps what it keeps, below the data folder."""
    match service:
        case "trainer":
            return {"data_dir": str(data)}
        case "inference":
            return {"checkpoint_store": str(data / "checkpoints")}
        case "reward":
            return {"database": f"sqlite:///{data / 'rewards.db'}"}
        case "jobs":
            return {"database": f"sqlite:///{data / 'jobs.db'}", "data_dir": str(data / "jobs")}
        case "gateway":
            return {"database": f"sqlite:///{data / 'gateway.db'}"}
        case _:
            return {}
