"""How a step is computed on this machine's device: number format, memory layout, fusion, copies.

None of this changes what is learnt, but every field changes the last bits of it: so they are
part of a run's config, and the defaults are what any CPU computes.
"""

from collections.abc import Generator, Iterable
from dataclasses import fields
from typing import Literal

import torch
from torch import Tensor, nn

from scaledq.core.batch import Batch, Windows
from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.nets.head import Network


@config
class Compute:
    """float32 in the default layout, one kernel after the other, whole weights on every rank."""

    precision: Literal["float32", "tf32", "bf16"] = "float32"
    """Of products; weights, moments, norms and losses are float32 in any case. tf32: products of
    a GPU's matrix units with 10 bits of mantissa. bf16: 7 bits for encoder and neck, tf32 for the
    heads."""
    channels_last: bool = False
    """Keeps maps as [B H W C] in memory, which most convolution kernels want."""
    compile: bool = False
    """torch.compile of all forward passes and the loss; the first steps take minutes."""
    shard: bool = False
    """FSDP2: spreads weights, target weights and moments over the ranks of a distributed run,
    for networks that outgrow a device; each rank holds the whole of one stage at a time. With one
    process everything is whole."""


def prepared(net: nn.Module, cfg: Compute, *, device: str) -> nn.Module:
    """The network on its device, in the layout and with the number format of `cfg`, in place.

    Raises:
      ConfigError: bf16 for a network that does not say which of its parts bear it.
    """
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("highest" if cfg.precision == "float32" else "high")
        torch.backends.cudnn.allow_tf32 = cfg.precision != "float32"
    net = net.to(device)
    if cfg.channels_last:
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if cfg.precision == "bf16":
        if not isinstance(net, Network):
            raise ConfigError(
                f"compute.precision: {type(net).__name__} has no bf16 parts; take tf32 or float32"
            )
        net.autocast = torch.bfloat16
    return net


def feed(batches: Iterable[Batch | Windows], device: str) -> Generator[Batch | Windows, None, None]:
    """The batches on `device`; on a GPU the next one's copy overlaps with work on the one before.

    They should lie in page-locked memory then (`Loader(pinned=True)`): other copies make the host
    wait.
    """
    if torch.device(device).type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    side = torch.cuda.Stream(device)
    ahead: tuple[Batch | Windows, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(side):
            copied = batch.to(device, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        if ahead is not None:
            yield _received(*ahead)
        ahead = copied, done
    if ahead is not None:
        yield _received(*ahead)


def _received(batch: Batch | Windows, done: torch.cuda.Event) -> Batch | Windows:
    """Lets the device, not the host, wait for the copy."""
    now = torch.cuda.current_stream()
    now.wait_event(done)
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            value.record_stream(now)
    return batch
