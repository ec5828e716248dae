"""How a policy leaves: one file that holds its preprocessing, network, heads, masks and card.

.onnx is for any runtime, .pt2 for PyTorch without this package's networks, .safetensors for this
package and for fine-tuning. Shapes: B batch, S stack, A actions of the task that has most.
"""

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int, Shaped
from safetensors.torch import save
from torch import Tensor, nn

from scaledq.core.errors import RunError, suggest
from scaledq.core.files import write_atomic
from scaledq.core.outputs import Outputs
from scaledq.core.task import Task
from scaledq.run.card import KEY, Card, card, describe, write_card
from scaledq.run.folder import Run

INPUTS, OUTPUTS = ("obs", "task"), ("action", "values")
OPSET = 20


class Deployed(nn.Module):
    """(obs [B S *frame], task [B]) -> (greedy action [B], values [B A], -inf where unavailable)."""

    def __init__(self, net: nn.Module, preferences: Callable[[Outputs], Tensor]):
        super().__init__()
        self.net, self.preferences = net, preferences

    def forward(
        self, obs: Shaped[Tensor, "B S *frame"], task: Int[Tensor, "B"]
    ) -> tuple[Int[Tensor, "B"], Float[Tensor, "B A"]]:
        values = self.preferences(self.net(obs, task)).float()
        return values.argmax(-1), values


def export(run: Run, out: Path) -> Path:
    """Writes the run's policy to `out` and a model card for people beside it (`<out>.md`).

    Raises:
      RunError: an unknown suffix, a run that is unfinished, cannot play or remembers its episode,
        or ONNX is not installed.
    """
    if run.config.sequential:
        raise RunError(
            f"{run.name} remembers its episode; only policies of single observations are exported"
        )
    writers: dict[str, Callable[[Run, Card], bytes]] = {
        ".onnx": _onnx,
        ".pt2": _pt2,
        ".safetensors": _safetensors,
    }
    if out.suffix not in writers:
        known = suggest(out.suffix or "no suffix", writers)
        raise RunError(f"a policy is exported as .onnx, .pt2 or .safetensors, got {out}; {known}")
    _ = run.config.playing
    about = card(run)
    data = writers[out.suffix](run, about)
    try:
        write_atomic(out, data)
        write_atomic(out.with_name(f"{out.name}.md"), describe(about, out.name))
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def example(task: Task, stack: int, rows: int) -> tuple[Tensor, Tensor]:
    """Inputs of that many rows: zeros."""
    dtype: torch.dtype = getattr(torch, task.frame_dtype)
    return torch.zeros(rows, stack, *task.frame_shape, dtype=dtype), torch.zeros(rows).long()


def traced(run: Run) -> torch.export.ExportedProgram:
    """The policy as a graph that takes any number of rows."""
    net = Deployed(run.network, run.config.playing.preferences).cpu().eval()
    inputs = example(run.tasks[0], run.config.transitions.stack, 2)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(net, inputs, dynamic_shapes=({0: batch}, {0: batch}))


def _onnx(run: Run, about: Card) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter asks for it late)
    except ImportError as error:
        raise RunError("ONNX is not installed: pip install 'scaledq[onnx]'") from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, we do not
    with warnings.catch_warnings(action="ignore"):  # of the exporter's own affairs
        program = torch.onnx.export(
            traced(run),
            input_names=INPUTS,
            output_names=OUTPUTS,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {KEY: write_card(about)})
    try:
        onnx.checker.check_model(model)
        return model.SerializeToString()
    except ValueError as error:
        raise RunError(f"{run.name} does not fit into one ONNX file (2 GB): {error}") from error


def _pt2(run: Run, about: Card) -> bytes:
    file = io.BytesIO()
    torch.export.save(traced(run), file, extra_files={KEY: write_card(about)})
    return file.getvalue()


def _safetensors(run: Run, about: Card) -> bytes:
    tensors = {k: v.cpu().contiguous() for k, v in run.network.state_dict().items()}
    return save(tensors, {KEY: write_card(about)})
