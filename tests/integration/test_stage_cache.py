"""The same again is fast, and never another model's: what a build keeps, and when it counts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_edgekit

import edgekit
from edgekit.progress import Silent

pytestmark = pytest.mark.runtime

RECIPE = """
import helper

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 3)
        self.slope = 0.5

    def forward(self, x):
        return self.second(helper.bend(self.first(x), self.slope))

def model():
    return Net()

def example_inputs():
    return (torch.ones(1, 6),)

def calibration():
    return [(torch.rand(1, 6),) for _ in range(6)]
"""
HELPER = """
import os
import torch

def bend(x, slope):
    return torch.relu(x) * slope * float(os.environ.get("GAIN", "1"))
"""


class Notes(Silent):
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def recipe(write_recipe, tmp_path, fresh_cache) -> Path:
    (tmp_path / "helper.py").write_text(HELPER)
    return write_recipe(RECIPE)


@pytest.fixture
def build(recipe, monkeypatch):
    """Build, and give how often something was lowered for it."""
    from edgekit.runtimes.executorch import lower

    lowerings = []
    real = lower.lower
    monkeypatch.setattr(lower, "lower", lambda exported: lowerings.append(1) or real(exported))

    def run(**options) -> int:
        lowerings.clear()
        options.setdefault("precision", "int8")
        options.setdefault("effort", "quick")
        options.setdefault("output", recipe.parent / "out")
        edgekit.build(recipe, target=options.pop("target", "x86"), **options)
        return len(lowerings)

    return run


def bytes_of(bundle: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(bundle)): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file() and path.name != "verdict.json"
    }


def test_the_same_again_lowers_nothing_and_gives_the_same(build, recipe) -> None:
    assert build() == 1
    first = bytes_of(recipe.parent / "out")
    notes = Notes()
    assert build(progress=notes) == 0
    assert bytes_of(recipe.parent / "out") == first
    assert any("loaded from the cache" in note for note in notes.said)


def test_another_target_takes_the_same_artifact(build, recipe) -> None:
    assert build() == 1
    assert build(target="rpi4", output=recipe.parent / "pi") == 0
    assert (recipe.parent / "pi" / "model.pte").read_bytes() == (
        recipe.parent / "out" / "model.pte"
    ).read_bytes()


def test_each_precision_is_kept_for_itself(build) -> None:
    assert build(precision="fp32") == 1
    assert build() == 1
    assert build(precision="fp32") == 0


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("recipe.py", "return Net()", "torch.manual_seed(7); return Net()"),
        ("recipe.py", "torch.ones(1, 6)", "torch.zeros(1, 6)"),
        ("recipe.py", "range(6)", "range(7)"),
        ("recipe.py", "slope = 0.5", "slope = 0.25"),
        ("recipe.py", "Net()\n", "Net().requires_grad_(False)  # the same model\n"),
        ("helper.py", "torch.relu(x)", "torch.tanh(x)"),
    ],
    ids=["weights", "example", "calibration", "attribute", "source", "local module"],
)
def test_what_goes_in_decides(build, recipe, file, old, new) -> None:
    assert build() == 1
    path = recipe.parent / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert build() == 1
    assert build() == 0


def test_another_seed_is_another_build(build) -> None:
    assert build(seed=1) == 1
    assert build(seed=2) == 1


def test_a_forward_that_reads_elsewhere_is_found_by_its_outputs(build, monkeypatch) -> None:
    assert build() == 1
    monkeypatch.setenv("GAIN", "3")
    assert build() == 1
    assert build() == 0
    monkeypatch.delenv("GAIN")
    assert build() == 0


def test_a_quantized_program_of_another_model_is_not_taken(
    build, recipe, fresh_cache, monkeypatch
) -> None:
    """Both stages are asked, not the artifact alone: here only the program was kept."""
    assert build() == 1
    shutil.rmtree(next((fresh_cache / "stages").glob("artifact-*")))
    monkeypatch.setenv("GAIN", "5")
    notes = Notes()
    assert build(progress=notes) == 1
    assert not any("quantized model is loaded" in note for note in notes.said)


def test_a_named_tuple_as_output(build, recipe) -> None:
    """The quantized program is written down with the structure of its outputs."""
    source = recipe.read_text().replace(
        "return self.second(helper.bend(self.first(x), self.slope))",
        "return Pair(self.second(helper.bend(self.first(x), self.slope)), x)",
    )
    pair = "import typing\nPair = typing.NamedTuple('Pair', a=torch.Tensor, b=torch.Tensor)\n"
    recipe.write_text(source.replace("class Net", pair + "class Net"))
    assert build() == 1
    assert build() == 0


def test_what_cannot_be_kept_is_built_all_the_same(build, monkeypatch) -> None:
    import torch

    def full(*_) -> None:
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    notes = Notes()
    assert build(progress=notes) == 1
    assert any("cannot be cached" in note for note in notes.said)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "no digests"])
def test_a_damaged_entry_is_made_anew(build, recipe, fresh_cache, damage) -> None:
    build()
    whole = bytes_of(recipe.parent / "out")
    (entry,) = (fresh_cache / "stages").glob("artifact-*")
    model = entry / "model.pte"
    if damage == "flip":
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    elif damage == "truncate":
        os.truncate(model, 10)
    elif damage == "remove":
        model.unlink()
    else:
        (entry / "digests.json").write_text("[]")
    assert build() == 1
    assert bytes_of(recipe.parent / "out") == whole


def test_a_cache_that_cannot_be_written_costs_only_time(build, fresh_cache, monkeypatch) -> None:
    (fresh_cache / "stages").write_text("in the way")
    notes = Notes()
    assert build(progress=notes) == 1
    assert build(progress=notes) == 1
    assert any("cannot be cached" in note for note in notes.said)


def test_a_killed_build_goes_on_from_its_last_stage(recipe, fresh_cache) -> None:
    command = ["build", str(recipe), "--target", "x86", "--precision", "int8"]
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit", *command],
            stderr=subprocess.PIPE, text=True, cwd=recipe.parent,
        )  # fmt: skip
        for line in process.stderr:
            if "lowering" in line:
                break
        process.send_signal(how)
        process.communicate(timeout=600)
        entries = [path.name.split("-")[0] for path in (fresh_cache / "stages").glob("[!.]*")]
        assert entries == ["program"]  # calibrated, not lowered
    done = run_edgekit(*command, cwd=recipe.parent)
    assert done.returncode == 0, done.stderr
    assert "the quantized model is loaded from the cache" in done.stderr
    assert list((fresh_cache / "stages").glob("artifact-*"))


def test_two_builds_at_once_do_not_disturb_each_other(recipe, tmp_path) -> None:
    command = [sys.executable, "-m", "edgekit", "build", str(recipe), "--target", "x86"]
    both = [
        subprocess.Popen(
            [*command, "--precision", "int8", "--output", str(tmp_path / name)],
            stderr=subprocess.PIPE, text=True,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    for process in both:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_clearing_removes_what_is_made_again(build, fresh_cache) -> None:
    from edgekit import cache

    build()
    names = {name for name, _, _ in cache.usage()}
    assert "stages" in names
    for name in ("runners", "zig"):  # links to this machine's own in these tests
        (fresh_cache / name).unlink()
    (fresh_cache / "runners").mkdir()
    assert cache.clear() > 0
    # pythons: of these tests (old_python.py)
    assert {name for name, _, _ in cache.usage()} - {"pythons"} == {"emulated-pi"}
    shutil.rmtree(fresh_cache / "stages", ignore_errors=True)
    assert cache.clear() == 0
