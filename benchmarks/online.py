"""DQN while it plays, everything recorded, beside the plain loop that the field uses; and PQN.

    python benchmarks/online.py              bars: 1.5 times the plain loop; PQN 400 steps/s
    python benchmarks/online.py --no-pqn     DQN alone
    python benchmarks/online.py --d3rlpy     beside d3rlpy, where it is installed, too

The plain loop follows the published algorithm as single-file implementations write it: one
environment (ALE's own, in C++), one action at a time, whole stacks in a NumPy buffer, one update of
32 transitions every 4 steps, nothing recorded. Both have the Nature network, Adam and Huber's loss,
and take the same number of steps and updates in this process, in turns, once both are under way.
`--no-learning` times both without their updates. d3rlpy's DQN is called as its users call it
(`fit_online`), with its ring of single frames and the same environment in C++.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from ale_py.vector_env import AtariVectorEnv
from torch import Tensor, nn

from scaledq.core import atari
from scaledq.data.ring import RingConfig
from scaledq.play.envs import make_fleet
from scaledq.run import assemble
from scaledq.run.assemble import device
from scaledq.run.collect import CollectConfig, collect, tapes
from scaledq.run.dqn import DQN
from scaledq.run.pqn import PQNConfig
from scaledq.run.replay import Replay
from scaledq.run.stage import Stage
from timing import alternate, median, report, seconds

GAME, SLOTS, REPEATS = "Breakout", 8, 5
WARMUP, STEPS, CAPACITY = 512, 512, 10_000
EVERY, BATCH, GAMMA, TARGET = 4, 32, 0.99, 2_000
LEARNING = 16_384
NEVER = 1_000_000


def environment() -> AtariVectorEnv:
    """One, as fast as there is."""
    return AtariVectorEnv(
        atari.parse(GAME)[0].rom,
        num_envs=1,
        repeat_action_probability=0.25,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=True,
    )


class Plain:
    """The loop of a single-file DQN."""

    def __init__(self, *, learn: bool) -> None:
        self.learn, self.device = learn, device()
        self.actions = atari.parse(GAME)[0].actions
        self.net, self.target = (network(self.actions).to(self.device) for _ in range(2))
        self.target.load_state_dict(self.net.state_dict())
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=6.25e-5, eps=1.5e-4)
        self.obs = np.zeros((CAPACITY, 4, 84, 84), np.uint8)
        self.next_obs = np.zeros((CAPACITY, 4, 84, 84), np.uint8)
        self.action = np.zeros(CAPACITY, np.int64)
        self.reward, self.done = np.zeros((2, CAPACITY), np.float32)
        self.rng, self.step = np.random.default_rng(0), 0
        self.envs = environment()
        self.now, _ = self.envs.reset(seed=0)
        self.run(WARMUP)

    def run(self, steps: int = STEPS) -> None:
        for step in range(self.step, self.step + steps):
            action = self.act(self.now, epsilon=0.01)
            later, reward, terminated, _, _ = self.envs.step(action)
            self.obs[step], self.next_obs[step] = self.now[0], later[0]
            self.action[step], self.reward[step] = action[0], reward[0]
            self.done[step] = terminated[0]
            self.now = later
            if self.learn and step >= WARMUP and step % EVERY == 0:
                self.update(self.rng.integers(step, size=BATCH))
                if step // EVERY % TARGET == 0:
                    self.target.load_state_dict(self.net.state_dict())
        self.step += steps

    def act(self, obs: np.ndarray, *, epsilon: float) -> np.ndarray:
        if self.rng.random() < epsilon:
            return self.rng.integers(self.actions, size=1)
        with torch.no_grad():
            return self.net(self.pictures(obs)).argmax(1).cpu().numpy()

    def update(self, rows: np.ndarray) -> None:
        reward, done = (torch.from_numpy(c[rows]).to(self.device) for c in (self.reward, self.done))
        action = torch.from_numpy(self.action[rows]).to(self.device)
        with torch.no_grad():
            ahead = self.target(self.pictures(self.next_obs[rows])).amax(1)
            target = reward + GAMMA * ahead * (1 - done)
        q = self.net(self.pictures(self.obs[rows])).gather(1, action[:, None]).squeeze(1)
        loss = F.huber_loss(q, target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def pictures(self, obs: np.ndarray) -> Tensor:
        return torch.from_numpy(obs).to(self.device).float() / 255


def network(actions: int) -> nn.Module:
    """The Nature network."""
    return nn.Sequential(
        nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(),
        nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, actions),
    )  # fmt: skip


class Single(gymnasium.Env):
    """One environment of a vector of one."""

    def __init__(self) -> None:
        self.envs = environment()
        self.observation_space = self.envs.single_observation_space
        self.action_space = self.envs.single_action_space

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        return self.envs.reset(seed=0)[0][0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        seen, reward, terminated, truncated, _ = self.envs.step(np.array([action]))
        return seen[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}


class D3rlpy:
    """Its online loop; raises ImportError where it is not installed."""

    def __init__(self) -> None:
        from d3rlpy import algos, dataset, preprocessing  # pyright: ignore[reportMissingImports]

        self.env = Single()
        self.buffer = dataset.create_fifo_replay_buffer(
            CAPACITY,
            env=self.env,
            transition_picker=dataset.FrameStackTransitionPicker(n_frames=4),
            writer_preprocessor=dataset.LastFrameWriterPreprocess(),
        )
        self.dqn = algos.DQNConfig(
            batch_size=BATCH,
            learning_rate=6.25e-5,
            target_update_interval=TARGET,
            observation_scaler=preprocessing.PixelObservationScaler(),
        ).create(device="cuda:0" if device() == "cuda" else False)
        self.explorer = algos.ConstantEpsilonGreedy(0.01)
        self.run(WARMUP, first=NEVER)

    def run(self, steps: int = STEPS, *, first: int = 0) -> None:
        from d3rlpy.logging import NoopAdapterFactory  # pyright: ignore[reportMissingImports]

        self.dqn.fit_online(
            self.env,
            self.buffer,
            self.explorer,
            n_steps=steps,
            n_steps_per_epoch=NEVER,
            update_interval=EVERY,
            update_start_step=first,
            show_progress=False,
            logger_adapter=NoopAdapterFactory(),
        )


class Ours:
    """The same steps and updates, recorded."""

    def __init__(self, store: Path, *, learn: bool) -> None:
        replay = Replay(
            ring=RingConfig(capacity=CAPACITY),
            warmup=WARMUP,
            train_every=EVERY if learn else NEVER,
            epsilon=0.01,
            explore=0.0,
        )
        who = replace(DQN, replay=replay, log_every=NEVER, checkpoint_every=NEVER)
        cfg = CollectConfig(tasks=(GAME,), steps=NEVER, slots=SLOTS, behaviour=who)
        self.fleet = make_fleet(cfg.tasks, SLOTS, cfg.protocol, stack=who.stack)
        logs = tapes(cfg, self.fleet.row_tasks, store, None)
        self.stage = Stage(self.fleet, logs, steps=cfg.steps, seed=0)
        rows = self.fleet.task_index
        self.agent = assemble.dqn(who, self.fleet.tasks, rows, seed=0, steps=cfg.steps)
        self.stage.begin()
        self.agent.begin(self.stage)
        self.run(WARMUP)

    def run(self, steps: int = STEPS) -> None:
        stop = self.stage.recorded + steps
        while self.stage.recorded < stop:
            self.agent.round(self.stage)

    def close(self) -> None:
        self.stage.recorder.close()
        self.fleet.close()


def main() -> None:
    learn = "--no-learning" not in sys.argv
    with tempfile.TemporaryDirectory(prefix="scaledq-") as folder:
        ours, plain = Ours(Path(folder) / "dqn", learn=learn), Plain(learn=learn)
        others = [D3rlpy()] if learn and "--d3rlpy" in sys.argv else []
        loops = (ours.run, plain.run, *(other.run for other in others))
        mine, theirs, *rest = (median(t) for t in alternate(*loops, repeats=REPEATS))
        ours.close()
        cfg = CollectConfig(tasks=(GAME,), steps=LEARNING, slots=16, behaviour=PQNConfig())
        store = Path(folder) / "pqn"
        pqn = seconds(lambda: collect(cfg, store)) if "--no-pqn" not in sys.argv else np.nan
    report(
        "online",
        device=device(),
        threads=torch.get_num_threads(),
        learning=learn,
        dqn_to_plain=round(theirs / mine, 2),
        dqn_steps_per_s=round(STEPS / mine),
        plain_steps_per_s=round(STEPS / theirs),
        dqn_to_d3rlpy=round(rest[0] / mine, 2) if rest else None,
        d3rlpy_steps_per_s=round(STEPS / rest[0]) if rest else None,
        pqn_steps_per_s=round(LEARNING / pqn) if pqn == pqn else None,
    )


if __name__ == "__main__":
    main()
