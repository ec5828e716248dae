"""Does anything that happens to a machine change what a run learns, or lose it?

    python benchmarks/soak.py --rounds 100 --log soak.jsonl

Every round trains a small run in processes of its own, lets one fault happen at a random moment,
mends what the fault broke, resumes, and compares the final weights with those of a run that
nothing happened to: they must be equal bit for bit, and unless all processes were killed outright,
what they said must name the cause. One JSON line a round goes to --log, a summary to standard
output; the exit code is 1 if any round failed. The full disk is a small tmpfs: mounting it needs
root.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from scaledq.core.batch import Batch
from scaledq.core.errors import ScaledQError
from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.data.loader import Loader, Transitions
from scaledq.data.writer import LogWriter
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.run.checkpoint import checkpoints
from scaledq.run.compute import Compute
from scaledq.run.config import RunConfig
from scaledq.run.folder import WEIGHTS
from scaledq.run.train import train
from timing import report

TASKS = tuple(
    Task(name=name, actions=a, frame_shape=(6,)) for name, a in (("left", 2), ("right", 3))
)
ROWS, STEPS, SLOW = 4_000, 240, 0.003
KILLED = -signal.SIGKILL


def write_store(folder: Path) -> None:
    for task in TASKS:
        rng = stream(0, task.name)
        about = {"behaviour": "random", "protocol": None, "source": {}, "versions": {}}
        with LogWriter(folder, task, "log", **about) as log:
            log.append(
                rng.integers(256, size=(ROWS, 6), dtype=np.uint8),
                rng.integers(task.actions, size=ROWS).astype(np.int16),
                rng.normal(size=ROWS).astype(np.float32),
                np.arange(1, ROWS + 1) % 10 == 0,
                np.zeros(ROWS, dtype=bool),
            )
            log.finish()


def config(store: Path) -> RunConfig:
    return RunConfig(
        tasks=("left", "right"),
        stores=(str(store),),
        encoder=MLPConfig(),
        neck=NeckConfig(embedding="none", width=16),
        optim=OptimConfig(target_every=7),
        transitions=Transitions(stack=2),
        batch_size=17,
        steps=STEPS,
        log_every=20,
        checkpoint_every=20,
        checkpoints=3,
    )


def forked(work: Callable[[], object], *, said: Path, env: dict[str, str] | None = None) -> int:
    """A process that has imported everything; what it says goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.environ.update(env or {})
        os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
        torch.set_num_threads(1)
        work()
        code = 0
    except ScaledQError as error:
        print(f"scaledq: error: {error}", file=sys.stderr)
        code = getattr(error, "code", 1)
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int, seconds: float = 120) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"process {pid} was still there after {seconds:.0f} s")


def slowly(poisoned: int | None) -> None:
    """Makes the run last long enough to be hit, and one reward of one step a NaN."""
    complete = Loader._complete
    issued: list[int] = []
    issue = Loader._issue

    def noted(self: Loader, step: int) -> object:
        issued.append(step)
        return issue(self, step)

    def late(self: Loader, reading: object) -> Batch:
        time.sleep(SLOW)
        batch = complete(self, reading)  # pyright: ignore[reportArgumentType]
        assert isinstance(batch, Batch)
        if issued.pop(0) == poisoned:
            batch.reward[0] = torch.nan
        return batch

    Loader._issue, Loader._complete = noted, late  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Case:
    """One run, its processes, and what they said."""

    cfg: RunConfig
    folder: Path
    ranks: int
    rng: random.Random
    poisoned: int | None = None
    pids: list[int] = field(default_factory=list)

    @property
    def run(self) -> Path:
        return self.folder / "out" / self.cfg.folder

    @property
    def said(self) -> str:
        return (self.folder / "said").read_text()

    def start(self) -> None:
        def work() -> None:
            slowly(self.poisoned)
            train(self.cfg, self.folder / "out", resume=True, timeout=20)

        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"WORLD_SIZE": str(self.ranks)}
        for rank in range(self.ranks):
            env = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if self.ranks > 1 else {}
            self.pids.append(forked(work, said=self.folder / "said", env=env))

    def wait(self) -> list[int]:
        codes = [ended(pid) for pid in self.pids]
        self.pids.clear()
        return codes

    def moment(self) -> None:
        """Waits for one: any time between the run's first file and its expected end."""
        while not (self.run / "run.json").exists():
            time.sleep(0.002)
        time.sleep(self.rng.random() * STEPS * SLOW)


def killed(case: Case) -> str:
    """SIGKILL."""
    case.start()
    case.moment()
    os.kill(case.rng.choice(case.pids), signal.SIGKILL)
    codes = case.wait()
    if codes == [0] * case.ranks:
        return "it was through"
    assert KILLED in codes, codes
    if case.ranks == 1:
        return "killed"
    dead = codes.index(KILLED)
    if codes[1 - dead] == 0:
        return "it was through"
    assert codes[1 - dead] == 1, codes
    return named(case, rf"rank {dead} of 2 .* has died|all ranks met at .* has died")


def signalled(case: Case) -> str:
    """SIGTERM, SIGUSR1 or SIGINT."""
    number = case.rng.choice((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT))
    case.start()
    case.moment()
    os.kill(case.rng.choice(case.pids), number)
    codes = case.wait()
    if codes == [0] * case.ranks:
        return "it was through"
    if number in [-code for code in codes]:
        return f"{number.name} before it listened"
    assert codes == [128 + number] * case.ranks, codes
    return named(case, rf"{number.name}: stopped at step .* with a checkpoint")


