"""What a student may look at of its teacher."""

from __future__ import annotations

import torch
from torch import nn

from edgekit.compress.distill import attention_distance, attention_maps, attention_pairs

IMAGE = (torch.randn(2, 3, 16, 16),)


def net(width: int) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 4),
    )


def test_layers_pair_where_their_images_are_of_one_size_whatever_the_channels() -> None:
    assert attention_pairs(net(4), net(12), IMAGE) == [("1", "1"), ("3", "3")]
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    assert attention_pairs(linear, net(12), IMAGE) == []


def test_a_student_that_looks_elsewhere_is_told_so_by_its_gradient() -> None:
    student, teacher = net(4), net(12)
    with torch.no_grad(), attention_maps(teacher, ["1", "3"]) as wanted:
        teacher(*IMAGE)
    with attention_maps(student, ["1", "3"]) as maps:
        student(*IMAGE)
    assert [tuple(found.shape) for found in maps()] == [(2, 256), (2, 64)]
    distance = attention_distance(maps(), wanted())
    assert 0 < float(distance.detach()) < 4
    distance.backward()
    assert float(student[0].weight.grad.abs().sum()) > 0
    assert float(attention_distance(wanted(), wanted())) == 0


def test_a_model_that_adds_in_place_can_be_taught() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            y += x
            return y

    model = InPlace()
    with attention_maps(model, ["conv"]) as maps:
        model(*IMAGE)
    maps()[0].sum().backward()
    assert model.conv.weight.grad is not None
