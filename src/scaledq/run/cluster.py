"""How independent pieces of work go to many machines: as tasks of a Ray cluster.

Ray schedules them and does a piece again whose worker was lost; nothing of ours does. All machines
see the same files.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from scaledq.core.errors import RunError, ScaledQError

On = Literal["local", "ray"]
RETRIES = 3
"""How often a piece is done again whose worker died."""


def spread(
    work: Callable[..., bytes], pieces: Mapping[str, tuple[Any, ...]], *, gpu: float = 0.0
) -> Iterator[tuple[str, bytes]]:
    """Runs `work(*arguments)` for each piece; yields (name, answer) as they finish.

    On the cluster of the environment (`RAY_ADDRESS`), or a local one. Each piece asks for one CPU.

    Args:
      work: a function of a module that every machine has installed.
      pieces: arguments by name.
      gpu: share of a GPU that a piece asks for, where the cluster has any.

    Raises:
      RunError: Ray is not installed, or a piece's worker died again and again.
      ScaledQError: what the first piece to fail raised; pieces under way are cancelled.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise RunError(
            "Ray is not installed: pip install 'scaledq[cluster]', or leave out --on ray"
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    gpus = gpu if ray.cluster_resources().get("GPU") else 0.0
    task = ray.remote(max_retries=RETRIES, num_cpus=1, num_gpus=gpus)(_answer)
    waiting = {task.remote(work, arguments): name for name, arguments in pieces.items()}
    try:
        while waiting:
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            name = waiting.pop(ready)
            try:
                answer = ray.get(ready)
            except RayError as error:
                raise RunError(f"{name}: {str(error).splitlines()[0]}") from error
            if isinstance(answer, ScaledQError):
                raise answer
            yield name, answer
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _answer(work: Callable[..., bytes], arguments: tuple[Any, ...]) -> bytes | ScaledQError:
    try:
        return work(*arguments)
    except ScaledQError as error:
        return error
