"""The training loop: minimize a loss, keep the best weights, resume after the process was killed.

Adam (D. Kingma and J. Ba, 2015, arXiv:1412.6980) with steps relative to each tensor's size, as in
Adafactor (N. Shazeer and M. Stern, 2018, arXiv:1804.04235). Folded batch norms leave weights of
very different sizes, for which no single absolute rate suits.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from edgekit.errors import TrainingError
from edgekit.plan import Training
from edgekit.process.interrupt import stoppable
from edgekit.progress import Progress, Stage

# One batch: the model's inputs, and whatever the loss compares its outputs with.
Batch = tuple[tuple[torch.Tensor, ...], Any]

WARM_UP_SHARE = 0.05
JUDGEMENTS = 10
# Training stops after so many judgements in a row that are each worse than the one before. One
# alone is no reason: large steps first raise a loss that smaller steps then lower.
PATIENCE = 3
LEAST_SIZE = 1e-3
# The share of a time limit for training, the rest is for judging; estimated from so many steps.
TRAINING_SHARE, TIMED_STEPS = 0.8, 3
SAVE_EVERY_S = 20.0
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Job:
    """What to train. ``weights`` are edited in place, ``buffers`` by the loss itself (running
    statistics).

    ``batches(epoch)`` yields one epoch, always the same for the same number. ``loss`` gets the
    batch and the share of steps done. ``judge``: the loss on held-out data, lower is better; None
    without such data: then the last step counts as best. ``after_step`` may change the weights
    again.
    """

    title: str
    weights: Mapping[str, torch.Tensor]
    batches: Callable[[int], Iterator[Batch]]
    loss: Callable[[Batch, float], torch.Tensor]
    judge: Callable[[], float] | None
    buffers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    after_step: Callable[[], None] = lambda: None

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {**self.weights, **self.buffers}


@dataclass(frozen=True)
class State:
    """What resuming needs. ``tensors``: weights, the best so far, the optimizer's moments."""

    tensors: dict[str, torch.Tensor]
    steps: int
    step: int = 0
    best_step: int = 0
    scores: tuple[tuple[int, float], ...] = ()