def disk_full(case: Case) -> str:
    """No space left where the run writes."""
    with small_disk(case.folder / "out"):
        case.start()
        case.moment()
        filler = case.folder / "out" / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
        codes = case.wait()
        filler.unlink()
        if codes != [0] * case.ranks:
            assert set(codes) == {1}, codes
        told = named(case, "No space left") if any(codes) else "it was through"
        finish(case)
        return told


def chunk_removed(case: Case) -> str:
    """A chunk of the store is not there."""
    place = case.rng.choice(sorted(Path(case.cfg.stores[0]).glob("*/*/frames/c/**/*")))
    while place.is_dir():
        place = case.rng.choice(sorted(place.iterdir()))
    kept = place.read_bytes()
    case.start()
    case.moment()
    place.unlink()
    codes = case.wait()
    place.write_bytes(kept)
    if codes == [0] * case.ranks:
        return "it was through"
    assert set(codes) == {1}, codes
    return named(case, r"log .*/(left|right)/log: cannot read frames")


def nan_in_a_batch(case: Case) -> str:
    """One reward is not a number."""
    case.poisoned = case.rng.randrange(STEPS)
    case.start()
    codes = case.wait()
    step, case.poisoned = case.poisoned, None
    assert set(codes) == {1}, codes
    return named(case, rf"step {step}: the loss is not finite")


def checkpoint_damaged(case: Case) -> str:
    """Killed, and then the newest checkpoint is flipped, cut, emptied, or partly gone."""
    case.start()
    while len(checkpoints(case.run / "checkpoints")) < 2:
        time.sleep(0.002)
    for pid in case.pids:
        os.kill(pid, signal.SIGKILL)
    case.wait()
    newest = checkpoints(case.run / "checkpoints")[-1]
    file = case.rng.choice(sorted(newest.glob("*.safetensors")))
    data = bytearray(file.read_bytes())
    data[case.rng.randrange(len(data))] ^= 1 << case.rng.randrange(8)
    cut = bytes(data[: case.rng.randrange(len(data))])
    damage = case.rng.choice(("flip", "cut", "empty", "remove"))
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes({"flip": bytes(data), "cut": cut, "empty": b""}[damage])
    finish(case)
    return f"{damage}: " + named(case, rf"{newest.name} (is damaged|cannot be read)")


FAULTS = (killed, signalled, disk_full, chunk_removed, nan_in_a_batch, checkpoint_damaged)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=True)
    try:
        yield
        kept = folder.with_name("kept")
        shutil.copytree(folder, kept)
    finally:
        subprocess.run(["umount", folder], check=True)
    shutil.rmtree(folder)
    kept.rename(folder)


def named(case: Case, words: str) -> str:
    found = re.search(words, case.said)
    assert found, f"nothing said of {words!r}: {case.said[-2000:]}"
    return found[0]


def finish(case: Case) -> None:
    if not (case.run / WEIGHTS).exists():
        case.start()
        codes = case.wait()
        assert codes == [0] * case.ranks, (codes, case.said[-2000:])


def weights(cfg: RunConfig, folder: Path, ranks: int) -> bytes:
    """Of a run that nothing happens to."""
    folder.mkdir()
    calm = Case(cfg, folder, ranks, random.Random(0))
    finish(calm)
    return (calm.run / WEIGHTS).read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="rounds before it are left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"))
    options = parser.parse_args()
    began, failures, counts = time.monotonic(), 0, Counter[str]()
    with tempfile.TemporaryDirectory(prefix="scaledq-") as name, options.log.open("a") as log:
        place = Path(name)
        assert ended(forked(lambda: write_store(place / "store"), said=place / "said")) == 0
        plain = config(place / "store")
        kinds = {
            "one process": (plain, 1),
            "two ranks": (plain, 2),
            "two ranks, sharded": (replace(plain, compute=Compute(shard=True)), 2),
        }
        calm = {kind: weights(*kinds[kind][:1], place / kind, kinds[kind][1]) for kind in kinds}
        for number in range(options.first, options.rounds):
            rng = random.Random(f"{options.seed}/{number}")
            fault = FAULTS[number % len(FAULTS)]
            kind = list(kinds)[number // len(FAULTS) % len(kinds)]
            folder = place / str(number)
            folder.mkdir()
            case = Case(kinds[kind][0], folder, kinds[kind][1], rng)
            row = {"round": number, "fault": fault.__name__, "run": kind}
            try:
                row["said"] = fault(case)
                finish(case)
                row["equal"] = (case.run / WEIGHTS).read_bytes() == calm[kind]
            except AssertionError as error:
                row |= {"equal": False, "fault": fault.__name__, "why": str(error)}
            failures += not row["equal"]
            counts[fault.__name__] += 1
            log.write(json.dumps(row) + "\n")
            log.flush()
            shutil.rmtree(folder, ignore_errors=True)
    minutes = rounded((time.monotonic() - began) / 60)
    rounds = options.rounds - options.first
    report("soak", rounds=rounds, failures=failures, faults=counts, minutes=minutes)
    sys.exit(failures > 0)


def rounded(value: float) -> float:
    return float(f"{value:.1f}")


if __name__ == "__main__":
    main()
