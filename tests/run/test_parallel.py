"""Several processes train one run: what one process learns, they learn; what breaks is named."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from scaledq.core.config import to_json
from scaledq.run.checkpoint import checkpoints
from scaledq.run.compute import Compute
from scaledq.run.config import RunConfig
from scaledq.run.folder import METRICS, WEIGHTS, open_run
from scaledq.run.parallel import Ranks
from scaledq.run.train import train
from scaledq.run.watch import BEAT, COMPUTING, LOADING, Watch


@dataclass
class Nursery:
    """Starts the processes of a run, as torchrun would on this machine; see nursery.py."""

    process: "subprocess.Popen[str]"

    def ask(self, **order: object) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(
        self, cfg: RunConfig, out: Path, *, ranks: int = 2, timeout: float = 60, slow: float = 0
    ) -> list[int]:
        """The processes' ids; rank r's standard error goes to `out`/r."""
        out.mkdir(exist_ok=True, parents=True)
        (out / "cfg.json").write_bytes(to_json(cfg))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        return [
            self.ask(
                cfg=str(out / "cfg.json"),
                out=str(out),
                timeout=timeout,
                slow=slow,
                stderr=str(out / str(rank)),
                env=place | {"WORLD_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(ranks)
        ]

    def wait(self, pid: int) -> int:
        return self.ask(wait=pid, seconds=60)

    def train(self, cfg: RunConfig, out: Path, *, ranks: int = 2) -> Path:
        """Trains to the end; returns the run's folder."""
        codes = [self.wait(pid) for pid in self.start(cfg, out, ranks=ranks)]
        assert codes == [0] * ranks, [(out / str(rank)).read_text() for rank in range(ranks)]
        return out / cfg.folder


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    command = [sys.executable, str(Path(__file__).parent / "nursery.py")]
    process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, start_new_session=True)
    yield Nursery(process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def assert_close(one: Path, other: Path) -> None:
    """Weights as close as two orders of adding up the same float32 numbers can be.

    Each step's gradient differs by rounding, at most about B * 2^-24 of its size; Adam's steps of
    at most lr pass it on divided by eps where moments are tiny. 30 steps of lr 2e-4 with errors of
    (17 * 6e-8) * lr / eps * gradient (below 1) stay below 30 * 1e-6 * 2e-4 / 3e-4 = 2e-5.
    """
    a, b = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-5)


@pytest.fixture
def odd_run(small_run: RunConfig) -> RunConfig:
    """One rank's part of each batch is larger by a row."""
    return replace(small_run, batch_size=17)


@pytest.mark.parametrize("compute", [Compute(), Compute(shard=True)], ids=["ddp", "fsdp2"])
def test_two_processes_learn_what_one_learns(
    nursery: Nursery, odd_run: RunConfig, tmp_path: Path, compute: Compute
) -> None:
    alone = train(odd_run, tmp_path / "one")
    cfg = replace(odd_run, compute=compute)
    folder = nursery.train(cfg, tmp_path / "two")
    assert_close(alone.folder, folder)
    shared = ("step", "loss", "td", "grad_norm")
    for mine, theirs in zip(alone.metrics, open_run(folder).metrics, strict=True):
        for name in shared:
            assert theirs[name] == pytest.approx(mine[name], rel=1e-4)
    assert len(checkpoints(folder / "checkpoints")) == odd_run.checkpoints


def test_sharded_checkpoints_go_on_with_another_number_of_processes(
    nursery: Nursery, odd_run: RunConfig, tmp_path: Path
) -> None:
    alone = train(odd_run, tmp_path / "one")
    cfg = replace(odd_run, compute=Compute(shard=True))
    folder = nursery.train(cfg, tmp_path / "more")
    for ranks in (3, 1):
        back_to_step_20(folder)
        assert nursery.train(cfg, tmp_path / "more", ranks=ranks) == folder
        assert_close(alone.folder, folder)
        assert [row["step"] for row in open_run(folder).metrics] == [5, 10, 15, 20, 25, 30]


def back_to_step_20(folder: Path) -> None:
    """As if the run had been killed after its checkpoint of step 20, which two ranks wrote."""
    (folder / WEIGHTS).unlink()
    before, last = checkpoints(folder / "checkpoints")
    shutil.rmtree(last)
    assert (before.name, len(list(before.glob("shard-*")))) == ("step-000000020", 2)


def test_a_signal_to_any_rank_stops_all_with_a_checkpoint(
    nursery: Nursery, small_run: RunConfig, tmp_path: Path
) -> None:
    cfg = replace(small_run, steps=40_000, checkpoint_every=40_000, log_every=5)
    pids = nursery.start(cfg, tmp_path, slow=0.01)
    wait_for(tmp_path / cfg.folder / METRICS)
    os.kill(pids[1], signal.SIGUSR1)
    assert [nursery.wait(pid) for pid in pids] == [128 + signal.SIGUSR1] * 2
    assert "SIGUSR1: stopped at step" in (tmp_path / "0").read_text()
    assert len(checkpoints(tmp_path / cfg.folder / "checkpoints")) == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "rank 1 of 2 .* gives no sign of life: it has died"),
        (signal.SIGSTOP, "no progress for 4 s: rank 1 of 2 .* does not answer at step"),
    ],
)
def test_a_dead_or_hung_rank_is_named(
    nursery: Nursery, small_run: RunConfig, tmp_path: Path, number: signal.Signals, words: str
) -> None:
    cfg = replace(small_run, steps=40_000, checkpoint_every=40_000, log_every=5)
    pids = nursery.start(cfg, tmp_path, timeout=4, slow=0.01)
    wait_for(tmp_path / cfg.folder / METRICS)
    os.kill(pids[1], number)
    assert nursery.wait(pids[0]) == 1
    assert re.search(words, (tmp_path / "0").read_text())


def test_the_error_of_one_rank_is_told_by_the_others(
    nursery: Nursery, small_run: RunConfig, store: Path, tmp_path: Path
) -> None:
    cfg = replace(small_run, steps=40_000, checkpoint_every=40_000, log_every=5)
    pids = nursery.start(cfg, tmp_path, slow=0.05)
    wait_for(tmp_path / cfg.folder / METRICS)
    for chunk in store.glob("*/*/frames/c/**/*"):
        if chunk.is_file():
            chunk.unlink()
    assert [nursery.wait(pid) for pid in pids] == [1, 1]
    said = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert all("cannot read frames" in text for text in said), said


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size):  # all have taken steps
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_shares_weigh_each_rank_by_its_rows() -> None:
    shares = [Ranks("cpu", rank, 3).share(17) for rank in range(3)]
    assert sum(shares) == pytest.approx(3)
    assert shares == [6 * 3 / 17, 6 * 3 / 17, 5 * 3 / 17]
    assert Ranks("cpu").share(17) == 1


def test_who_is_blamed_stands_farthest_behind() -> None:
    """Both are alive; one waits for data of a step that the other computes already."""
    store = HashStore()
    watches = [Watch(store, rank=rank, world=2, timeout=60.0) for rank in range(2)]
    try:
        watches[0].at(5, COMPUTING)
        watches[1].at(5, LOADING)
        time.sleep(1.5 * BEAT)
        assert watches[0].blame() is None
        words = r"no progress for 60 s: rank 1 of 2 \(process .*\) is waiting for data at step 6"
        assert re.fullmatch(words, watches[0]._laggard())
        watches[1].fail("its disk is gone")
        assert watches[0].blame() == "rank 1 of 2 stopped: its disk is gone"
    finally:
        for watch in watches:
            watch.close()