class Checkpoint(Protocol):
    """A place for a state that outlives the process."""

    def load(self) -> State | None: ...

    def save(self, state: State) -> None: ...


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training. ``steps``: of the schedule, fewer if the time limit required it.
    ``stop``: the step with the best weights, 0 for the initial ones. ``scores``: (step, loss on
    held-out data) from the start on; empty without such data. ``interrupted``: the user ended it
    (interrupt.stoppable), and a checkpoint was saved.
    """

    steps: int
    stop: int
    scores: tuple[tuple[int, float], ...]
    interrupted: bool = False


def train(
    job: Job,
    training: Training,
    seed: int,
    checkpoint: Checkpoint,
    progress: Progress,
    time_limit_s: float | None = None,
) -> TrainingResult:
    """Train, and leave the best weights in ``job.weights``.

    ``training.stop``, if given, is the last step, and its weights are used without judgement, so
    that the same plan gives the same weights. Under a time limit the schedule gets as many steps
    as should fit, estimated from the first ones; training ends at the limit in any case.

    Raises TrainingError: the loss is not finite, or there is no batch.
    """
    with progress.stage(job.title) as stage, stoppable() as is_asked:
        loop = _Loop(job, training, seed, checkpoint, stage, progress.note, time_limit_s, is_asked)
        result = loop.run()
    if result.interrupted:
        progress.note(
            f"stopped at step {loop.step} of {result.steps}: uses the best weights, of step "
            f"{result.stop}; run the same command again to continue"
        )
    return result


@dataclass
class _Loop:
    job: Job
    training: Training
    seed: int
    checkpoint: Checkpoint
    stage: Stage
    note: Callable[[str], None]
    time_limit_s: float | None
    is_asked_to_stop: Callable[[], bool]
    steps: int = 0
    step: int = 0
    best_step: int = 0
    scores: list[tuple[int, float]] = field(default_factory=list)

    def run(self) -> TrainingResult:
        started = saved_at = time.monotonic()
        self._start()
        last = self.steps if self.training.stop is None else self.training.stop
        for batch in self._batches_from(self.step):
            if self.step >= last or self._is_over(started) or self.is_asked_to_stop():
                break
            self._descend(batch)
            self.step += 1
            self.stage.advance(self.step, last)
            if self.step % self._judge_every == 0 and self.step < last:
                self._judge()
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                self.checkpoint.save(self._state())
                saved_at = time.monotonic()
        interrupted = self.step < last and self.is_asked_to_stop()
        if interrupted:
            self.checkpoint.save(self._state())
        self._judge()
        _copy(self.best, self.job.tensors)
        for weight in self.job.weights.values():
            weight.requires_grad_(False)
            weight.grad = None
        return TrainingResult(self.steps, self.best_step, tuple(self.scores), interrupted)

    @property
    def _judge_every(self) -> int:
        return max(1, self.steps // JUDGEMENTS)

    def _start(self) -> None:
        for weight in self.job.weights.values():
            weight.requires_grad_(True)
        self.best = {name: tensor.detach().clone() for name, tensor in self.job.tensors.items()}
        self.sizes = [
            max(LEAST_SIZE, float(self.best[name].square().mean().sqrt()))
            for name in self.job.weights
        ]
        groups = [{"params": [weight]} for weight in self.job.weights.values()]
        self.optimizer = torch.optim.Adam(groups)
        state = self.checkpoint.load()
        if state is not None and self._fits(state):
            self._resume(state)
            self.note(f"resuming at step {self.step} of {self.steps}")
            self._report()
        else:
            self._judge()
            self.steps = self._schedule()

    def _fits(self, state: State) -> bool:
        """Whether a checkpoint is of this model."""
        saved, own = _part(state.tensors, "now"), self.job.tensors
        return saved.keys() == own.keys() and all(saved[n].shape == own[n].shape for n in own)

    def _schedule(self) -> int:
        """The number of steps that the time limit allows, estimated by some that change nothing."""
        steps = self.training.steps
        if self.time_limit_s is None or self.training.stop is not None:
            return steps
        batches = self._batches_from(0)
        began = time.monotonic()
        for timed in range(-1, TIMED_STEPS):
            if timed == 0:  # the first step is slower than the others
                began = time.monotonic()
            with _seeded(self.seed):
                self.job.loss(next(batches), 0.0).backward()  # type: ignore[no-untyped-call]
        self.optimizer.zero_grad()
        _copy(self.best, self.job.tensors)  # restore the running statistics
        each_s = (time.monotonic() - began) / TIMED_STEPS
        fitting = max(1, min(steps, int(TRAINING_SHARE * self.time_limit_s / each_s)))
        if fitting < steps:
            self.note(f"the limit of {self.time_limit_s:g} s allows {fitting} of {steps} steps")
        return fitting

    @property
    def _rate(self) -> float:
        return self.training.learning_rate * self._share(self.step)

    def _share(self, step: int) -> float:
        """The share of the learning rate: linear warm-up, then half a cosine down to zero."""
        steps = self.steps
        warm = max(1, round(WARM_UP_SHARE * steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    def _is_over(self, started: float) -> bool:
        if self.time_limit_s is not None and time.monotonic() - started > self.time_limit_s:
            return True
        last = [score for _, score in self.scores[-PATIENCE - 1 :]]
        worse = len(last) > PATIENCE and all(a < b for a, b in pairwise(last))
        return self.training.stop is None and worse

    def _batches_from(self, step: int) -> Iterator[Batch]:
        """Batches of all epochs from ``step`` on. Earlier ones are drawn too: they advance the
        random numbers of the data.
        """
        for epoch in itertools.count():
            count = 0
            for count, batch in enumerate(self.job.batches(epoch), 1):  # noqa: B007
                if step > 0:
                    step -= 1
                    continue
                yield batch
            if count == 0:
                raise TrainingError(f"{self.job.title}: epoch {epoch + 1} has no batch to train on")

    def _descend(self, batch: Batch) -> None:
        with _seeded(self.seed + self.step):
            loss = self.job.loss(batch, self.step / self.steps)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"{self.job.title}: the loss is {value} at step {self.step + 1}, at a learning "
                    f"rate of {self._rate:g}",
                    'use a plan with a smaller "learning_rate" (--plan); see docs/training.md',
                )
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self.job.weights.values()), LARGEST_GRADIENT)
        for group, size in zip(self.optimizer.param_groups, self.sizes, strict=True):
            group["lr"] = self._rate * size
        self.optimizer.step()
        self.job.after_step()

    def _judge(self) -> None:
        """Keep the current weights if they are the best; without held-out data, always."""
        if self.scores and self.scores[-1][0] == self.step:
            return
        if self.job.judge is not None and self.training.stop is None:
            with _seeded(self.seed):
                score = self.job.judge()
            is_best = not self.scores or score < min(previous for _, previous in self.scores)
            self.scores.append((self.step, score if math.isfinite(score) else math.inf))
            self._report()
            if not is_best:
                return
        self.best_step = self.step
        _copy(self.job.tensors, self.best)

    def _report(self) -> None:
        if self.scores:
            least = min(score for _, score in self.scores)
            self.stage.show(f"loss {self.scores[-1][1]:.3g}, best {least:.3g}")

    def _state(self) -> State:
        tensors = {f"now/{name}": tensor.detach() for name, tensor in self.job.tensors.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, weight in self.job.weights.items():
            moments = self.optimizer.state.get(weight, {})
            tensors |= {f"{kind}/{name}": moments[kind] for kind in MOMENTS if kind in moments}
        return State(tensors, self.steps, self.step, self.best_step, tuple(self.scores))

    def _resume(self, state: State) -> None:
        tensors = state.tensors
        _copy(_part(tensors, "now"), self.job.tensors)
        _copy(_part(tensors, "best"), self.best)
        for name, weight in self.job.weights.items():
            saved = {kind: tensors.get(f"{kind}/{name}") for kind in MOMENTS}
            moments = {k: t.to(weight.device, copy=True) for k, t in saved.items() if t is not None}
            if moments:
                steps = torch.tensor(float(state.step))
                self.optimizer.state[weight] = {"step": steps, **moments}
        self.steps, self.step, self.best_step = state.steps, state.step, state.best_step
        self.scores = list(state.scores)


def freeze_norms(model: torch.nn.Module) -> None:
    """Make batch norms of a model in training use their running statistics and not update them."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed all random generators inside, and restore them afterwards for the data's own use."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


MOMENTS = ("exp_avg", "exp_avg_sq")


def _part(tensors: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    start = f"{kind}/"
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def _copy(source: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in source.items():
            target[name].copy_(tensor)
