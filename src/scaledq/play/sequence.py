"""How a sequence model acts: it remembers what it saw, did and was paid, and hopes for a return.

A decision transformer is asked for the return that is to come; the answer is bent towards expert
play and drawn from, and the action is chosen knowing it (Lee et al., 2022, section 3.4). Shapes: R
rows, r of them, T steps, A actions, Z returns.
"""

from collections.abc import Callable, Sequence
from typing import Protocol as Interface

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from scaledq.core.errors import ConfigError, TaskError
from scaledq.play.envs import Steps
from scaledq.play.policy import Appraisal, Obs, Rows, Selection, Uniform, choose, index

SAMPLES, TEMPERATURE, PERCENTILE = 128, 0.75, 50.0
"""Of the released notebook: the best of so many returns drawn from logits times 0.75, and an action
among those above the median."""


Few = Int[np.ndarray, "r"]


class Decoding(Interface):
    """A transformer that acts step by step: see `nets/decoder.py`."""

    @property
    def device(self) -> torch.device: ...

    def begin(
        self,
        rows: Tensor,
        frames: Tensor,
        task: Tensor,
        action: Tensor,
        reward: Tensor,
        *,
        steps: Tensor,
        choose: Callable[[Tensor], Tensor],
    ) -> Tensor: ...

    def extend(
        self,
        rows: Tensor,
        frame: Tensor,
        task: Tensor,
        action: Tensor,
        reward: Tensor,
        *,
        steps: Tensor,
    ) -> Tensor: ...


def expert_return(
    logits: Float[np.ndarray, "r Z"], uniform: Uniform, *, kappa: float
) -> Int[np.ndarray, "r"]:
    """Draws a class from log P(R) + kappa * (R - R_low) / (R_high - R_low), section 3.4."""
    place = np.linspace(0.0, 1.0, logits.shape[1])
    return choose(logits + kappa * place, uniform, selection="sampled")


def best_return(
    logits: Float[np.ndarray, "r Z"],
    uniform: Uniform,
    *,
    samples: int = SAMPLES,
    temperature: float = TEMPERATURE,
) -> Int[np.ndarray, "r"]:
    """The highest of `samples` classes drawn from softmax(temperature * logits), in one draw: all
    of them are at most R with the probability that one is, to the power of their number."""
    return choose(temperature * logits, uniform ** (1 / samples), selection="sampled")


def upper(logits: Float[np.ndarray, "r A"], *, percentile: float) -> Float[np.ndarray, "r A"]:
    """-inf where a logit is not above the percentile of its row's own (finite) actions."""
    own = np.where(np.isfinite(logits), logits, np.nan)
    least = np.nanpercentile(own, percentile, axis=-1, keepdims=True)
    single = np.isfinite(logits).sum(-1, keepdims=True) == 1
    return np.where((logits > least) | (single & np.isfinite(logits)), logits, -np.inf)


