"""A model in torch over many inputs: always what it gives one by one, in batches where it can."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.pipeline.model.batched import Batched
from edgekit.pipeline.model.predict import batched, run_all, run_eager, structure_of


class Counting(nn.Module):
    """Any model, with its calls counted; the count is shared with copies."""

    calls: list[int] = []  # noqa: RUF012 - of the class on purpose: copies add to it too

    def __init__(self, inside) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, *inputs):
        self.calls.append(len(inputs[0]) if inputs[0].dim() else 0)
        return self.inside(*inputs)


class ByBatch(nn.Module):
    def forward(self, x):
        return (x - x.mean((0, 2))[None, :, None]) / x.std()


class FlattensBatch(nn.Module):
    def forward(self, x):
        return x.reshape(1, -1)[:, :4] * 2


class FixedView(nn.Module):
    def forward(self, x):
        return x.view(1, 12).cumsum(1)


class Streaming(nn.Module):
    """State in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("past", torch.zeros(1, 3, 4))

    def forward(self, x):
        self.past.mul_(0.5).add_(x.mean(0, keepdim=True))
        return x + self.past


class Remembering(nn.Module):
    """State in an attribute that nobody can see."""

    past = 0.0

    def forward(self, x):
        self.past = self.past + x.mean((0, 1, 2)).sum()
        return x + self.past


class Mean(nn.Module):
    def forward(self, x):
        return x.mean()


class BatchLast(nn.Module):
    def forward(self, x):
        return x.permute(1, 2, 0)


class Several(nn.Module):
    def forward(self, x, index):
        return {"sum": x.sum(-1), "index": index + 1, "top": x.argmax(-1)}


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 3)

    def forward(self, index):
        return self.table(index).flatten(1)


def images(count: int) -> list[tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return [(torch.randn(1, 3, 4),) for _ in range(count)]


def tokens(count: int) -> list[tuple[torch.Tensor, ...]]:
    return [(torch.randint(0, 10, (1, 5)),) for _ in range(count)]


def pairs(count: int) -> list[tuple[torch.Tensor, ...]]:
    return [(x, torch.tensor([index])) for index, (x,) in enumerate(images(count))]


NORM = nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5), nn.ReLU(), nn.Flatten())
STATISTICS = nn.BatchNorm1d(3, track_running_stats=False)
CASES = {
    "network": (NORM, images, True),
    "several": (Several(), pairs, True),
    "integers in": (Embedded(), tokens, True),
    "by batch": (ByBatch(), images, False),
    "batch statistics": (STATISTICS, images, False),
    "flattens the batch": (FlattensBatch(), images, False),
    "fixed view": (FixedView(), images, False),
    "state in a buffer": (Streaming(), images, False),
    "state in an attribute": (Remembering(), images, False),
    "0-dim output": (Mean(), images, False),
    "batch last": (BatchLast(), images, False),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [2, 150])
def test_the_same_as_one_by_one(name, count) -> None:
    inside, data, batches = CASES[name]
    model, inputs = Counting(inside.eval()), data(count)
    import copy

    wanted = [run_eager(copy.deepcopy(inside))(x) for x in inputs]
    if "state" in name:
        alone = run_eager(copy.deepcopy(inside))
        wanted = [[t.clone() for t in alone(x)] for x in inputs]
    Counting.calls.clear()
    found = run_all(Batched(model), inputs)
    assert len(found) == count
    for actual, expected in zip(found, wanted, strict=True):
        for a, b in zip(actual, expected, strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            assert torch.allclose(a.float(), b.float(), rtol=1e-5, atol=1e-6)
    if count > 2:
        last = Counting.calls[-1]
        assert (last > 1) == batches
        assert max(Counting.calls) <= 64


def test_equal_inputs_show_nothing() -> None:
    """Statistics over a batch of equal inputs are those of one."""
    run = Batched(STATISTICS)
    same = [(torch.arange(12.0).reshape(1, 3, 4),)] * 5
    run.many(same)
    data = images(6)
    for actual, inputs in zip(run.many(data), data, strict=True):
        assert torch.allclose(actual[0], STATISTICS(*inputs), atol=1e-6)


def test_large_values_make_small_batches() -> None:
    model = Counting(nn.Upsample(scale_factor=200_000).eval())
    Counting.calls.clear()
    Batched(model).many(images(12))  # 9.6 MB a row inside
    assert max(Counting.calls) == 1


def test_predict_gives_one_tensor_for_a_batch() -> None:
    model = Counting(NORM.eval())
    example = images(1)[0]
    _, structure = structure_of(model(*example))
    batch = (torch.cat([x for (x,) in images(130)]),)
    Counting.calls.clear()
    (found,) = batched(Batched(model), example, structure)(batch)
    assert torch.allclose(found, NORM(*batch), rtol=1e-5, atol=1e-6)
    assert sum(size > 1 for size in Counting.calls) >= 2
