"""Dynamic batching: the same answers as one by one, fewer passes, a queue with an end."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from scaledq.core.outputs import Outputs
from scaledq.play.policy import NetPolicy
from scaledq.run.batching import Batcher, BusyError


class Slow:
    """Values that name the row and its task; waits in its first pass until it is let go."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.passes: list[int] = []

    def __call__(self, obs: Tensor, task: Tensor) -> Outputs:
        assert self.gate.wait(10)
        self.passes.append(len(obs))
        if (obs == 255).any():
            raise RuntimeError("no such observation")
        return {"values": torch.stack([obs[:, 0, 0].float(), task.float()], dim=1)}


def batcher(net: Slow, *, max_batch: int = 64, max_queue: int = 1024) -> Batcher:
    policy = NetPolicy(net, lambda o: o["values"], ("a", "b"), stack=1)
    return Batcher(policy, max_batch=max_batch, max_queue=max_queue)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint8)[:, None, None]


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))  # pyright: ignore[reportArgumentType]


def test_what_waits_is_answered_together_and_each_gets_its_own() -> None:
    net = Slow()

    async def work() -> None:
        batch = batcher(net, max_batch=8)
        worker = asyncio.create_task(batch.work())
        first = asyncio.create_task(batch.values(rows(9), 0))
        await asyncio.sleep(0.05)  # its pass is under way
        others = [asyncio.create_task(batch.values(rows(i, 10 + i), i % 2)) for i in range(6)]
        await asyncio.sleep(0)
        assert batch.waiting == 12
        net.gate.set()
        assert (await first).tolist() == [[9, 0]]
        for i, answer in enumerate(await asyncio.gather(*others)):
            assert answer.tolist() == [[i, i % 2], [10 + i, i % 2]]
        assert net.passes == [1, 8, 4]
        assert batch.waiting == 0
        worker.cancel()

    run(work)


def test_a_full_queue_refuses_and_recovers() -> None:
    net = Slow()

    async def work() -> None:
        batch = batcher(net, max_batch=4, max_queue=4)
        worker = asyncio.create_task(batch.work())
        asked = [asyncio.create_task(batch.values(rows(0), 0))]
        await asyncio.sleep(0.05)
        asked += [asyncio.create_task(batch.values(rows(1, 2), 0)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="4 rows are waiting already"):
            await batch.values(rows(3), 0)
        net.gate.set()
        assert [len(answer) for answer in await asyncio.gather(*asked)] == [1, 2, 2]
        assert (await batch.values(rows(3), 1)).tolist() == [[3, 1]]
        worker.cancel()

    run(work)


def test_a_fault_reaches_those_it_concerns_and_work_goes_on() -> None:
    net = Slow()
    net.gate.set()

    async def work() -> None:
        batch = batcher(net)
        worker = asyncio.create_task(batch.work())
        with pytest.raises(RuntimeError, match="no such observation"):
            await batch.values(rows(255), 0)
        assert (await batch.values(rows(7), 0)).tolist() == [[7, 0]]
        worker.cancel()

    run(work)


def test_callers_who_left_are_not_computed() -> None:
    net = Slow()

    async def work() -> None:
        batch = batcher(net)
        worker = asyncio.create_task(batch.work())
        first = asyncio.create_task(batch.values(rows(1), 0))
        await asyncio.sleep(0.05)
        gone, stays = (asyncio.create_task(batch.values(rows(i), 0)) for i in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        net.gate.set()
        await asyncio.gather(first, stays)
        assert net.passes == [1, 1]
        worker.cancel()

    run(work)
