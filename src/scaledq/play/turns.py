"""Fleets that take turns: how many tasks' slots are dealt to them, on processes that they share."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from scaledq.core.protocol import Protocol
from scaledq.play.envs import Fleet, crew_of, open_all

TURN = 32
"""Rows of a fleet that takes turns: fewer cost a network more a row, more leave its cache."""


def make_turns(
    names: Sequence[str], slots: int, protocol: Protocol, *, stack: int = 4, threads: int = 0
) -> list[Fleet]:
    """As `make_fleet`, in fleets that take turns: what is asked of one first must be received
    first, and its emulators may work while another's actions are chosen.

    Each has about `TURN` rows, so that networks find them in the cache, and whole tasks, unless
    there is only one. Without processes that emulate there is nothing to gain, and one fleet.
    """
    crew = crew_of(names, slots, threads)
    if crew is None:
        plan = [[(name, slots) for name in names]]
    elif len(names) == 1:
        plan = [[(names[0], part)] for part in (slots - slots // 2, slots // 2)]
    else:
        turns = max(2, len(names) * slots // TURN)
        edges = np.linspace(0, len(names), min(turns, len(names)) + 1).astype(int)
        plan = [[(name, slots) for name in names[a:b]] for a, b in pairwise(edges)]
    envs = iter(open_all([part for turn in plan for part in turn], protocol, crew=crew))
    fleets: list[Fleet] = []
    for turn in plan:
        first = fleets[0].rows if fleets and len(names) == 1 else 0
        fleets.append(Fleet([next(envs) for _ in turn], stack=stack, first=first))
    return fleets
