"""Problems whose answer is known: small maps with a bait nearby and a goal farther off.

Random play mostly ends at the bait, and cloning it does no better; the values learnt from the very
same log lead to the goal. From a log of short pieces they still do, although no piece goes from the
start to the goal, so that no return in it tells the way. Shapes: C cells, A actions, T rows.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from scaledq.core.config import config
from scaledq.core.errors import TaskError, suggest
from scaledq.core.protocol import Protocol
from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.play.envs import Clock, Steps, StickyActions, check_actions

MOVES = {"<": (0, -1), ">": (0, 1), "^": (-1, 0), "v": (1, 0), ".": (0, 0)}
ENDS = {"b": 0.2, "G": 1.0}
"""What entering the bait and the goal pays; both end the episode. Nothing else pays."""
SHADES = {"#": 60, ".": 20, "S": 20, "b": 110, "G": 180}
PLAYER = 255


@config
class Toy:
    """A map to walk on. Walls and edges stop a move."""

    name: str
    map: tuple[str, ...]
    """Rows of # wall, . floor, S start, b bait, G goal."""
    moves: str
    """What each action does: < > ^ v, or . for nothing at all (a distractor)."""
    discount: float = 0.9
    horizon: int = 30
    """Steps after which an episode is truncated."""

    @property
    def start(self) -> int:
        return "".join(self.map).index("S")


CHAIN = Toy(name="chain", map=("bS....G",), moves="<>.")
MIRROR = Toy(name="mirror", map=("bS....G",), moves="..>.<")
"""Looks like the chain, but its actions are others: only who knows the task can play both."""
MAZE = Toy(
    name="maze",
    map=(
        "S.b..",
        "..##.",
        "#.#G.",
        "..#.#",
        ".....",
    ),
    moves="<v.>^.",
    horizon=60,
)
TOYS = {toy.name: toy for toy in (CHAIN, MIRROR, MAZE)}


def parse(name: str) -> tuple[Toy, int]:
    """Reads `chain`, or `chain@84` for pictures of 84x84 pixels instead of 8x8.

    Raises:
      TaskError: no such toy (with a suggestion), or pictures too small for its map.
    """
    base, at, side = name.partition("@")
    if base not in TOYS:
        raise TaskError(f"unknown toy {base!r}; {suggest(base, TOYS)}")
    toy = TOYS[base]
    least = max(len(toy.map), len(toy.map[0]))
    if at and not (side.isdecimal() and int(side) >= least):
        raise TaskError(f"toy {name!r}: after the @ stands the pictures' side, at least {least}")
    return toy, int(side) if at else 8


@dataclass(frozen=True, slots=True)
class Table:
    """A toy as a deterministic Markov decision process."""

    next: Int[np.ndarray, "C A"]
    reward: Float[np.ndarray, "C A"]
    ends: Bool[np.ndarray, "C A"]


def table(toy: Toy) -> Table:
    """Where each action leads from each cell, what it pays, and whether that ends the episode."""
    height, width, cells = len(toy.map), len(toy.map[0]), "".join(toy.map)
    leads = np.zeros((len(cells), len(toy.moves)), np.int64)
    for cell in range(len(cells)):
        for action, move in enumerate(toy.moves):
            row, column = cell // width + MOVES[move][0], cell % width + MOVES[move][1]
            inside = 0 <= row < height and 0 <= column < width
            free = inside and toy.map[row][column] != "#"
            leads[cell, action] = row * width + column if free else cell
    reward = np.array([ENDS.get(cell, 0.0) for cell in cells])[leads]
    return Table(leads, reward, reward > 0)


def optimal_values(toy: Toy, discount: float | None = None) -> Float[np.ndarray, "C A"]:
    """Q* by value iteration; the toy's own discount if none is given. Truncation plays no part."""
    mdp, gamma = table(toy), toy.discount if discount is None else discount
    q = np.zeros(mdp.next.shape)
    for _ in range(10 * len(q)):  # deterministic: exact after as many rounds as the longest way
        q = mdp.reward + gamma * np.where(mdp.ends, 0, q.max(-1)[mdp.next])
    return q


