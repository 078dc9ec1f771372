"""Nested inputs from the recipe to the device, of a model that changes them and is bfloat16."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import edgekit
from edgekit.portable.edgekit_model import Model

pytestmark = pytest.mark.runtime

RECIPE = """
from torch.nn.utils import parametrizations

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.imu = parametrizations.weight_norm(nn.Linear(6, 8))
        self.gps = nn.LazyLinear(8)

    def forward(self, batch, *, scale, states=None):
        batch["imu"] -= 0.5
        batch["imu"][:, :2] *= 2
        y = self.imu(batch["imu"]) + self.gps(batch["gps"].to(torch.bfloat16)) * scale
        return {"out": torch.relu(y) + states[0], "state": (states[1] + 1,)}

def model():
    return Net().to(torch.bfloat16)

def inputs(count):
    given = lambda *shape: torch.rand(count, *shape, dtype=torch.bfloat16)
    return {
        "batch": {"imu": given(6), "gps": given(3)}, "scale": given(8),
        "states": [given(8), given(8)],
    }

def example_inputs():
    return inputs(1)

def calibration():
    return [inputs(1) for _ in range(12)]

def evaluate(predict):
    given = inputs(3)
    joined = predict(**given)["out"]
    one = {"imu": given["batch"]["imu"][:1], "gps": given["batch"]["gps"][:1]}
    states = [state[:1] for state in given["states"]]
    alone = predict(one, scale=given["scale"][:1], states=states)
    assert len(joined) == 3 and torch.allclose(joined[:1], alone["out"], atol=1e-5)
    assert alone["state"][0].shape == (1, 8)
    return 70.0
"""
NAMES = ["batch_imu", "batch_gps", "scale", "states_0", "states_1"]


def test_from_the_recipe_to_the_device(write_recipe, tmp_path) -> None:
    data = {
        name: np.random.default_rng(0).random((12, 1, size), np.float32)
        for name, size in zip(NAMES, (6, 3, 8, 8, 8), strict=True)
    }
    np.savez(tmp_path / "data.npz", **data)
    built = edgekit.build(
        write_recipe(RECIPE),
        target="x86",
        precision="int8",
        calibration=tmp_path / "data.npz",
        effort="quick",
        output=tmp_path / "out",
    )
    assert [spec.name for spec in built.program.inputs] == NAMES
    assert {spec.dtype for spec in built.program.inputs} == {"float32"}
    assert "bfloat16" in built.notes[0]
    assert built.accuracy.artifact == 70.0
    golden = json.loads((tmp_path / "out" / "manifest.json").read_bytes())["program"]["outputs"]
    assert [spec["name"] for spec in golden] == ["out", "state.0"]
    given = {name: array[0] for name, array in data.items()}
    with Model(tmp_path / "out") as model:
        by_name = [np.asarray(y) for y in model(**given)]
        by_place = [np.asarray(y) for y in model(*(given[name] for name in NAMES))]
    for one, other in zip(by_name, by_place, strict=True):
        assert np.array_equal(one, other)
    for name, array in given.items():
        np.save(tmp_path / f"{name}.npy", array)
    files = [f"{name}={tmp_path / name}.npy" for name in reversed(NAMES)]
    results = [tmp_path / "y.npy", tmp_path / "z.npy"]
    edgekit.run(tmp_path / "out", "local", inputs=files, outputs=results)
    assert np.array_equal(np.load(results[0]), by_name[0])
    assert torch.allclose(
        torch.from_numpy(by_name[1]), torch.from_numpy(given["states_1"]) + 1, atol=0.02
    )
