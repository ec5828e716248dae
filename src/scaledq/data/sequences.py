"""How rows become windows of successive steps, and what their episodes still paid after them.

A window starts at a row of the view, takes up to T steps and stops where its episode does: it never
crosses into another episode, and so never into another log. Shapes: B batch, T steps, R rows.
"""

import numpy as np
import torch

from scaledq.core.batch import Windows
from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.data.columns import Columns
from scaledq.data.reader import Plan
from scaledq.data.rows import ENDED, START, USABLE
from scaledq.data.windows import Runs, clipped, walk


@config
class Sequences:
    """Windows as the multi-game decision transformer takes them (Lee et al., 2022)."""

    context: int = 4
    """T: steps of a window."""
    reward_clip: float | None = 1.0
    """Rewards are clipped to [-this, this] one by one, also in returns; None keeps them raw."""
    returns: bool = True
    """Draw only windows whose return to go is known: the episode's end is in the log."""
    shift: int = 4
    """Pictures of a window are moved together by up to so many pixels each way, their edges
    repeated; 0 for none. Lee et al. augment at random and do not say how."""

    def __post_init__(self) -> None:
        if self.context < 1 or self.shift < 0:
            raise ConfigError(
                f"sequences: need context >= 1 and shift >= 0, got {self.context} and {self.shift}"
            )
        if self.reward_clip is not None and not self.reward_clip > 0:
            raise ConfigError(f"sequences: reward_clip must be positive, got {self.reward_clip}")

    def reader(self, columns: Columns) -> "WindowReader":
        """Cuts windows from these columns."""
        return WindowReader(self, columns)


class WindowReader:
    """See `reader.Reader`."""

    lacking = (
        "an episode that ends in the log, so that its return to go were known; record whole "
        "episodes, or train a recipe that needs no returns (bc_transformer, scaled_ql)"
    )

    def __init__(self, cfg: Sequences, columns: Columns):
        self.cfg, self.columns = cfg, columns
        self.return_to_go = returns_to_go(columns, clip=cfg.reward_clip)

    @property
    def choosable(self) -> np.ndarray | None:
        return ~np.isnan(self.return_to_go) if self.cfg.returns else None

    def plan(self, task: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> Plan:
        cfg, columns = self.cfg, self.columns
        steps = walk(columns, rows, n=cfg.context, gamma=1.0, clip=cfg.reward_clip).steps
        places = np.arange(cfg.context)
        window = np.minimum(rows[:, None] + places, len(columns) - 1)
        real = places < steps[:, None]
        numbers = {
            "task": task,
            "action": np.where(real, columns.action[window], 0).astype(np.int64),
            "reward": np.where(real, clipped(columns.reward[window], cfg.reward_clip), 0),
            "return_to_go": self.return_to_go[rows],
            "steps": steps,
            "draws": draws,
        }
        return Plan(numbers, Runs(rows, steps, np.zeros_like(rows)), cfg.context)

    def batch(self, frames: np.ndarray, numbers: dict[str, np.ndarray]) -> Windows:
        draws = numbers.pop("draws")
        if self.cfg.shift and frames.ndim == 4:
            for row, (up, left) in enumerate(shifts(draws, self.cfg.shift)):
                frames[row] = shifted(frames[row], int(up), int(left))
        tensors = {name: torch.from_numpy(values) for name, values in numbers.items()}
        return Windows(frames=torch.from_numpy(frames), **tensors, noise=int(draws[0]))


def returns_to_go(columns: Columns, *, clip: float | None) -> np.ndarray:
    """Undiscounted sum of clipped rewards from each row to its episode's end: float32 [R].

    NaN where the log does not know that end: its last, unfinished episode, and one that was cut
    without a closing observation (a joint between two pieces looks the same).
    """
    out = np.empty(len(columns), np.float32)
    for first, last in zip(columns.offsets[:-1], columns.offsets[1:], strict=True):
        piece = slice(int(first), int(last))
        out[piece] = _of_piece(columns.flags[piece], clipped(columns.reward[piece], clip))
    return out


def _of_piece(flags: np.ndarray, reward: np.ndarray) -> np.ndarray:
    starts = np.flatnonzero(flags & START)
    if not len(starts):
        return np.zeros(0, np.float32)
    lengths = np.diff(np.append(starts, len(flags)))
    total = np.cumsum(reward, dtype=np.float64)
    ends = np.flatnonzero((flags & (ENDED | USABLE)) == (ENDED | USABLE))
    found = np.searchsorted(ends, starts)  # the first end at or after an episode's start
    place = ends[np.minimum(found, len(ends) - 1)] if len(ends) else np.zeros_like(starts)
    known = (found < len(ends)) & (place < starts + lengths)
    at_end = np.where(known, total[place], np.nan)
    return (np.repeat(at_end, lengths) - total + reward).astype(np.float32)


def shifts(draws: np.ndarray, reach: int) -> np.ndarray:
    """How far each row's pictures move down and right, -reach to reach: int64 [B 2]."""
    sides = 2 * reach + 1
    return np.stack([draws % sides, draws // sides % sides], axis=1) - reach


def shifted(frames: np.ndarray, down: int, right: int) -> np.ndarray:
    """Pictures [T H W] moved over their edges, which are repeated behind them."""
    height, width = frames.shape[1:]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return frames[:, rows[:, None], columns]
