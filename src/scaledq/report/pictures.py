"""How does an array become a picture? PNG: without loss wherever a picture can hold the values."""

import io

import numpy as np
from PIL import Image

COLOURS = (1, 3)
"""Channels that make a grey or a coloured picture."""


def png(values: np.ndarray) -> bytes:
    """A frame [H W], [H W C] or [C H W] as a file.

    Bytes stay as they are; other numbers are scaled, so that the least is black and the greatest
    white (see `grey`). One or three channels are a picture's own; others stand side by side.
    """
    pixels = values if values.dtype == np.uint8 else grey(values)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(_flat(pixels))).save(buffer, "PNG")
    return buffer.getvalue()


def heat(rows: np.ndarray) -> bytes:
    """Vectors [k D] as a file of D lines and k columns, each line scaled by itself."""
    return png(np.stack([grey(line) for line in rows.reshape(len(rows), -1).T]))


def grey(values: np.ndarray) -> np.ndarray:
    """uint8: 0 for the least finite value, 255 for the greatest; what is not finite is 0."""
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    low = numbers[finite].min(initial=np.inf)
    reach = numbers[finite].max(initial=-np.inf) - low
    if not reach > 0:
        return np.zeros(values.shape, np.uint8)
    scaled = (np.where(finite, numbers, low) - low) / reach
    return np.rint(255 * scaled).astype(np.uint8)


def _flat(pixels: np.ndarray) -> np.ndarray:
    """[H W] or [H W 3]."""
    if pixels.ndim == 2:
        return pixels
    first, last = pixels.shape[0], pixels.shape[-1]
    if last not in COLOURS and (first in COLOURS or first < last):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.shape[-1] == 3:
        return pixels
    return np.concatenate(np.moveaxis(pixels, -1, 0), axis=1)
