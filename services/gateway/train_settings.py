"""Settings of a train step: Moondream's `lr`, and ours by their own names at the top of the body."""

from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import get_args, get_type_hints

from moontune.errors import InvalidField
from moontune.values.rollout import Head
from moontune.values.training import HeadWeight, TrainSettings
from services.gateway.schemas import StepFields

_CHOICES: Mapping[str, type[StrEnum]] = {
    name: kind
    for name, hint in get_type_hints(TrainSettings).items()
    for kind in (get_args(hint) or (hint,))
    if isinstance(kind, type) and issubclass(kind, StrEnum)
}
"""Settings that are one of a few words."""


def train_settings_of(body: StepFields) -> TrainSettings:
    """The settings that a body names, the defaults for the others; InvalidField for a value out of range."""
    given: dict[str, object] = {"learning_rate": body.lr}
    for name in (field.name for field in fields(TrainSettings)):
        value: object = getattr(body, name, None)
        if value is None:
            continue
        if name in _CHOICES:
            value = _choice(name, str(value))
        elif name == "entropy_heads":
            value = tuple(HeadWeight(_head(head), weight) for head, weight in (body.entropy_heads or {}).items())
        given[name] = value
    settings = TrainSettings(**given)  # pyright: ignore[reportArgumentType]  # StepFields has the same types by name
    settings.validate("header.settings")
    return settings


def _choice(name: str, given: str) -> StrEnum:
    allowed = _CHOICES[name]
    if given not in tuple(allowed):
        raise InvalidField.of(name, given, ", ".join(allowed))
    return allowed(given)


def _head(given: str) -> Head:
    if given not in tuple(Head):
        raise InvalidField.of("entropy_heads", given, ", ".join(Head))
    return Head(given)
