"""Whether a text answer is JSON of a given schema."""

import json
from functools import lru_cache

import jsonschema_rs
from pydantic import Field, field_validator

from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry
from services.reward.catalogue.parameters import Parameters
from services.reward.reading.text import answer_json
from services.reward.reading.unreadable import Unreadable


@lru_cache(maxsize=256)
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    # Patterns by a linear engine with a size limit; a reference to anywhere outside the schema is refused.
    options = jsonschema_rs.RegexOptions(size_limit=1 << 20, dfa_size_limit=1 << 20)
    return jsonschema_rs.Draft202012Validator(
        json.loads(schema), validate_formats=False, pattern_options=options, offline=True
    )


class SchemaParameters(Parameters):
    """The schema."""

    json_schema: str = Field(
        '{"type": ["object", "array"]}', max_length=20_000, description="JSON schema (draft 2020-12) as text"
    )

    @field_validator("json_schema")
    @classmethod
    def _compiles(cls, schema: str) -> str:
        try:
            _validator(schema)
        except (ValueError, RecursionError, jsonschema_rs.ReferencingError) as error:
            raise ValueError(f"a JSON schema without references to other documents ({str(error)[:120]})") from error
        return schema


def grade(sample: RewardSample, parameters: SchemaParameters) -> float:
    """1 for JSON of the schema."""
    value = answer_json(sample)
    if value is None:
        raise Unreadable("no JSON in the answer")
    return float(_validator(parameters.json_schema).is_valid(value))


JSON_SCHEMA = Entry(
    name="json_schema",
    formula="1 when the one JSON value in the answer (alone, in a fenced block or between answer tags) fits "
    "json_schema, else 0.",
    source="JSON Schema draft 2020-12",
    beware="it sees form only: `[]` fits many schemas; use it as a gate, and give minItems",
    skills=(Skill.QUERY, Skill.CAPTION),
    labels=(),
    parameters=SchemaParameters,
    grade=grade,
)
