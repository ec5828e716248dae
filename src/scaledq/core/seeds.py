"""Where randomness comes from: every stream is named by what it is for, none is carried along."""

import zlib

import numpy as np


def episode_seed(seed: int, task: str, slot: int, episode: int) -> int:
    """The environment seed (31 bits) of the episode-th episode that a slot plays of a task."""
    return (
        int(
            np.random.SeedSequence([seed, zlib.crc32(task.encode()), slot, episode]).generate_state(
                1
            )[0]
        )
        & 0x7FFF_FFFF
    )


def stream(seed: int, *names: int | str) -> np.random.Generator:
    """A generator of its own for each (seed, names): Philox, the same on every machine."""
    words = [zlib.crc32(n.encode()) if isinstance(n, str) else n for n in names]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words])))
