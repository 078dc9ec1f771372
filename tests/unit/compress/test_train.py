"""The training loop on problems small enough to see through."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
import torch

from edgekit.compress.pruning.sparsity import zero_resetter
from edgekit.compress.quantization.straight_through import straight_through
from edgekit.compress.training.held_out import hold_out
from edgekit.compress.training.loop import Batch, Job, State, train
from edgekit.errors import TrainingError
from edgekit.plan import Training
from edgekit.process.interrupt import takes_stop
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
    monkeypatch.setattr("edgekit.compress.training.loop.SAVE_EVERY_S", -1.0)


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
    judged = (lambda: held.mean(loss, 1)) if judge else None
    return Job("training", {"w": weight}, epoch, lambda batch, _: loss(batch), judged), weight


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
    assert run(job, TRAINING.replaced(stop=found.stop)).stop == found.stop
    assert torch.equal(again, best)


def test_weights_that_only_become_worse_stay_as_they_were() -> None:
    job, weight = problem()
    before = weight.clone()
    climbing = replace(job, loss=lambda batch, share: -job.loss(batch, share))
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
    broken = replace(job, loss=lambda batch, share: job.loss(batch, share) * float("nan"))
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


def shuffled(seed: int, copies: int = 1) -> Iterator[Batch]:
    """Fifty images, all of them in every epoch, each with its number as its label."""
    images = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(50, generator=torch.Generator().manual_seed(seed)).repeat(copies)
    return (((images[part],), part) for part in order.split(8))


def labels_of(batches: Iterable[Batch]) -> list[int]:
    return sorted(torch.cat([target for _, target in batches]).tolist())


def test_examples_kept_apart_are_known_again_in_a_shuffled_epoch() -> None:
    apart = hold_out(shuffled(0), 1)
    kept = labels_of(apart.batches)
    assert 1 <= len(kept) <= 12
    assert sorted(labels_of(apart.without(shuffled(7), 1)) + kept) == list(range(50))
    assert labels_of(hold_out(shuffled(3), 1).batches) == kept, "whatever the order"


def test_what_is_drawn_often_is_not_kept_apart_more() -> None:
    once = labels_of(hold_out(shuffled(0), 1).batches)
    assert labels_of(hold_out(shuffled(0, copies=20), 1).batches) == once


def test_of_a_few_examples_one_is_kept_apart_and_of_one_none() -> None:
    few = [((torch.arange(6.0).reshape(3, 2),), torch.arange(3))]
    assert 1 <= len(labels_of(hold_out(iter(few), 1).batches)) < 3
    assert hold_out(iter([((torch.ones(4, 2),), torch.arange(4))]), 1).batches == ()


def test_an_endless_epoch_is_looked_at_for_a_while() -> None:
    images = torch.randn(4000, 2)
    endless = ((((images),), torch.arange(4000)) for _ in itertools.count())
    assert hold_out(endless, 1).batches


def test_an_example_may_be_several_rows() -> None:
    inputs, target = torch.arange(48.0).reshape(24, 2), torch.arange(8)
    for (found,), labels in hold_out(iter([((inputs,), target)]), 3).batches:
        for rows, label in zip(found.split(3), labels.tolist(), strict=True):
            assert torch.equal(rows, inputs[3 * label : 3 * label + 3])


def test_targets_that_cannot_be_told_apart_keep_nothing_apart() -> None:
    for target in ("a caption", torch.randn(16, 6)):  # sixteen boxes of eight images
        batch: Batch = ((torch.randn(8, 2),), target)
        apart = hold_out(iter([batch]), 1)
        assert apart.batches == ()
        assert list(apart.without([batch], 1)) == [batch]


def test_a_piece_without_a_loss_does_not_count() -> None:
    apart = hold_out(shuffled(0), 1)
    assert apart.mean(lambda batch: torch.tensor(2.0), 1) == 2.0
    with pytest.raises(TrainingError, match="not finite"):
        apart.mean(lambda batch: torch.tensor(float("nan")), 1)


def test_a_time_limit_makes_the_schedule_shorter() -> None:
    job, _ = problem()
    unlimited = train(job, TRAINING, 0, Memory(), Silent(), time_limit_s=1000)
    assert unlimited.steps == TRAINING.steps
    job, _ = problem()
    slow = replace(job, loss=lambda batch, share: (time.sleep(0.02), job.loss(batch, share))[1])
    assert train(slow, TRAINING, 0, Memory(), Silent(), time_limit_s=0.4).steps < 25


def test_ctrl_c_keeps_the_best_so_far_and_the_same_training_goes_on_to_the_same_end() -> None:
    job, whole = problem()
    expected = run(job)
    job, stopped = problem()

    def loss(batch: Batch, share: float) -> torch.Tensor:
        if share == 23 / TRAINING.steps:
            assert takes_stop()
            assert not takes_stop(), "the second one ends the command"
        return job.loss(batch, share)

    checkpoint = Memory()
    found = run(replace(job, loss=loss), checkpoint=checkpoint)
    assert found.interrupted
    assert 0 < found.stop <= 24
    assert dict(found.scores)[found.stop] == min(score for _, score in found.scores)
    assert not takes_stop(), "nothing is going on any more"
    job, resumed = problem()
    assert run(job, checkpoint=checkpoint) == expected
    assert torch.equal(resumed, whole)
    assert not torch.equal(stopped, whole)


def test_what_becomes_worse_at_first_is_not_given_up() -> None:
    job, _ = problem()
    scores = iter([1.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.5, 0.5])
    found = run(replace(job, judge=lambda: next(scores)))
    assert found.stop == TRAINING.steps


def test_zeros_stay_zeros() -> None:
    job, weight = problem()
    with torch.no_grad():
        weight[0, 1] = 0
    run(replace(job, after_step=zero_resetter({"w": weight})))
    assert weight[0, 1] == 0
    assert weight[0, 0] != 0.3


def test_timing_its_steps_leaves_running_statistics_as_they_were() -> None:
    job, _ = problem()
    counted = torch.zeros(())

    def loss(batch: Batch, share: float) -> torch.Tensor:
        counted.add_(1)
        return job.loss(batch, share)

    watched = replace(job, loss=loss, buffers={"counted": counted}, judge=None)
    train(watched, TRAINING, 0, Memory(), Silent(), time_limit_s=1000)
    assert int(counted) == TRAINING.steps


def test_a_state_of_another_model_is_not_gone_on_from() -> None:
    job, whole = problem()
    expected = run(job)
    checkpoint = Memory()
    checkpoint.save(State({"now/w": torch.zeros(4, 3), "best/w": torch.zeros(4, 3)}, 60, 7))
    job, weight = problem()
    assert run(job, checkpoint=checkpoint) == expected
    assert torch.equal(weight, whole)
