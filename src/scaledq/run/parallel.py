"""How several processes take each step of one run together: who is who, and what they agree on.

torchrun starts them. Batches need no talk: each loader names its own rows. Gradients, and
the means that are reported, are averaged by torch.distributed: NCCL between GPUs, else gloo.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed import (  # pyright: ignore[reportPrivateImportUsage]
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    ProcessGroup,
    Store,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from scaledq.core.errors import RunError, ScaledQError
from scaledq.nets.transformer import Transformer
from scaledq.run.signals import Interrupted
from scaledq.run.watch import LINGER, Watch

TIMEOUT = 600.0
"""Seconds: longer than any compilation, shorter than anybody wants to pay for a hung cluster."""


@dataclass(slots=True)
class Ranks:
    """The processes of a run as one of them sees them; a run of one process is `Ranks(device)`."""

    device: str
    rank: int = 0
    world: int = 1
    watch: Watch | None = None
    store: Store | None = None
    saving: ProcessGroup | None = None
    """Over which checkpoints are agreed on, beside the steps."""
    stopping: ProcessGroup | None = None
    _said: torch.Tensor | None = None
    _heard: dist.Work | None = None
    _led: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> float:
        """This rank's rows of a global batch over the mean of all ranks' rows."""
        rows = len(range(self.rank, batch_size, self.world))
        return rows * self.world / batch_size

    def at(self, step: int, doing: str) -> None:
        """Tells the watch of progress."""
        if self.watch is not None:
            self.watch.at(step, doing)

    def lead(self, work: Callable[[], str]) -> str:
        """Lets the first rank do it, and tells all what came of it.

        Raises:
          ScaledQError: on the first rank, what `work` raised.
          RunError: on the others, in its stead.
        """
        if self.store is None:
            return work()
        self._led += 1
        key = f"led/{self._led}"
        if not self.first:
            word = json.loads(self.store.get(key))
            if "error" in word:
                raise RunError(word["error"])
            return word["answer"]
        try:
            answer = work()
        except ScaledQError as error:
            self.store.set(key, json.dumps({"error": str(error)}))
            raise
        self.store.set(key, json.dumps({"answer": answer}))
        return answer

    def agreed(self, number: int) -> int:
        """The highest number that any rank gave in the call before; alone, the one given.

        So all ranks stop after the same step, and none waits for an answer: it has had a step's
        time to arrive.
        """
        if self.stopping is None:
            return number
        heard = 0
        if self._heard is not None and self._said is not None:
            self._heard.wait()
            heard = int(self._said)
        self._said = torch.tensor(number)
        work = dist.all_reduce(self._said, dist.ReduceOp.MAX, self.stopping, async_op=True)
        self._heard = work
        return heard

    def wrapped(self, net: nn.Module) -> nn.Module:
        """The network as training calls it: its gradients are the ranks' mean."""
        if self.world == 1:
            return net
        places = [torch.device(self.device)] if self.device.startswith("cuda") else None
        with warnings.catch_warnings():  # the new name of broadcast_buffers came after torch 2.11
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                net, device_ids=places, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def spread(self, net: nn.Module) -> None:
        """Shards the network over the ranks in place (FSDP2), by parts; alone it stays whole."""
        if self.world == 1:
            return
        # It fears in-place changes of the views that heads answer; objectives make none.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        mesh = init_device_mesh(torch.device(self.device).type, (self.world,))
        if isinstance(net, Transformer):
            stages = list(net.blocks)
        else:
            parts = net.get_submodule("encoder").children()
            stages = [stage for part in parts for stage in part.children()]
        for stage in stages:
            if any(True for _ in stage.parameters()):
                fully_shard(stage, mesh=mesh, reshard_after_forward=True)
        fully_shard(net, mesh=mesh, reshard_after_forward=True)

    def close(self) -> None:
        if self._heard is not None:
            self._heard.wait()
            self._heard = None


@contextmanager
def joined(device: str, *, timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """This process among those that torchrun started with it; alone without torchrun.

    Args:
      device: "cuda" (each process of a machine then takes a GPU of its own) or "cpu".
      timeout: seconds after which a rank that makes no progress ends the run.

    Raises:
      RunError: another rank died, hung or failed: names it, and what it said.
    """
    if "RANK" not in os.environ:
        yield Ranks(device)
        return
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    ranks = _join(device, rank, world, timeout)
    sound = device == "cpu"
    try:
        with _telling(ranks):
            yield ranks
        sound = True
    except Interrupted as error:
        sound = True
        if not ranks.first:  # the first rank's line says it for all
            raise SystemExit(error.code) from error
        raise
    finally:
        # Threads of gloo that outlive the interpreter would abort it, and its exit code with it;
        # NCCL would wait for ranks that are gone.
        if sound:
            dist.destroy_process_group()


@contextmanager
def _telling(ranks: Ranks) -> Iterator[None]:
    """Tells the other ranks why this one fails, and of this one's broken talks why they broke."""
    assert ranks.watch is not None
    try:
        yield
        ranks.close()
    except Interrupted:
        ranks.close()
        raise
    except ScaledQError as error:
        ranks.watch.fail(str(error))
        if ranks.first and not _agent_keeps_store():
            time.sleep(LINGER)
        error.args = (f"rank {ranks.rank}: {error}",)
        raise
    except RuntimeError as error:
        cause = ranks.watch.blame()
        if cause is None:
            ranks.watch.fail(str(error).splitlines()[0])
            raise
        raise RunError(
            f"rank {ranks.rank}: {cause}; go on from the newest checkpoint with --resume"
        ) from error
    finally:
        ranks.watch.close()


def _join(device: str, rank: int, world: int, timeout: float) -> Ranks:
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    limit = timedelta(seconds=1.5 * timeout + 10)  # the watch speaks first: it knows names
    place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))

    def meet(name: str, *, host: bool = False) -> Store:
        store = TCPStore(
            *place, world_size=world, is_master=host, timeout=limit, wait_for_workers=False
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return PrefixStore(f"scaledq/{attempt}/{name}", store)

    groups = meet("groups", host=rank == 0 and not _agent_keeps_store())
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=groups, rank=rank, world_size=world, timeout=limit)
    watch = Watch(meet("watch"), rank=rank, world=world, timeout=timeout)
    return Ranks(
        device,
        rank,
        world,
        watch=watch,
        store=meet("told"),
        saving=_group(limit),
        stopping=_group(limit),
    )


def _agent_keeps_store() -> bool:
    """Whether torchrun itself, not the first rank, keeps the store where all meet."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _group(limit: timedelta) -> ProcessGroup:
    """One more channel between all ranks' hosts."""
    group = dist.new_group(backend="gloo", timeout=limit)
    assert isinstance(group, ProcessGroup)
    return group
