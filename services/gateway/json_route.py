"""Routes whose JSON is read more strictly than the standard library does."""

import json
from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute

MOST_DEPTH = 64
"""Most levels of nesting: far more than any request has, far fewer than the interpreter's stack."""


class StrictJsonRequest(Request):
    """A request whose body is finite numbers, nested MOST_DEPTH levels at most."""

    async def json(self) -> Any:
        """The body; raises JSONDecodeError for anything else than strict JSON."""
        if not hasattr(self, "_json"):
            self._json = strict_json(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """Gives its endpoint a StrictJsonRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint, with its body read here."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictJsonRequest(request.scope, request.receive))

        return strict


def strict_json(body: bytes) -> object:
    """Parse a body.

    Raises:
        JSONDecodeError: not JSON, NaN or infinity, or nested too deep.
    """

    def refuse(constant: str) -> None:
        raise json.JSONDecodeError(f"{constant} is no JSON number", "", 0)

    try:
        value = json.loads(body, parse_constant=refuse)
    except RecursionError:
        raise json.JSONDecodeError(f"nested deeper than {MOST_DEPTH} levels", "", 0) from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # not UTF-8, or an integer of too many digits
        raise json.JSONDecodeError(str(error).partition(";")[0], "", 0) from None
    _check_depth(value)
    return value


def _check_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return
    raise json.JSONDecodeError(f"nested deeper than {MOST_DEPTH} levels", "", 0)


def _containers(value: object) -> list[object]:
    if isinstance(value, dict):
        return [inner for inner in cast("dict[str, object]", value).values() if isinstance(inner, (dict, list))]
    if isinstance(value, list):
        return [inner for inner in cast("list[object]", value) if isinstance(inner, (dict, list))]
    return []
