"""Our emulators against ALE's own vector environment, and the mean that pictures are made with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ale_py import roms
from ale_py.vector_env import AtariVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledq.core import atari
from scaledq.core.errors import TaskError
from scaledq.core.protocol import Protocol
from scaledq.play.emulator import Emulator, Setup, shrink
from scaledq.play.envs import make

CAP = 120
PROTOCOL = Protocol(name="short", sticky=0.25, step_cap=CAP)
SLOTS = 3


def vector(game: str, *, stack: int = 1, sticky: float = 0.25) -> AtariVectorEnv:
    """ALE's own, which counts its cap in frames and so far off that it never ends an episode."""
    return AtariVectorEnv(
        atari.parse(game)[0].rom,
        SLOTS,
        num_threads=1,
        max_num_frames_per_episode=100 * 4 * CAP,
        repeat_action_probability=sticky,
        stack_num=stack,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
    )


def setup(game: str) -> Setup:
    rom = roms.get_rom_path(atari.parse(game)[0].rom)
    return Setup(
        game=game, rom=str(rom), mode=None, difficulty=None, sticky=0.25, frame_skip=4, noop_max=0
    )


# Air Raid and Carnival have taller screens; Double Dunk draws numbers before its start; the names
# with a variant choose the default one by hand.
@pytest.mark.parametrize(
    ("game", "steps"),
    [
        ("Breakout", 250),
        ("Seaquest", 130),
        ("AirRaid", 20),
        ("Carnival", 20),
        ("DoubleDunk", 30),
        ("Freeway:m0d0", 130),
        ("Breakout:m0d0", 130),
    ],
)
def test_frames_rewards_and_ends_are_those_of_ales_own_vector_environment(
    game: str, steps: int
) -> None:
    ours, theirs = make(game, SLOTS, PROTOCOL, threads=1), vector(game)
    rng = np.random.default_rng(0)
    seeds, mask = rng.integers(2**31, size=SLOTS), np.ones(SLOTS, bool)
    first, _ = theirs.reset(seed=seeds)
    np.testing.assert_array_equal(ours.reset(mask, seeds), first[:, 0])
    age = np.zeros(SLOTS, int)
    for _ in range(steps):
        actions = rng.integers(ours.task.actions, size=SLOTS)
        ours.send(actions)
        got = ours.recv()
        frames, reward, terminated, _, _ = theirs.step(actions)
        age += 1
        np.testing.assert_array_equal(got.frames, frames[:, 0])
        np.testing.assert_array_equal(got.reward, reward)
        np.testing.assert_array_equal(got.terminated, terminated)
        np.testing.assert_array_equal(got.truncated, (age == CAP) & ~terminated)
        if got.ended.any():
            seeds = rng.integers(2**31, size=got.ended.sum())
            age[got.ended] = 0
            start, _ = theirs.reset(seed=seeds, options={"reset_mask": got.ended})
            np.testing.assert_array_equal(
                ours.reset(got.ended, seeds)[got.ended], start[got.ended, 0]
            )
    ours.close()


@pytest.mark.parametrize("game", ["Breakout", "MsPacman"])
def test_a_written_seed_starts_the_episode_that_loading_the_rom_starts(game: str) -> None:
    written, loaded = Emulator(setup(game)), Emulator(setup(game))
    assert written._start is not None
    loaded._start = None
    for seed in (0, 1, 2**31 - 1):
        np.testing.assert_array_equal(written.reset(seed), loaded.reset(seed))
        states = [e.ale.cloneState(include_rng=True).serialize() for e in (written, loaded)]
        assert states[0] == states[1]
        for action in (1, 0, 2, 3) * 4:  # leaves both in the middle of an episode
            (frame, *rest), (other, *others) = written.step(action), loaded.step(action)
            np.testing.assert_array_equal(frame, other)
            assert rest == others


def test_a_game_whose_start_draws_numbers_loads_its_rom_for_every_episode() -> None:
    assert Emulator(setup("DoubleDunk"))._start is None


def test_modes_and_difficulties_change_the_game() -> None:
    plain, other = (
        Emulator(replace(setup("Breakout"), mode=mode, difficulty=0, sticky=0.0))
        for mode in (0, 12)
    )
    seen = [[e.reset(3), *(e.step(a)[0] for a in (1, 1, 2, 2, 3) * 6)] for e in (plain, other)]
    assert not np.array_equal(seen[0], seen[1])


def test_a_variant_that_a_game_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(TaskError, match=r"no variant m3d0; it has modes 0, 4, .* and diff.* 0, 1"):
        make("Breakout:m3d0", 1, PROTOCOL, threads=1)
    with pytest.raises(TaskError, match="no variant m0d1"):  # said by another process
        make("MsPacman:m0d1", 2, PROTOCOL, threads=2)


def test_no_op_starts_are_named_by_the_seed_and_at_most_as_long_as_asked() -> None:
    many = Emulator(replace(setup("Breakout"), noop_max=7))
    lengths = []
    for seed in range(40):
        many.reset(seed)
        lengths.append(many.ale.getEpisodeFrameNumber())
    assert set(lengths) == set(range(8))
    many.reset(5)
    assert many.ale.getEpisodeFrameNumber() == lengths[5]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), height=st.sampled_from([210, 214, 250]))
def test_shrinking_takes_the_mean_under_each_cell(seed: int, height: int) -> None:
    screen = np.random.default_rng(seed).integers(256, size=(height, 160)).astype(np.uint8)
    down, across = (np.eye(n).repeat(84, 0).reshape(84, n, n).mean(1) for n in screen.shape)
    mean = down @ screen @ across.T
    assert np.abs(shrink(screen) - mean).max() <= 0.5 + 1e-4


def test_a_missing_rom_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(TaskError, match="Breakout: its ROM is missing or damaged"):
        make("Breakout", 1, PROTOCOL, threads=1)
    (tmp_path / "breakout.bin").write_bytes(b"not a game")
    with pytest.raises(TaskError, match="Breakout: its ROM is missing or damaged"):
        make("Breakout", 1, PROTOCOL, threads=1)
