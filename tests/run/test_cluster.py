"""A real Ray cluster of two nodes does what one machine does, and does lost pieces again."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaledq.core.errors import DataError
from scaledq.core.protocol import SCALED_QL
from scaledq.data.sources.dqn_replay import DQNReplay
from scaledq.data.sources.replay_files import part
from scaledq.data.store import open_store
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.envs import make_fleet
from scaledq.play.score import read_scores
from scaledq.run import assemble
from scaledq.run.checkpoint import save_weights
from scaledq.run.cluster import spread
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import evaluate
from scaledq.run.folder import SCORES, WEIGHTS, Run, write_run
from scaledq.run.ingest import ingest

from .conftest import GAMES

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of a real Ray cluster on this machine, one processor each."""
    os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    assert sum(n["Alive"] for n in ray.nodes()) == 2
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_piece_whose_worker_is_lost_is_done_again_and_no_other(cluster, tmp_path: Path) -> None:
    def work(place: Path, dies: bool) -> bytes:
        with (place / "calls").open("a") as calls:
            calls.write(f"{place.name}\n")
        if dies and not (place / "died").exists():
            (place / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return place.name.encode()

    pieces = {}
    for name in ("steady", "fragile"):
        (tmp_path / name).mkdir()
        pieces[name] = (tmp_path / name, name == "fragile")
    assert dict(spread(work, pieces)) == {"steady": b"steady", "fragile": b"fragile"}
    calls = {name: (tmp_path / name / "calls").read_text().count(name) for name in pieces}
    assert calls == {"steady": 1, "fragile": 2}


def test_a_cluster_scores_what_this_machine_scores(cluster, tmp_path: Path) -> None:
    names = ("toy:chain", "toy:mirror")
    protocol = replace(SCALED_QL, name="toy", epsilon=0.2)
    fleet = make_fleet(names, 1, protocol)
    tasks = fleet.tasks
    fleet.close()
    neck = NeckConfig(embedding="none", width=8)
    cfg = RunConfig(tasks=names, encoder=MLPConfig(), neck=neck, protocol=protocol)
    run = Run(tmp_path / cfg.folder, cfg, tasks, {})
    write_run(run)
    save_weights(run.folder / WEIGHTS, assemble.network(cfg, tasks).state_dict(), {})
    here = [row for name in names for row in evaluate(run, tasks=(name,), episodes=6)]
    (run.folder / SCORES).unlink()
    there = evaluate(run, episodes=6, on="ray")

    def order(rows):
        return sorted(rows, key=lambda row: (row.task, row.episode))

    assert order(there) == order(here)
    assert len({row.score for row in here}) > 1
    assert order(read_scores(run.folder / SCORES)) == order(here)


def test_a_ray_cluster_writes_what_processes_write(source: Path, tmp_path: Path, cluster) -> None:
    ingest(DQNReplay(source=str(source)), tmp_path / "here", workers=2)
    summary = ingest(DQNReplay(source=str(source)), tmp_path / "ray", on="ray")
    here, there = open_store(tmp_path / "here"), open_store(tmp_path / "ray")
    assert here.tasks == there.tasks
    assert [here[t][0].digest for t in GAMES] == [there[t][0].digest for t in GAMES]
    assert len(summary.written) == len(GAMES)

    again = ingest(DQNReplay(source=str(source)), tmp_path / "ray", on="ray")
    assert (len(again.written), len(again.skipped)) == (0, len(GAMES))

    path = source / "Pong" / "1" / "replay_logs" / part("observation", 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"Pong.*observation_ckpt\.1\.gz"):
        ingest(DQNReplay(source=str(source)), tmp_path / "broken", on="ray")
    assert "Pong" not in open_store(tmp_path / "broken").tasks
