"""Which channels go together, what they are worth, and that removing them is exact."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from attention import HEADS, LENGTH, WIDTH, Block
from torch import nn

from edgekit.compress.pruning.channel_choice import macs_of, prune
from edgekit.compress.pruning.channel_groups import (
    find_groups,
    same_function,
    with_channels_at_zero,
    without_channels,
)
from edgekit.compress.pruning.compensate import compensate
from edgekit.compress.pruning.importance import by_fisher, by_size
from edgekit.compress.pruning.trials import by_trial
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.plan import Prune

IMAGE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


class Residual(nn.Module):
    """A stem whose channels go through an addition, a depthwise layer, a concatenation, a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.norm = nn.Conv2d(3, 32, 3, 2, 1), nn.BatchNorm2d(32)
        self.inner = nn.Conv2d(32, 48, 1)
        self.deep = nn.Conv2d(48, 48, 3, 1, 1, groups=48)
        self.outer = nn.Conv2d(48, 32, 1)
        self.side = nn.Conv2d(32, 24, 1)
        self.mix = nn.Conv2d(32 + 24, 16, 1)
        self.head = nn.Linear(16 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.deep(torch.relu(self.inner(x)))))
        x = self.mix(torch.cat([x, torch.relu(self.side(x))], 1))
        return self.head(torch.nn.functional.avg_pool2d(x, 2).flatten(1))