class SequencePolicy:
    """A transformer at play in R rows.

    A row's window grows from its episode's start to T steps. A full window gives way to one of its
    last `keep` steps and the new one, whose return is asked anew; in between, only what is new is
    computed. Lee et al. keep T - 1: every step has the longest context and reads it anew.

    Args:
      decoder: makes what decodes for a number of rows.
      kappa: see `expert_return`; None for a model without returns.
      context: T.
      selection: `greedy` and `sampled` as in NetPolicy, on the expert's return; `notebook` is the
        released code's rule for both.
      keep: 0 to T - 1; T - 1 by default.

    Raises:
      ConfigError: a `keep` that T does not allow.
    """

    def __init__(
        self,
        decoder: Callable[[int], Decoding],
        tasks: Sequence[str],
        *,
        context: int,
        kappa: float | None,
        selection: Selection = "sampled",
        keep: int | None = None,
    ):
        self.tasks, self.context, self.stack = tuple(tasks), context, context
        self.kappa = kappa
        self.selection: Selection = selection
        self.keep = context - 1 if keep is None else keep
        if not 0 <= self.keep < context:
            raise ConfigError(
                f"keep: a context of {context} steps keeps 0 to {context - 1} of its "
                f"last, got {keep}"
            )
        self._decoder = decoder
        self.start(0)

    def start(self, rows: int) -> None:
        """Forgets everything; episodes begin in so many rows."""
        self._decoding = self._decoder(rows)
        self._steps = np.ones(rows, np.int64)
        self._held = np.zeros(rows, np.int64)
        self._actions = np.zeros((rows, self.context), np.int64)
        self._rewards = np.ones((rows, self.context), np.int64)

    def note(self, actions: Rows, steps: Steps) -> None:
        """Takes in what was really done in each row, and what it led to."""
        for history, new in ((self._actions, actions), (self._rewards, _sign(steps.reward))):
            history[:, :-1] = history[:, 1:]
            history[:, -2:-1] = new[:, None]
        full = self._steps == self.context
        anew = np.where(steps.ended, 1, self.keep + 1)
        self._held = np.where(steps.ended | full, 0, self._steps)
        self._steps = np.where(steps.ended | full, anew, self._steps + 1)

    def act(self, obs: Obs, task: Rows, uniform: Uniform) -> Rows:
        return self.appraise(obs, task, uniform).actions

    def appraise(self, obs: Obs, task: Rows, uniform: Uniform) -> Appraisal:
        """The actions, and the probability of each one that a row's task has."""
        if len(obs) != len(self._steps):
            raise TaskError(
                f"this policy remembers {len(self._steps)} rows, got {len(obs)}; "
                "call start(rows) where play begins, and note(actions, steps) after each step"
            )
        logits = self._logits(obs, task, uniform)
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        return Appraisal(shifted / shifted.sum(-1, keepdims=True), self._choose(logits, uniform))

    def __call__(
        self,
        obs: Obs,
        task: str | None = None,
        *,
        actions: Int[np.ndarray, "R t"] | None = None,
        rewards: Float[np.ndarray, "R t"] | None = None,
        rng: np.random.Generator | None = None,
    ) -> Rows:
        """Actions for windows of one task, which may be left out if there is only one.

        Args:
          obs: the last t + 1 observations of each episode, t + 1 at most T.
          actions, rewards: what was done and paid between them.
          rng: draws; without it, each call draws afresh.

        Raises:
          TaskError: an unknown task, a window longer than T, or a history of another length.
        """
        if task is None and len(self.tasks) != 1:
            raise TaskError(f"say which task: {', '.join(self.tasks)}")
        head, window = 0 if task is None else index(self, task), obs.shape[1]
        if window > self.context:
            raise TaskError(
                f"this policy was trained on contexts of {self.context} steps, got {window}; "
                f"give it the last {self.context}"
            )
        done = np.zeros((len(obs), 0), np.int64) if actions is None else actions
        paid = np.zeros(done.shape) if rewards is None else rewards
        if not done.shape[1] == paid.shape[1] == window - 1:
            raise TaskError(
                f"{window} observations have {window - 1} actions and rewards between them, got "
                f"{done.shape[1]} and {paid.shape[1]}: give both, each [R {window - 1}]"
            )
        self.start(len(obs))
        self._steps[:] = window
        self._actions[:, self.context - window : -1] = done
        self._rewards[:, self.context - window : -1] = _sign(paid)
        padded = np.zeros((len(obs), self.context, *obs.shape[2:]), obs.dtype)
        padded[:, self.context - window :] = obs
        uniform = (rng or np.random.default_rng()).random(len(obs))
        return self.act(padded, np.full(len(obs), head), uniform)

    def _logits(self, obs: Obs, task: Rows, uniform: Uniform) -> Float[np.ndarray, "R A"]:
        """Of the action; -inf for those that a row's task lacks."""
        fresh = self._held == 0
        parts = [(np.flatnonzero(fresh), self._begin), (np.flatnonzero(~fresh), self._extend)]
        answers = [(rows, read(rows, obs, task, uniform)) for rows, read in parts if len(rows)]
        logits = np.empty((len(obs), answers[0][1].shape[1]))
        for rows, answer in answers:
            logits[rows] = answer.double().cpu().numpy()
        return logits

    def _begin(self, rows: Few, obs: Obs, task: Rows, uniform: Uniform) -> Tensor:
        steps = self._steps[rows]
        window = self.context - steps[:, None] + np.arange(steps.max())
        at = (rows[:, None], np.minimum(window, self.context - 1))

        def hope(logits: Tensor) -> Tensor:
            return self._tensor(self._hope(logits.double().cpu().numpy(), uniform[rows]))

        return self._decoding.begin(
            *map(self._tensor, (rows, obs[at], task[rows], self._actions[at], self._rewards[at])),
            steps=self._tensor(steps),
            choose=hope,
        )

    def _extend(self, rows: Few, obs: Obs, task: Rows, uniform: Uniform) -> Tensor:
        done, paid = self._actions[rows, -2], self._rewards[rows, -2]
        return self._decoding.extend(
            *map(self._tensor, (rows, obs[rows, -1], task[rows], done, paid)),
            steps=self._tensor(self._steps[rows] - 1),
        )

    def _hope(self, logits: Float[np.ndarray, "r Z"], uniform: Uniform) -> Int[np.ndarray, "r"]:
        if self.selection == "notebook":
            return best_return(logits, uniform)
        assert self.kappa is not None, "a model without returns is not asked for one"
        return expert_return(logits, uniform, kappa=self.kappa)

    def _choose(self, logits: Float[np.ndarray, "R A"], uniform: Uniform) -> Rows:
        second = uniform * (1 << 26) % 1  # digits that the return's draw has not used
        if self.selection == "notebook":
            return choose(upper(logits, percentile=PERCENTILE), second, selection="sampled")
        return choose(logits, second, selection=self.selection)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._decoding.device)


def _sign(reward: Float[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """0 negative, 1 none, 2 positive: the classes that the model was trained on."""
    return np.sign(reward).astype(np.int64) + 1
