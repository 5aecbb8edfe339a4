"""A job's config as a JSON or YAML document: the fields of `JobConfig` by their names, nothing else.

    name: digits
    skill: detect
    train: {path: train/annotations.json, object: digit}
    held_out: {path: held_out/annotations.json, object: digit}
    reward: detect_soft_f1            # or {components: [{name: ..., weight: ..., parameters: {...}}, ...]}
    steps: 100
    settings: {learning_rate: 0.003}

Unknown keys, missing keys and values of another kind are all reported at once.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import cast

import yaml

from moontune.data.problems import Problems
from moontune.errors import InvalidField
from moontune.values.job import DatasetSource, JobConfig
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.sampling import rollout_defaults
from moontune.values.skill import Skill

MAX_FILE_BYTES = 1024 * 1024


def read_job_file(file: Path, reward: str = "") -> JobConfig:
    """The config in a .json, .yaml or .yml file, checked whole; relative data set paths are from its folder.

    reward: name of the one to use, whatever the file says of rewards; "" leaves that to the file.
    """
    document = _parsed(file)
    if reward and isinstance(document, dict):
        document = {**cast("dict[str, object]", document), "reward": reward}
    config = config_from_document(document, file.name)
    config.validate()
    return dataclasses.replace(
        config, train=_anchored(config.train, file.parent), held_out=_anchored(config.held_out, file.parent)
    )


def _parsed(file: Path) -> object:
    if not file.is_file():
        raise InvalidField.of("config", str(file), "a .json, .yaml or .yml file that exists")
    if file.suffix not in (".json", ".yaml", ".yml"):
        raise InvalidField.of("config", file.name, "a file named .json, .yaml or .yml")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise InvalidField.of("config", f"{file.stat().st_size} bytes", f"at most {MAX_FILE_BYTES} bytes")
    try:
        text = file.read_text(encoding="utf-8")
        return json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidField.of("config", file.name, f"a file that parses ({error})") from error


def read_reward_file(file: Path) -> RewardSpec:
    """The composite in a .json, .yaml or .yml file: `{components: [...]}`, or a job's config, whose reward it is."""
    document = _parsed(file)
    whole = cast("dict[str, object]", document) if isinstance(document, dict) else {}
    if "reward" in whole:
        document = cast("dict[str, object]", _with_shorthand({"reward": whole["reward"]}))["reward"]
    problems = Problems(file.name)
    spec = _read(RewardSpec, cast("object", document), "", problems)
    problems.raise_if_any()
    return cast("RewardSpec", spec)


def reward_to_document(spec: RewardSpec) -> dict[str, object]:
    """The plain form of a composite, defaults left out; `read_reward_file` reads it back."""
    plain = dataclasses.asdict(RewardComponent(""))
    components = [dataclasses.asdict(component) for component in spec.components]
    return {"components": [{k: v for k, v in component.items() if v != plain[k]} for component in components]}


def config_from_document(document: object, name: str = "config") -> JobConfig:
    """A config from plain lists, mappings and numbers; InvalidField lists every key that is wrong."""
    problems = Problems(name)
    config = _read(JobConfig, _with_shorthand(document), "", problems)
    problems.raise_if_any()
    return cast("JobConfig", config)


def config_to_document(config: JobConfig) -> dict[str, object]:
    """The plain form; `config_from_document` gives the same config back."""
    return cast("dict[str, object]", json.loads(json.dumps(dataclasses.asdict(config), default=dict)))


def _anchored(source: DatasetSource, folder: Path) -> DatasetSource:
    if "://" in source.path:
        return source
    return dataclasses.replace(source, path=str((folder / Path(source.path).expanduser()).resolve()))


def _with_shorthand(document: object) -> object:
    """`reward: NAME` stands for a composite of that one component; sampling settings default by the skill."""
    if not isinstance(document, dict):
        return document
    entries = dict(cast("dict[str, object]", document))
    if isinstance(name := entries.get("reward"), str):
        entries["reward"] = {"components": [{"name": name}]}
    if (skill := entries.get("skill")) in list(Skill) and isinstance(given := entries.get("sampling", {}), dict):
        defaults = dataclasses.asdict(rollout_defaults(Skill(cast("str", skill))))
        entries["sampling"] = {**defaults, **cast("dict[str, object]", given)}
    return entries


def _read(kind: object, value: object, where: str, problems: Problems) -> object:
    """`value` as `kind`, a type from an annotation; None, with the fault noted, when it is another kind."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, value, where, problems)
    if origin is tuple and isinstance(value, list):
        element = typing.get_args(kind)[0]
        items = cast("list[object]", value)
        return tuple(_read(element, item, f"{where}[{index}]", problems) for index, item in enumerate(items))
    if origin in (types.UnionType, typing.Union):
        return _read_union(typing.get_args(kind), value, where, problems)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, dict):
        element = typing.get_args(kind)[1]
        entries = cast("dict[object, object]", value)
        return {str(key): _read(element, item, f"{where}.{key}", problems) for key, item in entries.items()}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value in list(kind):
            return kind(cast("str", value))
        return _fault(value, where, ", ".join(kind), problems)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return _fault(value, where, "a number below 1e308", problems)
    if kind in (int, str, bool) and type(value) is kind:
        return value
    return _fault(value, where, _described(cast("object", kind)), problems)


def _read_union(members: tuple[object, ...], value: object, where: str, problems: Problems) -> object:
    if value is None and types.NoneType in members:
        return None
    for member in members:
        attempt = Problems(where)
        result = _read(member, value, where, attempt) if member is not types.NoneType else None
        if result is not None and not attempt.count:
            return result
    return _fault(value, where, " or ".join(_described(member) for member in members), problems)


def _read_dataclass(kind: type, value: object, where: str, problems: Problems) -> object:
    if not isinstance(value, dict):
        return _fault(value, where or "the file", "a mapping of names to values", problems)
    entries = cast("dict[object, object]", value)
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}
    prefix = f"{where}." if where else ""
    before = problems.count
    for key in entries:
        if key not in fields:
            problems.add(f"{prefix}{key}", f"unknown; allowed: {', '.join(fields)}")
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in entries:
            problems.add(f"{prefix}{name}", "missing")
    given = {name: _read(hints[name], entries[name], f"{prefix}{name}", problems) for name in fields if name in entries}
    return kind(**given) if problems.count == before else None


def _fault(value: object, where: str, allowed: str, problems: Problems) -> None:
    problems.add(where, f"is {value!r}; allowed: {allowed}")


def _described(kind: object) -> str:
    plain: dict[object, str] = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        types.NoneType: "nothing",
    }
    if kind in plain:
        return plain[kind]
    return "a list" if typing.get_origin(kind) is tuple else "a mapping of names to values"