def expected_score(toy: Toy, policy: Float[np.ndarray, "C A"]) -> float:
    """The exact mean score of an episode whose actions are drawn from policy[cell]."""
    mdp, score = table(toy), 0.0
    here = np.zeros(len(mdp.next))
    here[toy.start] = 1.0
    for _ in range(toy.horizon):
        flow = here[:, None] * policy
        score += float((flow * mdp.reward).sum())
        here = np.zeros(len(here))
        np.add.at(here, mdp.next, np.where(mdp.ends, 0, flow))
    return score


def pictures(toy: Toy, side: int) -> UInt8[np.ndarray, "C side side"]:
    """What is seen from each cell: the map from above and the player in it."""
    width = len(toy.map[0])
    size = side // max(len(toy.map), width)
    shades = np.array([SHADES[cell] for row in toy.map for cell in row], np.uint8)
    seen = np.tile(shades, (len(shades), 1))
    np.fill_diagonal(seen, PLAYER)
    blocks = seen.reshape(len(shades), -1, width).repeat(size, axis=1).repeat(size, axis=2)
    out = np.zeros((len(shades), side, side), np.uint8)
    out[:, : blocks.shape[1], : blocks.shape[2]] = blocks
    return out


def task(name: str) -> Task:
    """The task of `chain`, `maze@84`, ...; raises TaskError as `parse`."""
    toy, side = parse(name)
    return Task(name=f"toy:{name}", actions=len(toy.moves), frame_shape=(side, side))


class ToyEnvs:
    """Slots of a toy."""

    def __init__(self, name: str, slots: int, protocol: Protocol):
        toy, side = parse(name)
        self.task, self.slots = task(name), slots
        self._start, self._table, self._pictures = toy.start, table(toy), pictures(toy, side)
        self._cell = np.full(slots, toy.start)
        self._actions = np.zeros(slots, np.int64)
        self._clock = Clock(slots, min(protocol.step_cap, toy.horizon))
        self._sticky = StickyActions(slots, protocol.sticky)

    def reset(
        self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]
    ) -> UInt8[np.ndarray, "slots H W"]:
        self._clock.start(mask)
        self._sticky.start(mask, seeds)
        self._cell[mask] = self._start
        return self._pictures[self._cell]

    def send(self, actions: Int[np.ndarray, "slots"]) -> None:
        check_actions(self.task, actions, self.slots)
        self._actions = self._sticky.apply(actions)

    def recv(self) -> Steps:
        at = (self._cell, self._actions)
        self._cell = self._table.next[at]
        reward, over = self._table.reward[at].astype(np.float32), self._table.ends[at]
        return self._clock.tick(self._pictures[self._cell], reward, over)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A log as plain arrays: row t holds what was seen, done and paid, and whether that ended the
    episode; after each end a row with action -1 holds the closing picture."""

    frames: UInt8[np.ndarray, "T H W"]
    action: Int[np.ndarray, "T"]
    reward: Float[np.ndarray, "T"]
    terminated: Bool[np.ndarray, "T"]
    truncated: Bool[np.ndarray, "T"]
    cell: Int[np.ndarray, "T"]
    """Where the player was: what a table can be learnt from."""


def random_log(name: str, rows: int, *, seed: int, piece: int | None = None) -> Rows:
    """Uniformly random play: whole episodes until there are at least that many rows.

    Args:
      piece: begin each episode in a cell drawn at random and cut it after this many steps. With
        fewer than the way to the goal takes, no episode from the start is a good one.
    """
    toy, side = parse(name)
    mdp, rng, length = table(toy), stream(seed, "toy", name), piece or toy.horizon
    floor = [cell for cell, kind in enumerate("".join(toy.map)) if kind in ".S"]
    out: list[tuple[int, int, float, bool, bool]] = []
    while len(out) < rows:
        cell = int(rng.choice(floor)) if piece else toy.start
        for step, action in enumerate(rng.integers(len(toy.moves), size=length).tolist()):
            over = bool(mdp.ends[cell, action])
            last = step == length - 1
            out.append((cell, action, float(mdp.reward[cell, action]), over, last and not over))
            cell = int(mdp.next[cell, action])
            if over:
                break
        out.append((cell, -1, 0.0, False, False))
    cells, action, reward, terminated, truncated = map(np.array, zip(*out, strict=True))
    return Rows(
        pictures(toy, side)[cells],
        action.astype(np.int16),
        reward.astype(np.float32),
        terminated,
        truncated,
        cells,
    )
