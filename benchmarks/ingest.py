"""How fast, and in how much memory, DQN-Replay's files become a log.

Real frames (random play of an Atari game) laid down as Dopamine does; each ingest runs in a process
of its own, whose processor time and peak memory are what counts. The peak is taken for a file of
some size and for one eight times as large: it must not grow with the file.

    python benchmarks/ingest.py [--rows 40000] [--game Seaquest]
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scaledq.core import atari
from scaledq.data.sources.dqn_replay import DQNReplay
from scaledq.data.sources.synthetic import Episode, Layout, write_dqn_replay
from scaledq.data.store import open_store

FRAMES_A_SECOND = 12_000
PEAK_BYTES = 1_500_000_000


def play(game: str, rows: int) -> Iterator[Episode]:
    """Episodes of random play with every frame as the emulator shows it."""
    from ale_py.vector_env import AtariVectorEnv

    env = AtariVectorEnv(atari.games()[game].rom, 1, stack_num=1, repeat_action_probability=0.25)
    rng = np.random.default_rng(0)
    frame, _ = env.reset(seed=0)
    frames, actions, rewards, taken = [], [], [], 0
    while taken < rows:
        action = rng.integers(0, atari.games()[game].actions, 1)
        frames.append(frame[0, 0].copy())
        actions.append(action[0])
        frame, reward, terminated, truncated, _ = env.step(action)
        rewards.append(np.sign(reward[0]))
        taken += 1
        if terminated[0] or truncated[0] or taken == rows:
            columns = np.array(actions, np.int32), np.array(rewards, np.float32)
            yield Episode(np.stack(frames), *columns)
            frames, actions, rewards = [], [], []
            frame, _ = env.reset(seed=taken)
    env.close()


def work(source: str, store: str) -> None:
    """One ingest; prints what it took."""
    piece = DQNReplay(source=source).pieces()[0]
    before, start = time.process_time(), time.perf_counter()
    rows = piece.write(store, lambda rows: None).counts.rows
    result = {
        "rows": rows,
        "cpu_seconds": time.process_time() - before,
        "seconds": time.perf_counter() - start,
        "peak_bytes": peak(),
    }
    print(json.dumps(result))


def peak() -> int:
    """Bytes resident at most since this program started; getrusage would count its parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def measure(root: Path, game: str, rows: int, files: int) -> dict[str, float]:
    source, store = root / f"dqn{rows}", root / f"store{rows}"
    folder = source / game / "1" / "replay_logs"
    write_dqn_replay(folder, play(game, rows * files), Layout(capacity=rows, final=False))
    command = [sys.executable, __file__, "--work", str(source), str(store)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    (log,) = open_store(store)[game]
    size = sum(p.stat().st_size for p in Path(log.path).rglob("*") if p.is_file())
    return json.loads(out) | {"bytes_a_frame": size / len(log)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--game", default="Seaquest")
    parser.add_argument("--work", nargs=2)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
        return
    with tempfile.TemporaryDirectory() as folder:
        small = measure(Path(folder), args.game, args.rows // 8, 1)
        large = measure(Path(folder), args.game, args.rows, 1)
    speed = large["rows"] / large["cpu_seconds"]
    report = {
        "benchmark": "ingest dqn-replay",
        "game": args.game,
        "rows": large["rows"],
        "frames_a_second_a_core": round(speed),
        "frames_a_second": round(large["rows"] / large["seconds"]),
        "bytes_a_frame": round(large["bytes_a_frame"], 1),
        "peak_megabytes": round(large["peak_bytes"] / 1e6),
        "peak_megabytes_of_an_eighth": round(small["peak_bytes"] / 1e6),
        "bars": {"frames_a_second_a_core": FRAMES_A_SECOND, "peak_megabytes": PEAK_BYTES // 10**6},
        "reached": speed >= FRAMES_A_SECOND and large["peak_bytes"] <= PEAK_BYTES,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
