"""How many callers share one network: what arrives while it works is answered by its next pass.

Nobody waits for company: a lone request is computed at once. Shapes: R rows, S stack, A actions.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from scaledq.core.errors import ScaledQError
from scaledq.play.policy import NetPolicy

Values = Float[np.ndarray, "R A"]


class BusyError(ScaledQError):
    """More rows are waiting than the queue holds; come again a little later."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One caller's rows of one task, and where the answer goes."""

    obs: Shaped[np.ndarray, "R S *frame"]
    head: int
    answer: "asyncio.Future[Values]"


class Batcher:
    """Answers callers of one event loop, in the order they came, from a thread of its own.

    Args:
      max_batch: rows of one forward pass; a single request with more is a pass by itself.
      max_queue: rows that may wait; beyond it, callers are refused.
      told: is told the rows of every pass.
    """

    def __init__(
        self,
        policy: NetPolicy,
        *,
        max_batch: int = 64,
        max_queue: int = 1024,
        told: Callable[[int], object] = lambda rows: None,
    ):
        self.policy, self.max_batch, self.max_queue = policy, max_batch, max_queue
        self.waiting = 0
        """Rows in the queue, without those that are being computed."""
        self.told = told
        self._queue: deque[Ask] = deque()
        self._some = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")

    async def values(self, obs: Shaped[np.ndarray, "R S *frame"], head: int) -> Values:
        """Preferences for every action.

        Raises:
          BusyError: the queue is full.
        """
        if self.waiting and self.waiting + len(obs) > self.max_queue:
            raise BusyError(f"{self.waiting} rows are waiting already; come again a little later")
        ask = Ask(obs, head, asyncio.get_running_loop().create_future())
        self._queue.append(ask)
        self.waiting += len(obs)
        self._some.set()
        return await ask.answer

    async def work(self) -> None:
        """Answers until it is cancelled; run it as a task of the callers' loop."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._some.wait()
                asks = self._take()
                if not asks:
                    continue
                obs = np.concatenate([ask.obs for ask in asks])
                heads = np.repeat([ask.head for ask in asks], [len(ask.obs) for ask in asks])
                self.told(len(obs))
                try:
                    values = await loop.run_in_executor(
                        self._thread, self.policy.values, obs, heads
                    )
                except Exception as fault:
                    for ask in asks:
                        if not ask.answer.done():
                            ask.answer.set_exception(fault)
                    continue
                _hand_out(asks, values)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _take(self) -> list[Ask]:
        """The oldest requests that fit into one pass; those whose caller has left are dropped."""
        asks: list[Ask] = []
        rows = 0
        while self._queue:
            ask = self._queue[0]
            if asks and rows + len(ask.obs) > self.max_batch:
                break
            self._queue.popleft()
            self.waiting -= len(ask.obs)
            if not ask.answer.done():
                asks.append(ask)
                rows += len(ask.obs)
        if not self._queue:
            self._some.clear()
        return asks


def _hand_out(asks: list[Ask], values: Values) -> None:
    first = 0
    for ask in asks:
        last = first + len(ask.obs)
        if not ask.answer.done():
            ask.answer.set_result(values[first:last])
        first = last
