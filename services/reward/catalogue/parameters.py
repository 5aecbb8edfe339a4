"""Parameters of a catalogue entry: a frozen pydantic model, whose JSON schema the catalogue lists."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from moontune.errors import InvalidField
from moontune.values.reward import Parameter, RewardParameter


def _whole(value: object) -> object:
    """The contract has numbers only: 3.0 is 3, 3.5 stays and is refused."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Parameters(BaseModel):
    """The base, and the parameters of entries without any."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls, given: Mapping[str, Parameter], field: str, reward: str) -> Self:
        """The given ones checked, the others at their defaults; InvalidField names the first that is wrong."""
        for name in given:
            if name not in cls.model_fields:
                known = ", ".join(cls.model_fields) or "none"
                raise InvalidField.of(f"{field}.{name}", given[name], f"parameters of {reward}: {known}")
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False)[0]
            name = str(fault["loc"][0]) if fault["loc"] else next(iter(given), "")
            allowed = allowed_values(cls.model_fields[name])
            if fault["type"] == "value_error":  # of a validator of ours: it knows better
                allowed = fault["msg"].removeprefix("Value error, ")
            raise InvalidField.of(f"{field}.{name}", given.get(name), allowed) from error

    @classmethod
    def listed(cls) -> tuple[RewardParameter, ...]:
        """As the catalogue lists them, with the allowed values in the description."""
        return tuple(
            RewardParameter(name, _kind(info), _default(info), f"{info.description}; {allowed_values(info)}")
            for name, info in cls.model_fields.items()
        )

    @classmethod
    def schema_text(cls) -> str:
        """The JSON schema of all parameters."""
        schema = cls.model_json_schema()
        schema.pop("description", None)  # the class's docstring speaks to readers of the code
        return json.dumps(schema, sort_keys=True)


class ObjectParameters(Parameters):
    """Of rewards that also read objects out of a text answer."""

    coordinates: Literal["unit", "thousand", "pixel"] = Field(
        "unit",
        description="scale of coordinates in a text answer: 0..1, 0..1000, or pixels (needs ground_truth.image_size)",
    )


def _default(info: FieldInfo) -> Parameter:
    value: Any = info.default
    return float(value) if _kind(info) == "number" else value


def _kind(info: FieldInfo) -> str:
    if isinstance(info.default, bool):
        return "flag"
    return "text" if isinstance(info.default, str) else "number"


def allowed_values(info: FieldInfo) -> str:
    """In words: a range, a list of choices, or a length."""
    bounds: dict[str, Any] = {}
    for rule in info.metadata:
        bounds |= {key: getattr(rule, key) for key in ("ge", "le", "max_length") if hasattr(rule, key)}
    match _kind(info):
        case "flag":
            return "true or false"
        case "text":
            choices = getattr(info.annotation, "__args__", ())
            return " or ".join(choices) if choices else f"text of at most {bounds['max_length']} characters"
        case _:
            noun = "a whole number" if info.annotation is int else "a number"
            return f"{noun} from {bounds['ge']:g} to {bounds['le']:g}"
