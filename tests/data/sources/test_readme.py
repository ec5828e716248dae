"""README's start from each kind of copy, command by command, on small copies of each kind."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import unplugged
from test_arrays import table, write_parquet
from test_minari import SPACES
from test_minari import write as write_minari

from scaledq.cli import main
from scaledq.core.protocol import Protocol
from scaledq.data.inspect import verify
from scaledq.data.sources.synthetic import toy_episodes, write_dqn_replay
from scaledq.data.store import open_store
from scaledq.run.collect import CollectConfig, collect

README = Path(__file__).parents[3] / "README.md"


def commands() -> list[list[str]]:
    section = README.read_text().partition("## Start from the copy you have")[2]
    (block,) = re.findall(r"```\w*\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    return [shlex.split(line) for line in block.splitlines() if line.startswith("scaledq ")]


def lay(root: Path) -> None:
    """A copy of every kind, where README has it."""
    rng = np.random.default_rng(0)
    episodes = toy_episodes(rng, lengths=[40] * 6, actions=4)
    write_dqn_replay(root / "dqn-replay" / "Breakout" / "1" / "replay_logs", episodes)
    shard = [unplugged.episode(rng, number, 9) for number in range(3)]
    unplugged.write_shard(root / "rl-unplugged" / "Breakout" / "run_1-00000-of-00001", shard)
    write_minari(root / "datasets", SPACES["vector"])
    write_parquet(root / "shop" / "part-0.parquet", table())
    short = Protocol(name="short", step_cap=20)
    cfg = CollectConfig(tasks=("Freeway",), steps=40, slots=1, protocol=short)
    collect(cfg, root / "recorded")


@pytest.mark.filterwarnings("ignore")  # of the libraries that wrote the copies
def test_every_kind_of_copy_becomes_a_whole_store_as_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path)
    monkeypatch.chdir(tmp_path)
    asked = commands()
    kinds = {command[2] for command in asked if command[1] == "ingest"}
    assert kinds == {"dqn-replay", "rl-unplugged", "minari", "arrays", "action-log"}
    for command in asked:
        main(command[1:])
    tasks = {"store": 1, "raw": 1, "others": 2, "regenerated": 1}
    for name, count in tasks.items():
        store = open_store(name)
        assert len(store.tasks) == count, name
        assert not list(verify(store)), name
        assert (tmp_path / name / "index.json").exists(), name
    recorded, again = open_store("recorded")["Freeway"][0], open_store("regenerated")["Freeway"][0]
    assert again.digest == recorded.digest
