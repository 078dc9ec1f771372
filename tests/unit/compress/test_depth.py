"""Which blocks a model can do without, which of them go first, and that the rest is unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekit.compress.depth.blocks import find_blocks, without_blocks
from edgekit.compress.depth.choice import BlockTrials, block_macs, drop_blocks
from edgekit.compress.pruning.channel_groups import parameters_of, same_function
from edgekit.compress.pruning.refit import Refit
from edgekit.errors import RuntimeFailure, SettingError


def images(count: int, seed: int = 1) -> list[tuple[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [(torch.randn(1, 3, 8, 8, generator=draw),) for _ in range(count)]


IMAGE = images(1)[0]


class Block(nn.Module):
    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + x[:, :, :: self.stride, :: self.stride])


class Net(nn.Module):
    """Stages of blocks; the second stage starts with a block that halves the image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage1 = nn.Sequential(Block(8), Block(8), Block(8))
        self.stage2 = nn.Sequential(Block(8, 2), Block(8))
        self.plain = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain(self.stage2(self.stage1(self.stem(x))))
        return self.head(x.mean((2, 3)))


BLOCKS = ["stage1.0", "stage1.1", "stage1.2", "stage2.1"]


class Tokens(nn.Module):
    """Layers called by keyword, one of them twice, and positions that are added."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.positions = Positions()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(3)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(6, 6)
        x = self.positions(x)
        for layer in (*self.layers, self.layers[-1]):
            x = layer(src=x, src_mask=mask)
        return self.head(x.mean(1))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.table


TOKENS = (torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1)),)


class Nested(nn.Module):
    """A block with a block inside it and a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.conv = Block(3), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(self.inner(x))


def silenced(model: Net, *names: str) -> Net:
    """These blocks compute zero beside their input, which is not negative behind a ReLU."""
    for name in names:
        norm = model.get_submodule(f"{name}.norm2")
        with torch.no_grad():
            norm.weight.zero_()
            norm.bias.zero_()
    return model


def test_blocks_are_residual_modules_of_one_shape_and_not_what_contains_them() -> None:
    model = Net().eval()
    blocks, refused = find_blocks(model, IMAGE)
    assert blocks == BLOCKS
    assert [one.layer for one in refused] == ["plain"]
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_block_that_runs_twice_and_added_positions_are_no_blocks() -> None:
    model = Tokens().eval()
    blocks, refused = find_blocks(model, TOKENS)
    assert blocks == ["layers.0", "layers.1"]
    assert [one.layer for one in refused] == ["layers.2"]
    smaller = without_blocks(model, TOKENS, blocks)
    assert smaller(*TOKENS).shape == (1, 5)


def test_a_layer_that_its_container_reads_is_refused() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)).eval()
    blocks, refused = find_blocks(model, TOKENS)
    assert blocks == ["0.layers.1"]
    assert [one.layer for one in refused] == ["0.layers.0"]


def test_an_inner_block_and_the_one_around_it_are_both_listed_and_dropped_once() -> None:
    model = nn.Sequential(Nested(), nn.Flatten(), nn.Linear(192, 4)).eval()
    assert find_blocks(model, IMAGE)[0] == ["0.inner", "0"]
    both, outer = (without_blocks(model, IMAGE, names) for names in (["0.inner", "0"], ["0"]))
    assert parameters_of(both) == parameters_of(outer)
    assert same_function(both, outer, IMAGE)


def test_programs_are_refused() -> None:
    exported = torch.export.export(Net().eval(), IMAGE).module()
    blocks, refused = find_blocks(exported, IMAGE)
    assert not blocks
    assert [one.layer for one in refused] == [""]


def test_a_model_that_cannot_run_is_refused_with_the_reason() -> None:
    blocks, refused = find_blocks(Net().eval(), (torch.randn(1, 5, 8, 8),))
    assert not blocks
    assert "channels" in refused[0].why


def test_without_nothing_is_an_equal_copy() -> None:
    model = Net().eval()
    copied = without_blocks(model, IMAGE, [])
    assert copied is not model
    assert torch.equal(copied(*IMAGE), model(*IMAGE))


