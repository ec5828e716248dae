"""Tasks, games, protocols, seeds, files and the journal."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scaledq.core import atari, journal
from scaledq.core.batch import Batch
from scaledq.core.errors import ConfigError, RunError, TaskError, suggest
from scaledq.core.files import locked, write_atomic
from scaledq.core.protocol import DQN_REPLAY, SCALED_QL, Protocol, preset
from scaledq.core.seeds import episode_seed, stream
from scaledq.core.task import Task


def test_action_counts_are_those_of_ale() -> None:
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    for game in atari.games().values():
        path = roms.get_rom_path(game.rom)
        assert path is not None, game.rom
        ale = ALEInterface()
        ale.loadROM(path)
        assert len(ale.getMinimalActionSet()) == game.actions, game.name


@pytest.mark.parametrize(
    ("name", "says"),
    [("breakout", "did you mean Breakout"), ("Pnog", "Pong"), ("Pong:m1", "m<mode>d<difficulty>")],
)
def test_an_unknown_game_comes_with_a_suggestion(name: str, says: str) -> None:
    with pytest.raises(TaskError, match=says):
        atari.task(name)


def test_variants_are_read() -> None:
    game, mode, difficulty = atari.parse("Freeway:m1d0")
    assert (game.rom, mode, difficulty) == ("freeway", 1, 0)
    assert atari.task("MsPacman").actions == 9
    assert atari.games()["MsPacman"].rom == "ms_pacman"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "a\0"])
def test_a_task_that_is_no_folder_name_is_refused(name: str) -> None:
    with pytest.raises(TaskError):
        Task(name=name, actions=3)


def test_protocols_by_name() -> None:
    assert preset("scaled-ql") == SCALED_QL
    assert DQN_REPLAY.sticky == 0.25
    with pytest.raises(ConfigError, match="did you mean scaled-ql"):
        preset("scaled_ql")
    with pytest.raises(ConfigError, match="epsilon"):
        Protocol(name="x", epsilon=1.5)


def test_suggestions_ignore_case_and_list_short_choices() -> None:
    assert suggest("PONG", ["Pong", "Breakout"]) == "did you mean Pong?"
    assert suggest("zzz", ["b", "a"]) == "known: a, b"


def test_streams_and_seeds_are_frozen() -> None:
    """Recorded logs regenerate from these seeds: renew only with a new log format."""
    assert (
        episode_seed(1, "Pong", 2, 3)
        == episode_seed(1, "Pong", 2, 3)
        != episode_seed(1, "Pong", 3, 2)
    )
    assert [episode_seed(0, "Pong", 0, k) for k in range(2)] == [1837396818, 1941339220]
    assert stream(0, "x", 5).integers(1000, size=3).tolist() == [128, 868, 724]


def test_next_obs_lies_as_many_steps_on_as_the_transition_took() -> None:
    frames = torch.arange(2 * 7, dtype=torch.uint8).reshape(2, 7, 1)
    zero = torch.zeros(2)
    batch = Batch(
        frames=frames,
        task=zero.long(),
        action=zero.long(),
        reward=zero,
        step_reward=zero,
        discount=zero,
        steps=torch.tensor([3, 1]),
    )
    assert batch.obs[..., 0].tolist() == [[0, 1, 2, 3], [7, 8, 9, 10]]
    assert batch.next_obs[..., 0].tolist() == [[3, 4, 5, 6], [8, 9, 10, 11]]


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "a.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a.json", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.json", "old")]


def test_a_folder_has_one_writer_and_is_free_when_its_process_is_gone(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from scaledq.core.files import locked
with locked(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)
    assert other.stdout
    assert other.stdin
    with other:
        other.stdout.readline()
        with pytest.raises(RunError, match="in use"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        pass


def test_a_journal_survives_a_cut_line_and_names_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    book = journal.Journal(path)
    for step in range(3):
        book.write({"step": step})
    book.close()
    with path.open("a") as file:
        file.write('{"step": ')
    assert [row["step"] for row in journal.read(path)] == [0, 1, 2]
    journal.retain(path, lambda row: row["step"] < 2)
    assert [row["step"] for row in journal.read(path)] == [0, 1]
    path.write_text('{"step": 0}\nnonsense\n{"step": 1}\n')
    with pytest.raises(RunError, match="line 2"):
        list(journal.read(path))
    path.write_text('{"step": 0}\n[1]\n')
    with pytest.raises(RunError, match="line 2 is no JSON object"):
        list(journal.read(path))
    path.write_bytes(b'{"step": 0}\n\xff\n')
    with pytest.raises(RunError, match="byte 12 is no text"):
        list(journal.read(path))


def test_a_negative_seed_is_refused() -> None:
    for draw in (lambda: stream(-1, "x"), lambda: episode_seed(-1, "Pong", 0, 0)):
        with pytest.raises(ConfigError, match="seed: need 0 or more, got -1"):
            draw()


def test_arrays_of_seeds_differ() -> None:
    seeds = {episode_seed(0, t, s, e) for t in ("a", "b") for s in range(5) for e in range(50)}
    assert len(seeds) == 500
    assert np.all([0 <= s < 2**31 for s in seeds])
