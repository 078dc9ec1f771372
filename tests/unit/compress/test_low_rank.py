"""What the factors of a layer compute, which ranks are chosen, and what is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.low_rank.choice import factorize
from edgekit.compress.low_rank.factors import (
    composed,
    factorized,
    forms_of,
    highest_ranks,
    relative_error,
    weights_of,
)
from edgekit.compress.moments import moments
from edgekit.compress.pruning.channel_choice import macs_by_layer, macs_of
from edgekit.errors import RuntimeFailure, SettingError
from edgekit.plan import Factors

UNEQUAL = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
SAME = {"padding": "same", "padding_mode": "circular"}
LAYERS = {
    "linear": (lambda: nn.Linear(24, 20), (5, 24)),
    "wide": (lambda: nn.Linear(12, 40, bias=False), (2, 5, 12)),
    "1x1": (lambda: nn.Conv2d(12, 20, 1, stride=2), (2, 12, 9, 8)),
    "3x3": (lambda: nn.Conv2d(10, 12, 3, **UNEQUAL), (2, 10, 9, 8)),
    "same": (lambda: nn.Conv2d(6, 8, (3, 5), **SAME), (2, 6, 9, 8)),
    "1d": (lambda: nn.Conv1d(6, 8, 3, padding=1, bias=False), (2, 6, 9)),
    "3d": (lambda: nn.Conv3d(4, 6, 3, padding=1), (1, 4, 5, 4, 3)),
}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    build, shape = LAYERS[name]
    return build().eval(), torch.randn(shape)


CASES = [(name, form) for name in LAYERS for form in forms_of(made(name)[0])]


@pytest.mark.parametrize("data_aware", [False, True])
@pytest.mark.parametrize(("name", "form"), CASES)
def test_full_rank_is_exact(name, form, data_aware) -> None:
    layer, inputs = made(name)
    columns = layer.weight[0].numel()
    mixed = torch.randn(columns, columns).double()
    factors = Factors(form=form, ranks=highest_ranks(layer, form))
    replaced = factorized(layer, factors, mixed @ mixed.T if data_aware else None)
    assert torch.allclose(replaced(inputs), layer(inputs), atol=1e-4)


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_weight_of_low_rank_is_recovered(name, form) -> None:
    layer, inputs = made(name)
    factors = Factors(
        form=form, ranks=tuple(max(1, rank // 3) for rank in highest_ranks(layer, form))
    )
    low = composed(factors, weights_of(layer, factors, None))
    assert relative_error(layer, factors) > 0.01
    with torch.no_grad():
        layer.weight.copy_(low)
    assert relative_error(layer, factors) < 1e-10
    columns = layer.weight[0].numel()
    mixed = torch.randn(columns, columns).double()
    replaced = factorized(layer, factors, mixed @ mixed.T)
    assert torch.allclose(replaced(inputs), layer(inputs), atol=1e-4)
    assert replaced[0].bias is None
    assert (replaced[-1].bias is None) == (layer.bias is None)


@pytest.mark.parametrize("form", ["matrix", "spatial", "tucker"])
def test_with_inputs_the_outputs_have_less_error(form) -> None:
    torch.manual_seed(4)
    layer = nn.Conv2d(8, 16, 3, padding=1).eval()
    mixing = torch.randn(8, 8) * torch.logspace(0, -2, 8)
    data = [(torch.einsum("ij,njhw->nihw", mixing, torch.randn(4, 8, 12, 12)),) for _ in range(4)]
    moment = moments(nn.Sequential(layer), ["0"], data)["0"]
    factors = Factors(form=form, ranks=(4, 6) if form == "tucker" else (6,))
    with torch.no_grad():
        aware, plain = (factorized(layer, factors, one)(*data[0]) for one in (moment, None))
        wanted = layer(*data[0])
    errors = [float((one - wanted).square().sum()) for one in (aware, plain)]
    assert errors[0] < 0.8 * errors[1]
    signal = (wanted - layer.bias.detach()[:, None, None]).square().sum()
    assert relative_error(layer, factors, moment) == pytest.approx(
        errors[0] / float(signal), rel=0.2
    )


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem = nn.Conv2d(3, 32, 3, 2, 1)
        self.deep = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.wide = nn.Conv2d(32, 64, 3, 1, 1)
        self.up = nn.ConvTranspose2d(64, 48, 2, 2)
        self.tied, self.also = nn.Linear(48, 48), nn.Linear(48, 48)
        self.also.weight = self.tied.weight
        self.first, self.head = nn.Linear(48, 256), nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.wide(torch.relu(self.deep(torch.relu(self.stem(x))))))
        x = self.also(self.tied(torch.relu(self.up(x)).mean((2, 3))))
        return self.head(torch.relu(self.first(x)))


IMAGE = (torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


def test_so_many_macs_are_removed_and_ranks_are_steps() -> None:
    model = Net().eval()
    before = macs_by_layer(model, IMAGE)
    result = factorize(model, IMAGE, 0.5, [IMAGE] * 4)
    after = macs_by_layer(result.model, IMAGE)
    for one in result.layers:
        inner = {n: count for n, count in after.items() if n.startswith(f"{one.layer}.")}
        assert (one.macs_before, one.macs) == (before[one.layer], sum(inner.values()))
        assert all(rank % 16 == 0 for rank in one.factors.ranks)
        assert 0 < one.error < 1
        assert list(inner) == [f"{one.layer}.{index}" for index in range(len(inner))]
    able = sum(before[name] for name in ("wide", "first"))
    assert macs_of(result.model, IMAGE) <= sum(before.values()) - 0.5 * able
    assert {one.layer for one in result.refused} == {
        "stem", "deep", "up", "tied", "also", "head",
    }  # fmt: skip
    assert isinstance(model.wide, nn.Conv2d)


def test_the_result_is_exported_and_is_the_same_again() -> None:
    results = [factorize(Net().eval(), IMAGE, 0.5) for _ in range(2)]
    assert results[0].layers == results[1].layers
    models = [result.model for result in results]
    assert torch.equal(models[0](*IMAGE), models[1](*IMAGE))
    program = torch.export.export(models[0], IMAGE).module()
    assert torch.allclose(program(*IMAGE), models[0](*IMAGE), atol=1e-6)


def test_a_layer_of_low_rank_goes_first() -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    with torch.no_grad():
        model[2].weight.copy_(torch.randn(64, 16) @ torch.randn(16, 128) / 30)
    batch = (torch.randn(3, 64),)
    result = factorize(model, batch, 0.2)
    assert [(one.layer, one.factors.ranks) for one in result.layers] == [("2", (16,))]
    assert torch.allclose(result.model(*batch), model(*batch), atol=1e-5)


def test_layers_whose_weights_another_module_reads_are_refused() -> None:
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True).eval()
    tokens = (torch.randn(1, 6, 64),)
    try:
        result = factorize(layer, tokens, 0.3)
    except RuntimeFailure as error:
        assert "linear1" in str(error)  # torch's fused path reads their weights
    else:
        assert {one.layer for one in result.layers} <= {"linear1", "linear2"}
        assert result.model(*tokens).shape == (1, 6, 64)


def test_programs_and_more_than_can_be_removed() -> None:
    with pytest.raises(RuntimeFailure):
        factorize(torch.export.export(Net().eval(), IMAGE).module(), IMAGE, 0.3)
    with pytest.raises(SettingError, match="at most"):
        factorize(Net().eval(), IMAGE, 0.95)
