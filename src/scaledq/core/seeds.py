"""Where randomness comes from: every stream is named by what it is for, none is carried along."""

import zlib

import numpy as np

from scaledq.core.errors import ConfigError


def check_seed(seed: int) -> None:
    """Raises ConfigError unless it is 0 or more."""
    if seed < 0:
        raise ConfigError(f"seed: need 0 or more, got {seed}")


def episode_seed(seed: int, task: str, slot: int, episode: int) -> int:
    """The environment seed (31 bits) of the episode-th episode that a slot plays of a task.

    Raises:
      ConfigError: a negative seed.
    """
    check_seed(seed)
    return (
        int(
            np.random.SeedSequence([seed, zlib.crc32(task.encode()), slot, episode]).generate_state(
                1
            )[0]
        )
        & 0x7FFF_FFFF
    )


def stream(seed: int, *names: int | str) -> np.random.Generator:
    """A generator of its own for each (seed, names): Philox, the same on every machine.

    Raises:
      ConfigError: a negative seed.
    """
    check_seed(seed)
    words = [zlib.crc32(n.encode()) if isinstance(n, str) else n for n in names]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *words])))
