"""Which transitions make up step `t`'s batch.

The sampler is a pure function of (seed, step): it keeps no state, so resuming needs only the step
number, and any rank of any world size can name its part of the global batch without talking to the
others.
"""

import numpy as np


def sample(
    sizes: np.ndarray, shares: np.ndarray, *, seed: int, step: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one global batch: a task by its share, then a transition of it uniformly.

    Args:
      sizes: int64 [N], transitions of each task; all positive.
      shares: float64 [N], each task's probability.
      seed: names the run's stream of batches.
      step: optimiser step, from 0.
      batch: global batch size B, the same whatever the number of ranks.

    Returns:
      (task, index), each int64 [B], with 0 <= index[i] < sizes[task[i]]. Rank r of w reads r::w.
    """
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
    which, where = rng.random((2, batch))  # doubles alone: the least that NumPy could ever change
    edges = np.cumsum(shares)
    task = np.searchsorted(edges / edges[-1], which, side="right")
    return task, (where * sizes[task]).astype(np.int64)


def draws(*, seed: int, step: int, batch: int) -> np.ndarray:
    """A random number below 2**62 for each row of the global batch, apart from what chose the row:
    int64 [B], the same whatever the number of ranks."""
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 1, step]))
    return rng.integers(1 << 62, size=batch)
