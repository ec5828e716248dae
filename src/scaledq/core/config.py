"""What every configuration object has in common.

A config is plain data: a frozen dataclass that lives in the same file as the
thing it configures. Nothing below this module knows about command lines.
"""

import dataclasses
import hashlib
import json
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, TypeVar, dataclass_transform

from pydantic import Field, TypeAdapter, ValidationError

from scaledq.core.errors import ConfigError, suggest

T = TypeVar("T")

adapter = cache(TypeAdapter)
"""What reads and writes values of a type; making one takes longer than thousands of uses."""

by_kind = Field(discriminator="kind")
"""Tells the members of a union apart: `Annotated[ScaledQL | BehaviourCloning, by_kind]`."""


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Makes `cls` a config: frozen, keyword-only, slotted, closed to unknown keys."""
    cls.__pydantic_config__ = {"extra": "forbid"}  # pyright: ignore[reportAttributeAccessIssue]
    return dataclass(frozen=True, kw_only=True, slots=True)(cls)


def to_json(value: object) -> bytes:
    """Canonical JSON: same config, same bytes, on every machine."""
    return adapter(type(value)).dump_json(value, indent=2)


def from_json(cls: type[T], data: bytes | str) -> T:
    """Inverse of `to_json`.

    Raises:
      ConfigError: naming the path of the first unknown, missing or mistyped field.
    """
    try:
        return adapter(cls).validate_json(data, strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, cls)) from error


def explain(error: ValidationError, cls: type) -> str:
    """One line about the first fault: where it is, what came, and a near-miss if there is one."""
    fault = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        name = str(fault["loc"][-1])
        return f"unknown field {path!r} in {cls.__name__}; {suggest(name, _names(cls))}"
    if path:
        return f"field {path!r} of {cls.__name__}: {fault['msg']}, got {fault['input']!r}"[:300]
    return f"{cls.__name__}: {fault['msg']}"


def fingerprint(value: object) -> str:
    """Eight hex digits that name this config; runs are stored under them.

    It covers the fields that differ from their default, so a field added later
    (with a default that changes nothing) leaves every older run its name.
    """
    plain = json.dumps(departures(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()[:8]


def departures(value: Any) -> Any:
    """The fields of a config that differ from their default, nested, as plain JSON values."""
    if isinstance(value, tuple | list):
        return [departures(item) for item in value]
    if isinstance(value, dict):
        return {str(key): departures(item) for key, item in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    out = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        if field.name == "kind" or default is MISSING or item != default:
            out[field.name] = departures(item)
    return out


def _names(cls: Any) -> set[str]:
    """Every field name that occurs in `cls` or in a config nested in it."""
    names: set[str] = set()
    schema = adapter(cls).json_schema()
    for part in [schema, *schema.get("$defs", {}).values()]:
        names.update(part.get("properties", {}))
    return names
