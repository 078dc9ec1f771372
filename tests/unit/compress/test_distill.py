"""What a student may look at of its teacher."""

from __future__ import annotations

import torch
from torch import nn

from edgekit.compress.training.distill import attention, hints

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


class Blocks(nn.Module):
    """Two blocks that add to what they read, in place; only the width inside them differs."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        torch.manual_seed(inner)
        self.first, self.second = (
            nn.Sequential(nn.Conv2d(3, inner, 1), nn.ReLU(), nn.Conv2d(inner, 3, 1))
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in (self.first, self.second):
            y = block(x)
            y += x
            x = y
        return x.mean((2, 3))


def seen(features, net: nn.Module, layers) -> dict[str, torch.Tensor]:
    with features.watched(net, layers) as found:
        net(*IMAGE)
    return found


def test_layers_pair_where_their_images_are_of_one_size_whatever_the_channels() -> None:
    features = attention(net(4), net(12), IMAGE, IMAGE)
    assert features is not None
    assert (features.own, features.theirs) == (("1", "3"), ("1", "3"))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    assert attention(linear, net(12), IMAGE, IMAGE) is None


def test_a_student_that_looks_elsewhere_is_told_so_by_its_gradient() -> None:
    student, teacher = net(4), net(12)
    features = attention(student, teacher, IMAGE, IMAGE)
    assert features is not None
    with torch.no_grad():
        wanted = seen(features, teacher, features.theirs)
    found = seen(features, student, features.own)
    assert [tuple(found[name].shape) for name in features.own] == [(2, 256), (2, 64)]
    distance = features.between(found, wanted)
    assert 0 < float(distance.detach()) < 4
    distance.backward()
    assert float(student[0].weight.grad.abs().sum()) > 0
    assert float(features.between(wanted, wanted)) == 0


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
    features = attention(model, model, IMAGE, IMAGE)
    assert features is not None and features.own == ("conv",)
    seen(features, model, features.own)["conv"].sum().backward()
    assert model.conv.weight.grad is not None


def test_blocks_that_kept_their_shape_are_compared_value_by_value() -> None:
    narrow, whole = Blocks(8), Blocks(16)
    features = hints(narrow, whole, IMAGE)
    assert features is not None
    assert features.own == ("first", "second")
    with torch.no_grad():
        wanted = seen(features, whole, features.theirs)
    assert torch.equal(wanted["first"], whole.first(*IMAGE)), "before it was added to"
    distance = features.between(seen(features, narrow, features.own), wanted)
    distance.backward()
    assert float(distance.detach()) > 0
    assert narrow.first[0].weight.grad is not None
    assert float(features.between(wanted, wanted)) == 0


def test_without_blocks_layers_are_compared_and_without_those_nothing() -> None:
    whole, narrow = net(12), net(12)
    narrow[0] = nn.Conv2d(3, 8, 3, padding=1)
    narrow[2] = nn.Conv2d(8, 24, 3, 2, padding=1)
    features = hints(narrow, whole, IMAGE)
    assert features is not None and features.own == ("2", "6")
    assert hints(nn.ReLU(), nn.ReLU(), IMAGE) is None


def test_what_an_activation_changes_in_place_or_dropout_gives_on_is_still_compared() -> None:
    def flat(width: int) -> nn.Module:
        parts = nn.Linear(16, 12), nn.ReLU(inplace=True), nn.Linear(12, width)
        return nn.Sequential(*parts, nn.ReLU(), nn.Linear(width, 12), nn.Dropout()).eval()

    features = hints(flat(4), flat(8), IMAGE)
    assert features is not None and features.own == ("0", "4")


def test_a_block_that_a_training_leaves_out_is_not_compared_then() -> None:
    whole = Blocks(16)
    features = hints(Blocks(8), whole, IMAGE)
    assert features is not None
    wanted = seen(features, whole, features.theirs)
    assert features.between({"second": wanted["second"]}, wanted) == 0
    assert features.between({}, wanted) is None


def test_a_layer_without_a_signal_is_not_compared() -> None:
    whole = Blocks(16)
    with torch.no_grad():
        whole.second[2].weight.zero_()
        whole.second[2].bias.zero_()
    features = hints(Blocks(8), whole, IMAGE)
    assert features is not None and features.own == ("first",)
