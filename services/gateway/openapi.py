"""The OpenAPI document: FastAPI's own, with examples that work, our errors, and bodies that routes read themselves."""

from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI
from pydantic import BaseModel

from services.gateway.answers import ANSWER_FORMS
from services.gateway.examples import ANSWERS, REQUESTS

Schema = dict[str, Any]
_REF = "#/components/schemas/{model}"

_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What was given, what is allowed, what to do."},
                "type": {"type": "string", "description": "A class of errors, as invalid_request_error."},
                "param": {"type": ["string", "null"], "description": "Path of the field to blame."},
                "code": {"type": "string", "description": "Stable reason, as INVALID_FIELD."},
            },
        }
    },
}
_KEYS: Mapping[str, Schema] = {
    "moondream": {"type": "apiKey", "in": "header", "name": "X-Moondream-Auth"},
    "bearer": {"type": "http", "scheme": "bearer"},
}

_extra_models: dict[str, type[BaseModel]] = {}


def body_of(model: type[BaseModel]) -> Schema:
    """What `openapi_extra` of a route takes whose body the route itself reads."""
    _extra_models[model.__name__] = model
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def install(app: FastAPI) -> None:
    """Make `app.openapi()` give our document."""
    made = app.openapi

    def document() -> Schema:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(made())
        return app.openapi_schema

    app.openapi = document


def _completed(document: Schema) -> Schema:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in (*_extra_models.values(), *ANSWER_FORMS.values()):
        definition = model.model_json_schema(ref_template=_REF)
        schemas.update(definition.pop("$defs", {}))
        schemas[model.__name__] = definition
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = _ERROR
    document["components"]["securitySchemes"] = dict(_KEYS)
    document["security"] = [{}, *({name: []} for name in _KEYS)]
    for path, operations in cast("dict[str, dict[str, Schema]]", document["paths"]).items():
        for method, operation in operations.items():
            _complete(operation, f"{method.upper()} {path}")
    return document


def _complete(operation: Schema, name: str) -> None:
    responses = cast("dict[str, Schema]", operation["responses"])
    responses.pop("422", None)
    error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    responses["4XX"] = {
        "description": "A mistake of the caller's; trying again does not help, but after a 429.",
        "content": error,
    }
    responses["5XX"] = {"description": "A fault here or behind; trying again may help.", "content": error}
    if name in REQUESTS:
        operation["requestBody"]["content"]["application/json"]["examples"] = {
            title: {"value": value} for title, value in REQUESTS[name].items()
        }
    if name in ANSWER_FORMS:
        content: Schema = {"schema": {"$ref": _REF.format(model=ANSWER_FORMS[name].__name__)}}
        if name in ANSWERS:
            content["example"] = ANSWERS[name]
        responses["200"]["content"] = {"application/json": content}
