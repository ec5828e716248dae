"""How observations and answers travel over HTTP: bytes or JSON in, JSON out.

Bytes are R stacks one after the other, [S *frame] each, little-endian and in C order: the length
tells R. JSON is `{"obs": ...}` with nested lists, or with the same bytes in base64.
"""

import base64
import binascii
import json
from math import prod
from typing import Any

import numpy as np

from scaledq.core.errors import ScaledQError
from scaledq.core.task import Task

OCTETS, JSON = "application/octet-stream", "application/json"


class RequestError(ScaledQError):
    """A request that cannot be answered as it is; `status` is HTTP's word for why."""

    def __init__(self, message: str, *, status: int):
        super().__init__(message)
        self.status = status


def observations(body: bytes, kind: str, task: Task, *, stack: int, max_rows: int) -> "np.ndarray":
    """The observations [R S *frame] of a request's body.

    Args:
      kind: the body's media type.

    Raises:
      RequestError: 415 another media type, 400 what is no JSON, 422 what is no observation.
    """
    shape = (stack, *task.frame_shape)
    if kind == OCTETS:
        obs = _raw(body, shape, task.frame_dtype)
    elif kind == JSON:
        obs = _json(body, shape, task.frame_dtype)
    else:
        raise RequestError(f"send {OCTETS} or {JSON}, got {kind or 'no type'}", status=415)
    if not 1 <= len(obs) <= max_rows:
        raise RequestError(f"need 1 to {max_rows} rows, got {len(obs)}", status=422)
    if obs.dtype.kind == "f" and not np.isfinite(obs).all():
        raise RequestError("observations must be finite numbers", status=422)
    return obs


def _raw(data: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    little = np.dtype(dtype).newbyteorder("<")
    row = prod(shape) * little.itemsize
    if len(data) % row:
        raise RequestError(
            f"a row is {dtype} {list(shape)}, {row} bytes; {len(data)} bytes are no whole number",
            status=422,
        )
    return np.frombuffer(data, little).reshape(-1, *shape).astype(dtype, copy=False)


def _json(body: bytes, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    try:
        content: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("the body is not JSON", status=400) from error
    if not isinstance(content, dict) or set(content) != {"obs"}:
        raise RequestError('want an object with one field, "obs"', status=422)
    obs = content["obs"]
    if isinstance(obs, str):
        try:
            return _raw(base64.b64decode(obs, validate=True), shape, dtype)
        except (binascii.Error, ValueError) as error:
            raise RequestError('"obs" is a string, but not base64', status=422) from error
    return _numbers(obs, shape, dtype, mixed=b"true" in body or b"false" in body)


def _numbers(obs: object, shape: tuple[int, ...], dtype: str, *, mixed: bool) -> np.ndarray:
    """Nested lists as an array, if every number fits its dtype; NumPy would count true as 1."""
    wanted = f'"obs" must be [rows, {", ".join(map(str, shape))}] numbers of {dtype}'
    try:
        given = np.array(obs)
    except (ValueError, OverflowError, TypeError) as error:
        raise RequestError(wanted, status=422) from error
    if given.dtype.kind not in "iuf" or given.shape[1:] != shape or given.ndim < 2:
        raise RequestError(f"{wanted}, got {_kind(given)} {list(given.shape)}"[:300], status=422)
    if mixed:
        raise RequestError(f"{wanted}, got booleans", status=422)
    with np.errstate(all="ignore"):
        obs = given.astype(dtype)
    if np.dtype(dtype).kind in "iu" and (obs != given).any():
        raise RequestError(f"{wanted}: some are none", status=422)
    return obs


def _kind(given: np.ndarray) -> str:
    return {"O": "something else", "U": "text", "b": "booleans"}.get(given.dtype.kind, "numbers")


def answer(actions: np.ndarray, values: np.ndarray | None) -> bytes:
    """`{"actions": [...]}`, and the values with null for actions that must not be taken."""
    content: dict[str, object] = {"actions": actions.tolist()}
    if values is not None:
        content["values"] = [
            [value if np.isfinite(value) else None for value in row] for row in values.tolist()
        ]
    return json.dumps(content, separators=(",", ":")).encode()
