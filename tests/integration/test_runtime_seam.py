"""The seam: each runtime keeps the contract, and the pipeline works with one that has no PT2E."""

from __future__ import annotations

import json
from pathlib import Path

import numpy_runtime
import pytest
from conftest import DIGITS
from numpy_runtime import RECIPE
from runtime_contract import RuntimeContract

import edgekit
from edgekit.errors import MissingExtraError, SettingError, TargetError
from edgekit.plan import Plan, Training
from edgekit.runtimes import registry
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.registry import RUNTIMES, Entry, choose_runtime
from edgekit.target import Target, load_target

pytestmark = pytest.mark.runtime


class TestExecuTorch(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        return RUNTIMES["executorch"].create()


class TestNumpy(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls, numpy_entry: Entry) -> Runtime:
        return numpy_entry.create()


def target(*runtimes: str) -> Target:
    return load_target("x86").replaced(runtimes=runtimes)


class TestChoosing:
    def test_a_runtime_that_the_target_does_not_list(self) -> None:
        with pytest.raises(TargetError, match="its runtimes are litert, tflite"):
            choose_runtime("executorch", target("litert", "tflite"))

    def test_without_a_choice_the_first_that_the_target_lists_and_that_is_installed(
        self, numpy_entry, monkeypatch
    ) -> None:
        assert choose_runtime(None, target("executorch", "litert")).name == "executorch"
        assert choose_runtime(None, target("litert", "executorch")).name == "litert"

        def not_installed() -> Runtime:
            raise MissingExtraError("building for ExecuTorch", "executorch")

        entry = Entry(not_installed, RUNTIMES["executorch"].host, RUNTIMES["executorch"].locate)
        monkeypatch.setitem(registry.RUNTIMES, "executorch", entry)
        assert choose_runtime(None, target("executorch", "litert")).name == "litert"
        with pytest.raises(MissingExtraError):
            choose_runtime(None, target("executorch"))
        with pytest.raises(MissingExtraError):
            choose_runtime("executorch", target("executorch", "litert"))

    def test_a_target_on_which_no_runtime_that_it_lists_runs(self) -> None:
        board = target("executorch", "litert").replaced(architecture="armv7l")
        with pytest.raises(TargetError, match="armv7l"):
            choose_runtime(None, board)

    def test_the_command_line_says_so(self, edgekit_command) -> None:
        done = edgekit_command("build", str(DIGITS), "--target", "x86", "--runtime", "tflite")
        assert done.returncode == 1
        assert "tflite" in done.stderr
        done = edgekit_command("build", str(DIGITS), "--target", "x86", "--runtime", "onnx")
        assert done.returncode == 2


@pytest.fixture
def recipe(write_recipe, numpy_entry) -> Path:
    return write_recipe(RECIPE)


def test_a_build_by_a_runtime_that_quantizes_after_conversion(recipe, tmp_path) -> None:
    document = edgekit.build(recipe, target=target("litert"), output=tmp_path / "bundle")
    assert document.runtime == "litert"
    assert document.plan.precision == "int8"
    assert document.parity is not None
    assert document.parity.passed
    assert document.parity.reference == "the eager model in torch"
    assert {layer.layer for layer in document.program.layers if layer.quantized} == {"0", "2"}
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["runtime"]["name"] == "litert"
    measured = edgekit.bench(tmp_path / "bundle", "local", runs=5)
    assert measured.parity.passed
    assert [row.layer for row in measured.per_op][:3] == ["0", "1", "2"]


def test_a_finished_file_of_that_runtime(recipe, tmp_path) -> None:
    edgekit.build(recipe, target=target("litert"), precision="fp32", output=tmp_path / "bundle")
    finished = tmp_path / "bundle" / "model.npz"
    both = target("executorch", "litert")
    document = edgekit.build(finished, target=both, output=tmp_path / "again")
    assert document.runtime == "litert"
    assert document.parity is None
    assert (tmp_path / "again" / "model.npz").read_bytes() == finished.read_bytes()


def test_int8_that_loses_too_much_is_not_repaired_there(recipe, tmp_path, monkeypatch) -> None:
    """No searches run; auto goes on to fp32 and says why."""
    monkeypatch.setattr(numpy_runtime.np, "round", lambda values: values * 0)
    document = edgekit.build(recipe, target=target("litert"), output=tmp_path / "bundle")
    assert document.plan.precision == "fp32"
    reasons = {rung.precision: rung.reason for rung in document.ladder}
    assert reasons.keys() == {"int8", "int8 repaired", "fp32"}
    assert "quantizes after conversion" in reasons["int8 repaired"]
    assert document.blame == ()


@pytest.mark.parametrize(
    "plan",
    [
        Plan(precision="int8", equalize=0.5),
        Plan(
            precision="int8", train=Training(objective="float_model", steps=2, learning_rate=1e-3)
        ),
    ],
)
def test_a_plan_with_repairs_is_refused_there(recipe, tmp_path, plan) -> None:
    with pytest.raises(SettingError, match="litert"):
        edgekit.build(recipe, target=target("litert"), plan=plan, output=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_training_in_int8_is_refused_there(recipe, tmp_path) -> None:
    with pytest.raises(SettingError, match="training in int8"):
        edgekit.build(recipe, target=target("litert"), distill=True, output=tmp_path / "bundle")
