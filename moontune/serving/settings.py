"""Typed settings of a service: flag > environment > file > default; unknown names are errors, all told at once.

A service's `config.py` subclasses `ServiceSettings`, and sets `prefix` and the default port:

    class RewardSettings(ServiceSettings):
        prefix: ClassVar[str] = "MOONTUNE_REWARD_"
        port: int = 7052
        sandbox: Literal["pod", "host", "trusted"] = Field("pod", description="...")

`--sandbox host`, `MOONTUNE_REWARD_SANDBOX=host` and `sandbox: host` in the YAML file that `--config` (or
`MOONTUNE_REWARD_CONFIG`) names mean the same. Lists and mappings are JSON in flags and environment.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from moontune.telemetry.logs import LogFormat

LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


class StartupError(Exception):
    """The service cannot start as it is set up; the message says what to change. `run` prints it and exits with 1."""


class ServiceSettings(BaseSettings):
    """What every service has. Built directly (in tests) it reads nothing but its arguments."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)
    prefix: ClassVar[str] = "MOONTUNE_"

    host: str = Field("127.0.0.1", description="Address to listen on; off loopback needs TLS or insecure.")
    port: int = Field(0, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="/metrics; unset means port + 1000.")
    insecure: bool = Field(False, description="Allow plaintext off loopback.")
    tls_certificate: Path | None = Field(None, description="PEM chain of the server; with tls_key turns TLS on.")
    tls_key: Path | None = Field(None, description="PEM private key of the server.")
    tls_client_ca: Path | None = Field(None, description="PEM roots; set, callers must show a certificate (mTLS).")
    keys_database: str = Field("", description="SQLAlchemy URL of the API keys; empty: no keys configured.")
    internal_token: SecretStr | None = Field(None, description="Shared by our services to call each other.")
    reflection: bool = Field(True, description="Answer gRPC reflection.")
    drain_delay_s: float = Field(0.0, ge=0, description="Seconds between NOT_SERVING and refusing new calls.")
    drain_grace_s: float = Field(30.0, ge=0, description="Seconds for calls under way to end after that.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: LogFormat = Field(LogFormat.AUTO, description="json, console, or auto by terminal.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only: `load` merges flags, environment and file itself, so that their order is in one place."""
        return (init_settings,)

    @classmethod
    def load(cls, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Self:
        """Read flags, environment (the process's by default) and file.

        Raises:
            StartupError: with every unknown name and every value out of range.
        """
        names = set(cls.model_fields)
        problems: list[str] = []
        flags = _flags(argv, names, problems)
        env = _environment(os.environ if environ is None else environ, cls.prefix, names, problems)
        path = flags.pop("config", None) or env.pop("config", None)
        env.pop("config", None)
        values = _file(path, names, problems) if path else {}
        for texts in (env, flags):
            try:
                values |= _TextSource(cls, texts)()
            except SettingsError as error:
                problems.append(str(error))
        try:
            settings = cls(**values)
        except ValidationError as error:
            problems += [_problem(cls, detail) for detail in error.errors()]
            raise _refusal(cls, problems) from None
        if problems:
            raise _refusal(cls, problems)
        return settings

    def shown(self) -> dict[str, str]:
        """Every setting as text, secrets and passwords in URLs masked; for the start-up log."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: _masked(str(value)) for name, value in values.items()}

    @property
    def bound_metrics_port(self) -> int:
        """The metrics port asked for: port + 1000 unless set; 0 (a free one) with port 0."""
        if self.metrics_port is not None:
            return self.metrics_port
        return self.port + 1000 if self.port else 0

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK_HOSTS or self.host.startswith("127.")


class _TextSource(EnvSettingsSource):
    """pydantic-settings' reading of texts (JSON for lists and mappings) over texts of our choosing."""

    def __init__(self, settings: type[BaseSettings], texts: Mapping[str, str]) -> None:
        super().__init__(settings)
        self.env_vars = dict(texts)


def _flags(argv: Sequence[str], names: set[str], problems: list[str]) -> dict[str, str]:
    """`--name value`, `--name=value`, and `--name` alone for true."""
    found: dict[str, str] = {}
    waiting = list(argv)
    while waiting:
        flag = waiting.pop(0)
        name, equals, value = flag.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not flag.startswith("--") or name not in names | {"config"}:
            problems.append(f"unknown flag {flag}")
            if waiting and not waiting[0].startswith("--"):
                waiting.pop(0)
            continue
        if not equals:
            value = waiting.pop(0) if waiting and not waiting[0].startswith("--") else "true"
        found[name] = value
    return found


def _environment(environ: Mapping[str, str], prefix: str, names: set[str], problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(prefix):
            continue
        name = variable.removeprefix(prefix).lower()
        if name in names | {"config"}:
            found[name] = value
        else:
            problems.append(f"unknown environment name {variable}")
    return found


def _file(path: str, names: set[str], problems: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        problems.append(f"cannot read the settings file {path}: {error}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"the settings file {path} is not a mapping of names to values")
        return {}
    values: dict[str, Any] = {str(name): value for name, value in content.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    problems += [f"unknown name {name} in {path}" for name in values if name not in names]
    return {name: value for name, value in values.items() if name in names}


def _problem(cls: type[ServiceSettings], detail: ErrorDetails) -> str:
    """One of pydantic's complaints. What was given is shown of one setting that is no secret, never of all together."""
    field = cls.model_fields.get(str(detail["loc"][0])) if detail["loc"] else None
    where = "".join(f"{part}." for part in detail["loc"])[:-1]
    said = f"{where}: {detail['msg']}" if where else detail["msg"]
    if field is None or SecretStr in (field.annotation, *get_args(field.annotation)):
        return said
    return f"{said} (given {_masked(repr(detail['input']))})"


def _masked(text: str) -> str:
    return re.sub(r"(://[^:/@\s]*:)[^@\s]*@", r"\1***@", text)


def _refusal(cls: type[ServiceSettings], problems: Sequence[str]) -> StartupError:
    listed = "\n".join(f"  - {problem}" for problem in problems)
    known = ", ".join(sorted(cls.model_fields))
    return StartupError(f"the settings are not usable:\n{listed}\nknown names: {known}")


def print_help(cls: type[ServiceSettings]) -> None:
    """Write every setting with its environment name, default and meaning to standard output."""
    sys.stdout.write(
        f"--{'config':<18} {cls.prefix}CONFIG\n    A YAML file of settings; flags and environment win over it.\n"
    )
    for name, info in cls.model_fields.items():
        flag = name.replace("_", "-")
        sys.stdout.write(
            f"--{flag:<18} {cls.prefix}{name.upper()}  (default {info.default!r})\n    {info.description}\n"
        )