class Mixed(nn.Module):
    """A linear pair that can be pruned, beside what cannot."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.kind = kind
        self.first, self.second = nn.Linear(16, 64), nn.Linear(64, 32)
        self.grouped = nn.Conv1d(32, 32, 1, groups=4)
        self.recurrent = nn.LSTM(32, 24, batch_first=True)
        self.head = nn.Linear(24 if kind == "lstm" else 32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(torch.relu(self.first(x)))
        if self.kind == "lstm":
            return self.head(self.recurrent(x)[0][:, -1])
        if self.kind == "grouped":
            return self.head(self.grouped(x.transpose(1, 2)).mean(2))
        return self.head(x.view(1, 4, 4, 8).transpose(1, 2).reshape(1, 4, 32).mean(1))


TOKENS = (torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(1)),)


def test_addition_depthwise_concatenation_and_flatten_lose_channels_together() -> None:
    model = Residual().eval()
    groups, refused = find_groups(model, IMAGE)
    assert {group.layer for group in groups} == {"mix", "side", "inner", "stem"}
    assert not refused, "the head's channels are the model's outputs, which is no refusal"
    gone = {"stem": [0, 7, 31], "inner": [5, 6], "side": [23], "mix": [4]}
    pruned = without_channels(model, IMAGE, gone)
    assert (pruned.deep.groups, pruned.head.in_features) == (46, 15 * 16)
    assert same_function(pruned, with_channels_at_zero(model, groups, gone), IMAGE)
    assert not same_function(pruned, model, IMAGE)
    assert model.stem.out_channels == 32, "the model itself stays as it is"


@pytest.mark.parametrize("spread", ["by_worth", "uniform"])
def test_so_much_of_the_macs_goes_and_widths_are_multiples(spread) -> None:
    model = Residual().eval()
    wanted = Prune(ratio=0.5, spread=spread)
    pruned = prune(model, IMAGE, wanted, by_fisher([IMAGE] * 4, 0, True)).model
    share = macs_of(pruned, IMAGE) / macs_of(model, IMAGE)
    assert 0.3 < share <= 0.5
    for layer in (pruned.stem, pruned.inner, pruned.side):
        assert layer.out_channels % 8 == 0


@pytest.mark.parametrize("spread", ["by_worth", "uniform"])
def test_kept_layers_and_the_least_width_hold(spread) -> None:
    wanted = Prune(ratio=0.2, spread=spread, keep=("stem",), min_channels=20)
    widths = prune(Residual().eval(), IMAGE, wanted, by_size(1)).widths
    assert "stem" not in widths and widths["inner"][0] < 48
    assert all(width >= 24 for width, _ in widths.values())
    with pytest.raises(SettingError, match="at most"):
        prune(Residual().eval(), IMAGE, wanted.replaced(ratio=0.9), by_size(1))


def test_channels_that_nobody_reads_go_first() -> None:
    model = Residual().eval()
    unread = {3, 4, 11, 12, 20, 21, 30, 40}
    with torch.no_grad():
        model.outer.weight[:, sorted(unread)] = 0
    scores = by_fisher([IMAGE] * 4, 0, True)(model, find_groups(model, IMAGE)[0])["inner"]
    assert float(scores[sorted(unread)].max()) == 0 < float(scores.max())


def test_the_worth_of_a_channel_predicts_what_the_outputs_lose() -> None:
    model = Residual().eval()
    data = [(torch.randn(1, 3, 16, 16),) for _ in range(24)]
    groups, _ = find_groups(model, IMAGE)
    scores = by_fisher(data, 0, True)(model, groups)["inner"]
    order = torch.argsort(scores).tolist()

    def moved(channels: list[int]) -> float:
        cut = with_channels_at_zero(model, groups, {"inner": channels})
        with torch.no_grad():
            return sum(float((cut(*x) - model(*x)).square().sum()) for x in data)

    assert moved(order[:12]) < 0.5 * moved(order[-12:])


@pytest.mark.parametrize(
    ("kind", "layer", "why"),
    [
        ("lstm", "recurrent", "recurrent layers"),
        ("grouped", "second", "'grouped' is a grouped convolution"),
        ("view", "second", "its width"),
    ],
)
def test_layers_that_cannot_be_pruned_are_reported_and_the_others_are_pruned(
    kind, layer, why
) -> None:
    model = Mixed(kind).eval()
    groups, refused = find_groups(model, TOKENS)
    assert "first" in {group.layer for group in groups}
    assert any(one.layer == layer and why in one.why for one in refused), refused


def test_normalized_channels_are_not_pruned() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Linear(32, 4)).eval()
    with pytest.raises(RuntimeFailure, match="normalized"):
        prune(model, TOKENS, Prune(ratio=0.3), by_size(1))


def test_more_than_can_go() -> None:
    with pytest.raises(SettingError, match="at most"):
        prune(Residual().eval(), IMAGE, Prune(ratio=0.95), by_size(1))


class Followed(nn.Module):
    """Channels that end in a reshape to rows, as before a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 8, 3, 2, 1)
        self.recurrent, self.head = nn.GRU(8 * 4, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(self.recurrent(x.permute(0, 3, 1, 2).flatten(2))[0][:, -1])


def images(count: int, seed: int) -> list[tuple[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [(torch.randn(1, 3, 16, 16, generator=draw),) for _ in range(count)]


def moved(model: nn.Module, other: nn.Module, data) -> float:
    with torch.no_grad():
        return sum(float((model(*x) - other(*x)).square().sum()) for x in data)


def test_what_cannot_be_followed_is_told_and_the_rest_goes_on() -> None:
    groups, refused = find_groups(Followed().eval(), IMAGE)
    assert [group.layer for group in groups] == ["first"]
    assert {one.layer for one in refused} == {"second", "recurrent"}


def test_heads_of_an_attention_go_as_a_whole() -> None:
    model = Block().eval()
    data = [(torch.randn(1, LENGTH, WIDTH),) for _ in range(8)]
    groups, _ = find_groups(model, data[0])
    size = WIDTH // HEADS
    assert [(group.layer, group.unit) for group in groups] == [("attention.query", size), ("up", 1)]
    for importance in (by_size(1), by_trial(by_size(1), data, 8, silent)):
        pruned = prune(model, data[0], Prune(ratio=0.5), importance)
        gone = pruned.removed["attention.query"]
        heads = {channel // size for channel in gone}
        assert gone == [head * size + index for head in sorted(heads) for index in range(size)]
        assert pruned.model.attention.out.in_features == WIDTH - len(gone)


@pytest.mark.parametrize("gone", [{"inner": list(range(16))}, {"stem": [0, 1, 2, 3], "side": [5]}])
def test_the_weights_that_stay_take_over_what_went(gone) -> None:
    model = Residual().eval()
    groups, _ = find_groups(model, IMAGE)
    pruned = without_channels(model, IMAGE, gone)
    before = moved(model, pruned, images(16, 7))
    lost = {name: [] for name, part in model.named_modules() if hasattr(part, "weight")}
    for group in groups:
        for place in group.places:
            if place.output and group.layer in gone:
                lost[place.layer] += place.of(gone[group.layer])
    compensate(model, pruned, lost, images(1, 1)[0], images(48, 8), silent)
    assert moved(model, pruned, images(16, 7)) < 0.6 * before


class Deep(nn.Module):
    """Layers behind those that read what goes, without biases, each normalized; and an embedding
    whose weight a layer has too.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        widths = (3, 16, 12, 12, 12)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.words, self.tied = nn.Embedding(9, 12), nn.Linear(12, 9, bias=False)
        self.tied.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu(norm(conv(x)))
        return self.tied(x.mean((2, 3)))


def test_layers_behind_the_readers_are_solved_too_but_not_what_others_share() -> None:
    model = Deep()
    with torch.no_grad():
        for _ in range(20):
            model(torch.cat([image for (image,) in images(8, 1)]))
    pruned = prune(model.eval(), IMAGE, Prune(ratio=0.3, step=4), by_size(1))
    assert list(pruned.removed_outputs) == [f"convs.{index}" for index in range(4)]
    assert "convs.2" not in pruned.removed, "the last one reads all that it read"
    net = copy.deepcopy(pruned.model)
    compensate(model, net, pruned.removed_outputs, images(1, 1)[0], images(96, 8), silent)
    assert not torch.equal(net.convs[3].weight, pruned.model.convs[3].weight)
    assert not torch.equal(net.norms[3].running_mean, pruned.model.norms[3].running_mean)
    assert torch.equal(net.convs[0].weight, pruned.model.convs[0].weight), "nothing changed there"
    assert torch.equal(net.tied.weight, model.tied.weight)
    data = images(16, 7)
    assert moved(model, net, data) < 0.8 * moved(model, pruned.model, data)


class Shared(nn.Module):
    """A head that runs for two sizes, and is changed in place after each; a norm behind an
    activation.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.inner = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(torch.relu(self.stem(x)))
        x = self.norm(nn.functional.relu(x, inplace=True))
        large, small = self.head(x), self.head(nn.functional.avg_pool2d(x, 2))
        large.mul_(3).add_(5)
        return large.mean((2, 3)) + small.mean((2, 3))


def test_a_layer_that_runs_twice_is_solved_for_both() -> None:
    model = Shared().eval()
    smaller = copy.deepcopy(model)
    with torch.no_grad():
        smaller.head.weight[:, ::2] *= 0.5
    data = images(16, 7)
    before = moved(model, smaller, data)
    compensate(model, smaller, {"head": []}, images(1, 1)[0], images(48, 8), silent)
    assert moved(model, smaller, data) < 0.1 * before


def test_a_norm_behind_an_activation_takes_no_bias() -> None:
    model = Shared().eval()
    smaller = copy.deepcopy(model)
    with torch.no_grad():
        smaller.inner.weight[:, ::2] = 0
    compensate(model, smaller, {"inner": []}, images(1, 1)[0], images(48, 8), silent)
    assert not torch.equal(smaller.inner.weight[:, ::2], torch.zeros(12, 6, 1, 1))
    assert torch.equal(smaller.norm.running_mean, model.norm.running_mean)


def test_a_trial_finds_channels_that_cost_nothing() -> None:
    model = Residual().eval()
    with torch.no_grad():
        model.outer.weight.zero_()
    groups, _ = find_groups(model, IMAGE)
    order = by_size(1)
    scores = by_trial(order, images(8, 1), 8, silent)(model, groups)
    assert float(scores["inner"].max()) < 0.01 * float(scores["side"].max())
    for group in groups:
        ordered = torch.argsort(order(model, groups)[group.layer], stable=True)
        costs = scores[group.layer][ordered]
        assert bool((costs.diff() >= 0).all()), "never less than the one before"


class Gated(nn.Module):
    """Halves of one layer's channels that are multiplied: each needs its partner."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.both, self.head = nn.Linear(16, 64), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, v = self.both(x).chunk(2, -1)
        return self.head(u * torch.sigmoid(v))


class Tied(nn.Module):
    """The embedding is the head's weight too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.words, self.inner = nn.Embedding(50, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.inner(self.words(ids))))


@pytest.mark.parametrize(
    ("model", "example"),
    [(Gated(), TOKENS), (Tied(), (torch.arange(6)[None],))],
    ids=["halves", "tied"],
)
def test_channels_that_one_removal_does_not_tell_are_refused(model, example) -> None:
    groups, refused = find_groups(model.eval(), example)
    assert not groups, groups
    assert refused
    with pytest.raises(RuntimeFailure, match="no layer of this model can be pruned"):
        prune(model, example, Prune(ratio=0.2), by_size(1))


@pytest.mark.parametrize("outputs", [8, 16, 32])
def test_a_transposed_convolution_may_read_what_goes(outputs) -> None:
    torch.manual_seed(8)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, outputs, 2, 2)
    ).eval()
    for order in (
        by_size(1),
        by_fisher([IMAGE] * 2, 0, False),
        by_trial(by_size(1), [IMAGE] * 4, 8, silent),
    ):
        pruned = prune(model, IMAGE, Prune(ratio=0.3), order).model
        assert pruned[0].out_channels < 32
        assert macs_of(pruned, IMAGE) <= 0.7 * macs_of(model, IMAGE)


def test_a_trial_removes_the_channels_that_it_tried() -> None:
    torch.manual_seed(9)
    model = nn.Sequential(nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 8)).eval()
    data = [(torch.randn(4, 16),) for _ in range(8)]
    groups, _ = find_groups(model, data[0])
    order = torch.argsort(by_size(1)(model, groups)["0"], stable=True)
    scores = by_trial(by_size(1), data, 8, silent)(model, groups)["0"]
    assert torch.equal(torch.argsort(scores, stable=True), order)


def silent(done: int, total: int) -> None:
    """Nobody watches."""
