"""What the API says of itself: the parts of its OpenAPI document that FastAPI does not see."""

from typing import Any

import numpy as np

from scaledq.run.card import Card
from scaledq.run.wire import JSON, OCTETS

ERROR = {
    "content": {
        JSON: {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {"error": {"type": "string"}},
            }
        }
    }
}
REFUSALS = {
    400: "not JSON",
    401: "no token, or another one",
    404: "no such task",
    408: "the body did not arrive in time",
    413: "too large a body",
    415: "another media type",
    422: "no observation of this task",
    503: "too many rows are waiting; Retry-After says when to come again",
}
ACTIONS = {
    "type": "object",
    "required": ["actions"],
    "properties": {
        "actions": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "values": {
            "type": "array",
            "items": {"type": "array", "items": {"type": ["number", "null"]}},
        },
    },
}


def acting(card: Card) -> dict[str, Any]:
    """What FastAPI would say of the route that works, were it one of its own."""
    refusals = {str(n): {"description": text, **ERROR} for n, text in REFUSALS.items()}
    done = {"description": "one action a row", "content": {JSON: {"schema": ACTIONS}}}
    task = {"name": "task", "in": "path", "required": True, "schema": {"type": "string"}}
    values = {"type": "boolean", "default": False}
    return {
        "summary": "Actions",
        "description": "The policy's action for each row of observations, and on demand the values "
        "of all.",
        "operationId": "actions",
        "parameters": [task, {"name": "values", "in": "query", "schema": values}],
        "requestBody": _request_body(card),
        "responses": {"200": done, **refusals},
    }


def _request_body(card: Card) -> dict[str, Any]:
    task = card.tasks[0]
    whole = np.dtype(task.frame_dtype).kind in "iu"
    numbers: dict[str, Any] = {"type": "integer" if whole else "number"}
    if whole:
        limits = np.iinfo(task.frame_dtype)
        numbers |= {"minimum": int(limits.min), "maximum": int(limits.max)}
    else:
        numbers |= {"minimum": -1e30, "maximum": 1e30}
    for size in reversed((card.stack, *task.frame_shape)):
        numbers = {"type": "array", "items": numbers, "minItems": size, "maxItems": size}
    obs = {"type": "array", "items": numbers, "minItems": 1}
    body = {
        "type": "object",
        "required": ["obs"],
        "properties": {"obs": obs},
        "additionalProperties": False,
    }
    octets = {"schema": {"type": "string", "format": "binary"}}
    return {"required": True, "content": {JSON: {"schema": body}, OCTETS: octets}}


def require_token(document: dict[str, Any], *, but: str) -> None:
    """Says that every path but one wants the token."""
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["token"] = {"type": "http", "scheme": "bearer"}
    for path, methods in document["paths"].items():
        for method in methods.values() if path != but else ():
            method["security"] = [{"token": []}]
