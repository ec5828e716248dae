"""The joystick's tokens against the emulator; tasks that are no games have tokens of their own."""

import pytest

from scaledq.core import atari
from scaledq.core.task import Task
from scaledq.core.vocabulary import vocabulary


@pytest.mark.parametrize("name", ["Pong", "Breakout", "Seaquest", "KungFuMaster"])
def test_the_joystick_is_the_emulators(name: str) -> None:
    from scaledq.core.protocol import QUICK
    from scaledq.play.atari import setup
    from scaledq.play.emulator import Emulator

    actions = Emulator(setup(name, QUICK)).actions
    assert atari.games()[name].joystick == tuple(int(action.value) for action in actions)


def test_every_game_has_as_many_tokens_as_actions_each_once_and_can_do_nothing() -> None:
    for game in atari.games().values():
        assert len(set(game.joystick)) == game.actions, game.name
        assert set(game.joystick) <= set(range(18)), game.name
        assert 0 in game.joystick, game.name


def test_games_share_tokens_and_other_tasks_do_not() -> None:
    shop = Task(name="shop", actions=30, frame_shape=(7,))
    other = Task(name="Pong", actions=3)  # somebody's own, though it is called like a game
    words = vocabulary((atari.task("Pong"), shop, atari.task("Freeway:m1d0"), other))
    assert words.tokens[0] == (0, 1, 3, 4, 11, 12)
    assert words.tokens[2] == (0, 2, 5)
    assert words.tokens[1] == tuple(range(18, 48))
    assert words.tokens[3] == (48, 49, 50)
    assert words.size == 51


def test_without_a_game_there_is_no_joystick() -> None:
    words = vocabulary((Task(name="a", actions=2), Task(name="b", actions=3)))
    assert (words.tokens, words.size) == (((0, 1), (2, 3, 4)), 5)
