"""What a task is: one decision problem with discrete actions."""

from math import prod

from scaledq.core.config import config
from scaledq.core.errors import TaskError


@config
class Task:
    """An Atari game in one mode and difficulty, a gymnasium environment, or anybody's own."""

    name: str
    """Unique in a store and a run; a path component, so without separators."""
    actions: int
    """The size A of the task's own action set; actions are 0..A-1."""
    frame_shape: tuple[int, ...] = (84, 84)
    """Of one frame, without the stack."""
    frame_dtype: str = "uint8"

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or any(c in self.name for c in '/\\\0\n"'):
            raise TaskError(f"a task's name must be usable as a folder's, got {self.name!r}")
        if self.actions < 1 or self.actions > 32_767:
            raise TaskError(f"task {self.name}: need 1 to 32,767 actions, got {self.actions}")
        if not self.frame_shape or prod(self.frame_shape) < 1:
            raise TaskError(f"task {self.name}: an empty frame shape {self.frame_shape}")
