"""Recipes that change what is around them, and places with odd names or without permission."""

from __future__ import annotations

import json
import os
import shutil
import sys

import pytest
from conftest import run_edgekit

import edgekit
from edgekit.errors import OutputError, RecipeError

pytestmark = pytest.mark.runtime

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))

def model():
    net = Net().to_empty(device="cpu").to(torch.float32)
    like = {"device": "cpu", "dtype": torch.float32}
    for weight in net.parameters():
        weight.data = torch.linspace(-1, 1, weight.numel(), **like).reshape(weight.shape)
    return net

def example_inputs():
    torch.manual_seed(1)
    return (torch.rand(1, 6, device="cpu", dtype=torch.float32),)

def calibration():
    torch.manual_seed(2)
    for _ in range(6):
        yield (torch.rand(1, 6, device="cpu", dtype=torch.float32),)
"""
NOISY = """
import os, subprocess, sys, threading, time

def speak():
    while True:
        print("a thread speaks")
        time.sleep(0.5)

threading.Thread(target=speak).start()
print("the recipe speaks")
os.write(1, b"straight to the descriptor")
subprocess.run(["echo", "a child speaks"])

def evaluate(predict):
    print("evaluate speaks")
    return 50.0
"""


@pytest.fixture
def build(tmp_path):
    def run(recipe, **options):
        options.setdefault("output", tmp_path / "out")
        options.setdefault("precision", "int8")
        return edgekit.build(recipe, target="x86", **options)

    return run


@pytest.mark.parametrize(
    "setting",
    [
        "torch.set_default_dtype(torch.float64)",
        "torch.set_default_device('meta')",
        "torch.set_grad_enabled(False)",
        "torch.set_num_threads(1)",
    ],
)
def test_a_recipe_that_sets_a_default(write_recipe, build, tmp_path, setting) -> None:
    """The same model, inputs and data: the same bytes, and nothing is left set."""
    import torch

    build(write_recipe(NET, "plain.py"), output=tmp_path / "plain")
    threads = torch.get_num_threads()
    try:
        assert build(write_recipe(setting + NET)).parity.passed
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(True)
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_device().type == "cpu"
    made, plain = tmp_path / "out" / "model.pte", tmp_path / "plain" / "model.pte"
    assert made.read_bytes() == plain.read_bytes()


def test_a_model_without_values_is_refused(write_recipe, build) -> None:
    source = "torch.set_default_device('meta')\n" + NET.replace("return net", "return Net()")
    with pytest.raises(RecipeError, match="weights without values"):
        build(write_recipe(source))


def test_inputs_without_values_are_refused(write_recipe, build) -> None:
    source = NET.replace('torch.rand(1, 6, device="cpu"', 'torch.rand(1, 6, device="meta"', 1)
    with pytest.raises(RecipeError, match=r"example_inputs\(\): input 'x' is on the 'meta'"):
        build(write_recipe(source))


def test_a_recipe_that_prints_and_spawns_threads(write_recipe, tmp_path) -> None:
    recipe = write_recipe(NET + NOISY)
    done = run_edgekit("build", str(recipe), "--target", "x86", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"]["artifact"] == 50.0
    for said in ("the recipe", "a thread", "a child", "evaluate"):
        assert f"{said} speaks" in done.stderr
    assert "straight to the descriptor" in done.stderr


@pytest.mark.parametrize("folder", ["with space ünïcödé 模型", 'it\'s "quoted" $HOME;'])
def test_places_with_odd_names(tmp_path, monkeypatch, folder) -> None:
    """Recipe, local module, bundle, store and temporary files: all of them there."""
    place = tmp_path / folder
    (place / "tmp").mkdir(parents=True)
    (place / "recipe.py").write_text("import helper\nimport torch\nfrom torch import nn\n" + NET)
    (place / "helper.py").write_text("x = 1\n")
    monkeypatch.setenv("EDGEKIT_ROOT", str(place / "store"))
    environment = os.environ | {"TMPDIR": str(place / "tmp")}
    for command in (
        ["build", str(place / "recipe.py"), "--target", "x86", "--output", str(place / "out")],
        ["check", str(place / "out")],
        ["bench", str(place / "out"), "local", "--runs", "3"],
        ["deploy", str(place / "out"), "local"],
    ):
        options = ["--name", "odd"] if command[0] == "build" else []
        done = run_edgekit(*command, *options, cwd=place, env=environment)
        assert done.returncode == 0, (command[0], done.stderr)


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root may all")
def test_no_permission_to_write(tmp_path, write_recipe) -> None:
    recipe = write_recipe(NET)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    command = [sys.executable, "-m", "edgekit", "build", str(recipe), "--target", "x86"]
    if os.geteuid() != 0:
        with pytest.raises(OutputError, match="cannot be made"):
            edgekit.build(recipe, target="x86", output=closed / "out")
        return
    import subprocess

    # root is refused nothing: without its capabilities it is
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", *command,
         "--output", str(closed / "out")],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert f"{closed / 'out'} cannot be made" in done.stderr
    assert list(closed.iterdir()) == []


def test_a_cache_that_is_cleared_meanwhile_is_told(write_recipe, fresh_cache, tmp_path):
    clearing = f"""
import os

def evaluate(predict):
    os.unlink({str(fresh_cache / "runners")!r})  # the test's own link, not the runners
    return 50.0
"""
    recipe = write_recipe(NET + clearing)
    done = run_edgekit(
        "build", recipe, "--target", "x86", "--precision", "fp32", "--output", tmp_path / "out",
        "--json",
    )  # fmt: skip
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert "cache" in document["hint"]
    assert not (tmp_path / "out").exists()
