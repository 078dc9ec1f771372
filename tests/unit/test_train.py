"""The training loop on problems small enough to see through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from edgekit.compress.held_out import hold_out
from edgekit.compress.straight import straight_through
from edgekit.compress.train import Batch, Job, State, train
from edgekit.errors import TrainingError
from edgekit.plan import Training
from edgekit.progress import Silent

TRUTH = torch.tensor([[1.0, -2.0, 0.5]])
TRAINING = Training(objective="labels", steps=60, learning_rate=0.3)


class Memory:
    """A checkpoint that keeps every state, and may kill the process that made it."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.state: State | None = None
        self.kill_at = kill_at

    def load(self) -> State | None:
        return self.state

    def save(self, state: State) -> None:
        self.state = replace(state, tensors={n: t.clone() for n, t in state.tensors.items()})
        if state.step == self.kill_at:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _save_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.compress.train.SAVE_EVERY_S", -1.0)


def epoch(number: int) -> Iterator[Batch]:
    torch.manual_seed(number)
    for _ in range(7):
        x = torch.randn(16, 3)
        yield (x,), x @ TRUTH.T


def problem(judge: bool = True, scale: float = 1.0) -> tuple[Job, torch.Tensor]:
    weight = torch.full((1, 3), 0.3)

    def loss(batch: Batch) -> torch.Tensor:
        noise = 0.01 * torch.rand(())  # a dropout of its own: it must not disturb the data's draws
        return ((batch[0][0] @ weight.T - batch[1]) * scale + noise).square().mean()

    held = hold_out(epoch(100), 1)
    return (
        Job(
            "training", {"w": weight}, epoch, loss, (lambda: held.mean(loss, 1)) if judge else None
        ),
        weight,
    )


def run(job: Job, training: Training = TRAINING, checkpoint: Memory | None = None):
    return train(job, training, 0, checkpoint or Memory(), Silent())


def test_it_learns_and_tells_the_step_of_its_best_weights() -> None:
    job, weight = problem()
    found = run(job)
    assert found.stop > 0
    assert dict(found.scores)[found.stop] == min(score for _, score in found.scores)
    assert found.scores[-1][1] < 0.2 * found.scores[0][1]
    assert not weight.requires_grad


@pytest.mark.parametrize("kill_at", [1, 7, 23, 31])
def test_killed_at_any_step_it_goes_on_to_the_same_bytes(kill_at: int) -> None:
    job, whole = problem()
    expected = run(job)
    job, _ = problem()
    checkpoint = Memory(kill_at)
    with pytest.raises(KeyboardInterrupt):
        run(job, checkpoint=checkpoint)
    checkpoint.kill_at = None
    job, resumed = problem()  # a new process: the weights as they were before any training
    assert run(job, checkpoint=checkpoint) == expected
    assert torch.equal(resumed, whole)


def test_the_step_it_stopped_at_leads_to_the_same_weights() -> None:
    job, best = problem()
    found = run(job)
    job, again = problem()
    assert run(job, TRAINING.model_copy(update={"stop": found.stop})).stop == found.stop
    assert torch.equal(again, best)


def test_weights_that_only_become_worse_stay_as_they_were() -> None:
    job, weight = problem()
    before = weight.clone()
    climbing = replace(job, loss=lambda batch: -job.loss(batch))
    found = run(climbing)
    assert found.stop == 0
    assert torch.equal(weight, before)
    assert found.scores[-1][0] < TRAINING.steps, "it gave up early"


def test_without_data_kept_apart_the_last_step_is_taken() -> None:
    job, _ = problem(judge=False)
    found = run(job)
    assert (found.stop, found.scores) == (TRAINING.steps, ())


def test_a_loss_that_is_not_finite_names_the_step_and_the_rate() -> None:
    job, _ = problem(judge=False)
    broken = replace(job, loss=lambda batch: job.loss(batch) * float("nan"))
    with pytest.raises(TrainingError, match=r"nan at step 1, at a learning rate of 0\.1"):
        run(broken)


def test_no_batches_are_an_error_and_no_endless_loop() -> None:
    job, _ = problem()
    with pytest.raises(TrainingError, match="no batch"):
        run(replace(job, batches=lambda number: iter(())))


def test_a_gradient_passes_through_rounding_but_not_through_clipping() -> None:
    value = torch.tensor([0.26, -0.9, 5.0], requires_grad=True)
    rounded = straight_through(value, torch.tensor(0.5), torch.tensor(-2.0), torch.tensor(3.0))
    assert rounded.tolist() == [0.5, -1.0, 1.5]
    rounded.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [1.0, 1.0, 0.0]


def test_examples_kept_apart_are_known_again_in_a_shuffled_epoch() -> None:
    images, labels = torch.randn(50, 2, 3), torch.arange(50)

    def batches(order: torch.Tensor) -> Iterator[Batch]:
        return (((images[part],), labels[part]) for part in order.split(8))

    apart = hold_out(batches(torch.arange(50)), 1)
    kept = torch.cat([target for _, target in apart.batches])
    assert kept.tolist() == [0, 10, 20, 30, 40]
    trained = apart.without(batches(torch.randperm(50)), 1)
    seen = torch.cat([target for _, target in trained]).tolist()
    assert sorted(seen + kept.tolist()) == list(range(50))


def test_an_example_may_be_several_rows() -> None:
    inputs, target = torch.arange(24.0).reshape(12, 2), torch.arange(4)
    apart = hold_out(iter([((inputs,), target)]), 3)
    ((found,), label), *_ = apart.batches
    assert found.tolist() == inputs[:3].tolist()
    assert label.tolist() == [0]


def test_targets_that_cannot_be_told_apart_keep_nothing_apart() -> None:
    apart = hold_out(iter([((torch.randn(8, 2),), "a caption")]), 1)
    assert apart.batches == ()
    assert len(list(apart.without([((torch.randn(8, 2),), "a caption")], 1))) == 1