def test_the_others_keep_their_names_and_weights() -> None:
    model = Net().eval()
    smaller = without_blocks(model, IMAGE, ["stage1.1", "stage2.1"])
    own = smaller.state_dict()
    kept = [n for n in model.state_dict() if not n.startswith(("stage1.1.", "stage2.1."))]
    assert list(own) == kept
    assert all(torch.equal(own[name], model.state_dict()[name]) for name in kept)
    assert isinstance(model.stage1[1], Block)
    program = torch.export.export(smaller, IMAGE).module()
    assert torch.allclose(program(*IMAGE), smaller(*IMAGE), atol=1e-6)


def test_a_name_that_is_no_module() -> None:
    with pytest.raises(SettingError, match=r"stage9"):
        without_blocks(Net().eval(), IMAGE, ["stage9"])


def test_refitting_recovers_what_a_linear_gap_loses() -> None:
    """Behind the gap is a linear layer, so its refit equals any affine adaptor in the gap."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x)

    torch.manual_seed(8)
    model = nn.Sequential(Linear(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    batch = (torch.randn(400, 16),)
    smaller = without_blocks(model, batch, ["0"])
    refit = Refit(model, ["1", "3"], batch, batch)
    refit.apply(smaller, batch)
    with torch.no_grad():
        noise = (smaller(*batch) - model(*batch)).square().mean() / model(*batch).var()
    assert noise < 1e-3
    untouched = without_blocks(model, batch, [])
    refit.apply(untouched, batch)
    assert torch.equal(untouched(*batch), model(*batch))


def test_a_block_that_computes_zero_is_dropped_first_and_exactly() -> None:
    model = silenced(Net().eval(), "stage1.2")
    data = images(32)
    trials = BlockTrials(model, IMAGE, data)
    worth = {block: trials.loss([block]) for block in BLOCKS}
    assert min(worth, key=worth.get) == "stage1.2"
    assert worth["stage1.2"] < 1e-9
    result = drop_blocks(model, IMAGE, 1, data)
    assert result.dropped == ("stage1.2",)
    assert torch.allclose(result.model(*IMAGE), model(*IMAGE), atol=1e-6)


def test_the_greedy_choice_measures_what_is_left_and_repeats() -> None:
    model, data = silenced(Net().eval(), "stage1.0", "stage2.1"), images(32)
    results = [drop_blocks(model, IMAGE, 3, data) for _ in range(2)]
    assert set(results[0].dropped[:2]) == {"stage1.0", "stage2.1"}
    assert results[0].losses[1] < 1e-9 < results[0].losses[2]
    assert (results[0].dropped, results[0].losses) == (results[1].dropped, results[1].losses)
    assert [one.layer for one in results[0].refused] == ["plain"]


def test_costs_decide_between_equal_losses() -> None:
    model, data = silenced(Net().eval(), "stage1.0", "stage2.1"), images(8)
    macs = block_macs(model, IMAGE, BLOCKS)
    assert macs["stage1.0"] == 4 * macs["stage2.1"] == 2 * 8 * 8 * 9 * 64
    assert drop_blocks(model, IMAGE, 1, data).dropped == ("stage1.0",)
    assert drop_blocks(model, IMAGE, 1, data, {"stage1.0": 1, "stage2.1": 2}).dropped == (
        "stage2.1",
    )


def test_kept_blocks_stay() -> None:
    model, data = silenced(Net().eval(), "stage1.0", "stage2.1"), images(8)
    assert drop_blocks(model, IMAGE, 1, data, keep=["stage1"]).dropped == ("stage2.1",)
    with pytest.raises(SettingError, match="stage1"):
        drop_blocks(model, IMAGE, 1, data, keep=["stage1", "stage2"])


def test_a_block_inside_a_dropped_one_is_no_candidate() -> None:
    model = nn.Sequential(Nested(), nn.Flatten(), nn.Linear(192, 4)).eval()
    nn.init.zeros_(model[0].conv.weight)
    nn.init.zeros_(model[0].conv.bias)
    assert drop_blocks(model, IMAGE, 1, images(16)).dropped == ("0",)
    with pytest.raises(SettingError, match="at most 1"):
        drop_blocks(model, IMAGE, 2, images(16))


def test_more_blocks_than_there_are_and_none() -> None:
    with pytest.raises(SettingError, match="at most 4"):
        drop_blocks(Net().eval(), IMAGE, 5, images(4))
    with pytest.raises(RuntimeFailure):
        drop_blocks(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), (torch.ones(1, 4),), 1, [])
