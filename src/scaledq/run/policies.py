"""How a policy comes back: from a run's folder or from an exported file, ready to act.

What is loaded here answers actions: `policy(obs, task=name)`. Runs of transformers also want to
know what was done and paid between the observations.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from scaledq.core.errors import ConfigError, RunError
from scaledq.core.outputs import Network, Outputs
from scaledq.play.policy import NetPolicy, Selection
from scaledq.play.sequence import SequencePolicy
from scaledq.run import assemble
from scaledq.run.card import KEY, Card, card, read_card
from scaledq.run.folder import RUN, WEIGHTS, Run, open_run


def load_policy(
    path: Path | str, *, selection: Selection | None = None, keep: int | None = None
) -> NetPolicy | SequencePolicy:
    """The policy of a run: `policy(obs, task=name)` answers actions [B] for obs [B S *frame].

    Args:
      path: the run's folder, its weights.safetensors, or a file of `scaledq export`. Load a .pt2
        only if you trust where it comes from; the other two hold no code.
      selection: the run's own by default; `greedy` for a file.
      keep: with how many of its last steps a transformer's full window begins anew; fewer are
        faster and decide otherwise. T - 1 by default, as published.

    Raises:
      RunError: there is nothing of the kind, it is damaged, or what it needs is not installed.
      ConfigError: a selection or a `keep` that the run does not allow.
    """
    if run := _run(Path(path)):
        return run.policy(selection=selection, keep=keep)
    if keep is not None:
        raise ConfigError(f"keep: only runs of transformers remember a window, and {path} is none")
    return load(path, selection=selection)[0]


def load(path: Path | str, *, selection: Selection | None = None) -> tuple[NetPolicy, Card]:
    """As `load_policy`, with what is known of the policy; only such as need no memory.

    Raises:
      RunError: as `load_policy`, and for a run of a transformer.
    """
    place = Path(path)
    if run := _run(place):
        policy = run.policy(selection=selection)
        if isinstance(policy, SequencePolicy):
            raise RunError(
                f"{run.name} remembers its episode, and here every observation stands alone; "
                "use evaluate, watch or load_policy for it"
            )
        return policy, card(run)
    readers = {".onnx": _onnx, ".pt2": _pt2, ".safetensors": _safetensors}
    if not place.is_file() or place.suffix not in readers:
        raise RunError(
            f"no policy at {place}; give a folder of `scaledq train`, or a .onnx, .pt2 or "
            ".safetensors file of `scaledq export`"
        )
    net, about, preferences = readers[place.suffix](place)
    return _policy(net, about, preferences, selection=selection or "greedy"), about


def _run(place: Path) -> Run | None:
    """The run whose folder or weights these are, if they are a run's."""
    if place.is_dir() or (place.name == WEIGHTS and (place.parent / RUN).exists()):
        return open_run(place if place.is_dir() else place.parent)
    return None


Found = tuple[Network, Card, Callable[[Outputs], Tensor]]


def _policy(
    net: Network, about: Card, preferences: Callable[[Outputs], Tensor], *, selection: Selection
) -> NetPolicy:
    return NetPolicy(
        net,
        preferences,
        tuple(task.name for task in about.tasks),
        stack=about.stack,
        selection=selection,
        frame=about.tasks[0],
    )


def _values(outputs: Outputs) -> Tensor:
    return outputs["values"]


def _onnx(path: Path) -> Found:
    try:
        import onnxruntime
    except ImportError as error:
        raise RunError("ONNX Runtime is not installed: pip install 'scaledq[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its faults share no class but Exception
        raise RunError(f"{path} is no ONNX model ({_line(error)}); export the run again") from error
    about = read_card(session.get_modelmeta().custom_metadata_map.get(KEY), where=str(path))

    def net(obs: Tensor, task: Tensor) -> Outputs:
        (values,) = session.run(["values"], {"obs": obs.numpy(), "task": task.numpy()})
        return {"values": torch.from_numpy(values)}

    return net, about, _values


def _pt2(path: Path) -> Found:
    extra: dict[str, Any] = {KEY: ""}
    try:
        graph = torch.export.load(path, extra_files=extra).module()
    except Exception as error:  # a damaged archive fails in as many ways as it has parts
        raise RunError(f"{path} is no .pt2 file ({_line(error)}); export the run again") from error

    def net(obs: Tensor, task: Tensor) -> Outputs:
        return {"values": graph(obs, task)[1]}

    return net, read_card(extra[KEY], where=str(path)), _values


def _safetensors(path: Path) -> Found:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged ({_line(error)}); export the run again") from error
    about = read_card(header.get(KEY), where=str(path))
    net = assemble.network(about.config, about.tasks)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"{path} does not fit its own card: {_line(error)}") from error
    return net.eval(), about, about.config.playing.preferences


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
