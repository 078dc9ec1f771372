"""A model with state, fed chunk by chunk: by the portable client, by predict, by edgekit run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.errors import RecipeError, SettingError
from edgekit.portable.edgekit_model import Model

pytestmark = pytest.mark.runtime

RECIPE = '''
import torch
from torch import nn


class Streaming(nn.Module):
    """A running mean, a streaming convolution, two recurrent layers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("past", torch.full((1, 8, 4), 0.5))
        self.register_buffer("mean", torch.zeros(1, 8, 1))
        self.first, self.second = Recurrent(32), Recurrent(16)
        self.conv, self.head = nn.Conv1d(8, 16, 5), nn.Linear(16, 3)

    def forward(self, frame):
        self.mean.mul_(0.9).add_(0.1 * frame.mean(2, keepdim=True))
        x = torch.cat([self.past, frame - self.mean], 2)
        self.past.copy_(x[:, :, -4:])
        return self.head(self.second(self.first(torch.relu(self.conv(x)).flatten(1))))


class Recurrent(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.register_buffer("hidden", torch.full((1, 16), 0.3))
        self.cell = nn.GRUCell(size, 16)

    def forward(self, x):
        self.hidden = self.cell(x, self.hidden)
        return self.hidden


def model():
    return Streaming()


def example_inputs():
    return (torch.ones(1, 8, 2),)


def frames(seed, count):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(1, 8, 2, generator=generator) + 1,) for _ in range(count)]


def calibration():
    yield from frames(1, 40)


def evaluate(predict):
    """100 where two sequences of predict are what the model gives."""
    errors = []
    for seed in (2, 3):
        net = model().eval()
        predict.reset()
        for frame, in frames(seed, 10):
            with torch.no_grad():
                errors.append(float((predict(frame) - net(frame)).abs().max()))
    return 100 if max(errors) < LIMIT else 0
'''
STATES = ["past", "mean", "first_hidden", "second_hidden"]


def written(folder: Path, limit: float) -> Path:
    path = folder / "recipe.py"
    path.write_text(f"LIMIT = {limit}\n{RECIPE}")
    return path


def chunks() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((10, 1, 8, 2)).astype("float32") + 1


def expected(data: np.ndarray) -> np.ndarray:
    names: dict = {}
    exec(RECIPE, names)
    net: nn.Module = names["model"]().eval()
    with torch.no_grad():
        return np.stack([net(torch.from_numpy(one)).numpy() for one in data])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    recipe = written(folder, 1e-5)
    edgekit.build(recipe, target="x86", precision="fp32", output=folder / "bundle")
    return folder / "bundle"


def test_ten_chunks_are_as_in_torch(bundle) -> None:
    data = chunks()
    with Model(bundle) as model:
        assert [tensor.name for tensor in model.inputs] == ["frame"]
        for _ in range(2):
            found = [np.asarray(model(one)) for one in data]
            assert np.abs(np.stack(found) - expected(data)).max() < 1e-5
            model.reset()
        assert model.check() == []


def test_a_sequence_goes_on_after_another(bundle) -> None:
    data = chunks()
    with Model(bundle) as model:
        for one in data[:5]:
            model(one)
        state = model.state
        model.reset()
        model(data[0])
        model.state = state
        assert np.abs(np.asarray(model(data[5])) - expected(data[:6])[-1]).max() < 1e-5
        with pytest.raises(ValueError, match="state"):
            model.state = state[:1]


def test_the_manifest_names_the_state(bundle) -> None:
    manifest = read_manifest(bundle)
    assert [one.input for one in manifest.state] == STATES
    assert [one.output for one in manifest.state] == [f"{name}_next" for name in STATES]
    past = np.frombuffer((bundle / manifest.state[0].initial).read_bytes(), "<f4")
    assert (past == 0.5).all()
    assert past.size == 32
    assert [spec.name for spec in manifest.own_inputs] == ["frame"]
    edgekit.check(bundle)


def test_evaluate_carries_the_state(bundle) -> None:
    """It compares predict with torch, in torch, on the artifact and on a device."""
    record = json.loads((bundle / "verdict.json").read_text())
    assert record["accuracy"] == {"fp32": 100, "artifact": 100}
    assert edgekit.evaluate(bundle, "local").accuracy == 100


def test_run_takes_a_sequence_and_states(bundle, tmp_path) -> None:
    data = chunks()
    np.save(tmp_path / "x.npy", data)
    np.save(tmp_path / "last.npy", data[-1])
    edgekit.run(bundle, "local", inputs=[tmp_path / "x.npy"], outputs=[tmp_path / "y.npy"])
    assert np.abs(np.load(tmp_path / "y.npy") - expected(data)).max() < 1e-5
    np.save(tmp_path / "x.npy", data[:-1])
    states = [tmp_path / f"{name}.npy" for name in STATES]
    first = [tmp_path / "y.npy", *states]
    edgekit.run(bundle, "local", inputs=[tmp_path / "x.npy"], outputs=first)
    given = [tmp_path / "last.npy", *states]
    edgekit.run(bundle, "local", inputs=given, outputs=[tmp_path / "y.npy"])
    assert np.abs(np.load(tmp_path / "y.npy") - expected(data)[-1]).max() < 1e-5


def test_int8_stays_near_along_a_sequence(tmp_path) -> None:
    recipe = written(tmp_path, 0.1)
    output = tmp_path / "bundle"
    document = edgekit.build(recipe, target="x86", precision="int8", effort="quick", output=output)
    assert document.parity.sequence.sqnr_db > 20
    assert document.accuracy.artifact == 100
    data = chunks()
    with Model(output) as model:
        found = np.stack([np.asarray(model(one)) for one in data])
    noise = np.square(found - expected(data)).mean()
    assert 10 * np.log10(np.square(expected(data)).mean() / noise) > 20


def test_a_saved_program_keeps_its_state(tmp_path) -> None:
    names: dict = {}
    exec(RECIPE, names)
    frame = (torch.ones(1, 8, 2),)
    with torch.no_grad():
        program = torch.export.export(OneBuffer().eval(), frame)
    torch.export.save(program, tmp_path / "mean.pt2")
    edgekit.build(tmp_path / "mean.pt2", target="x86", precision="fp32", output=tmp_path / "bundle")
    data, net = chunks(), OneBuffer().eval()
    with Model(tmp_path / "bundle") as model, torch.no_grad():
        for one in data:
            wanted = net(torch.from_numpy(one)).numpy()
            assert np.abs(np.asarray(model(one)) - wanted).max() < 1e-5


class OneBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 8, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.mean(2, keepdim=True))
        return x - self.mean


def test_a_batch_is_not_split_across_a_state(tmp_path) -> None:
    path = written(tmp_path, 1)
    path.write_text(path.read_text() + "def evaluate(predict): predict(torch.ones(4, 8, 2))\n")
    with pytest.raises(RecipeError, match="one step"):
        edgekit.build(path, target="x86", precision="fp32", output=tmp_path / "bundle")


def test_what_trains_is_for_models_without_state(tmp_path) -> None:
    with pytest.raises(SettingError, match="past"):
        edgekit.build(written(tmp_path, 1), target="x86", prune=0.5, output=tmp_path / "bundle")
