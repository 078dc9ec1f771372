"""Batch norms re-estimated for other inputs."""

from __future__ import annotations

import torch
from torch import nn

from edgekit.compress.norms import estimate_norms, has_norms


def test_norms_get_the_mean_of_the_batches_statistics() -> None:
    model = nn.Sequential(nn.Identity(), nn.BatchNorm2d(2)).eval()
    batches = [(torch.randn(16, 2, 4, 4) * 3 + 5,), (torch.randn(16, 2, 4, 4) + 1,)]
    estimate_norms(model, batches)
    means = torch.stack([batch.mean((0, 2, 3)) for (batch,) in batches]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3)) for (batch,) in batches]).mean(0)
    assert torch.allclose(model[1].running_mean, means, atol=1e-5)
    assert torch.allclose(model[1].running_var, variances, rtol=1e-4)
    assert not model[1].training and model[1].momentum == 0.1


def test_only_norms_with_statistics_count() -> None:
    assert has_norms(nn.Sequential(nn.BatchNorm1d(3)))
    assert not has_norms(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)))
    assert not has_norms(nn.LayerNorm(3))
