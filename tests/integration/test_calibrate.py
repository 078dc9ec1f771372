"""targets calibrate on this host, with few small networks, and a build that is predicted by it."""

from __future__ import annotations

import json
from random import Random

import pytest
import torch
from torch import nn

from edgekit.budget import BudgetLine
from edgekit.commands import calibrate as command
from edgekit.commands.build import build
from edgekit.commands.calibrate import calibrate_device
from edgekit.commands.check import check
from edgekit.cost.calibration.store import calibration_folder, read_all
from edgekit.documents.latency import LatencyParts
from edgekit.errors import CalibrationError
from edgekit.measure import calibration as measuring
from edgekit.pipeline.calibration import programs
from edgekit.pipeline.calibration.programs import Network
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.runtimes import registry
from edgekit.target import Target

pytestmark = pytest.mark.runtime

RECIPE = """
import torch
from torch import nn

def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 24, 3), nn.Sigmoid()).eval()

def example_inputs():
    return (torch.zeros(1, 3, 20, 20),)
"""


CALIBRATION = """
def calibration():
    torch.manual_seed(2)
    return [(torch.rand(1, 3, 20, 20),) for _ in range(4)]
"""


def convolutions(random: Random) -> nn.Module:
    channels, layers = 3, []
    for _ in range(6):
        outputs = random.randint(8, 40)
        layers += [nn.Conv2d(channels, outputs, 3), nn.ReLU()]
        channels = outputs
    return nn.Sequential(*layers)


def image(generator: torch.Generator):
    return (torch.randn(1, 3, 24, 24, generator=generator),)


@pytest.fixture
def few(tmp_path, monkeypatch):
    """Three networks, one precision, two rounds, in a data folder of its own.

    As on a host whose cores do not compute in half precision.
    """
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    networks = tuple(Network(f"few{number}", convolutions, image) for number in range(3))
    monkeypatch.setattr(programs, "NETWORKS", networks)
    monkeypatch.setattr(programs, "PRECISIONS", ("fp32",))
    monkeypatch.setattr(measuring, "ROUNDS", 2)
    monkeypatch.setattr(Target, "computes_half", False)


def test_a_build_is_predicted_by_the_calibration_of_this_host(few, tmp_path, monkeypatch) -> None:
    document = calibrate_device("local", lenient=True)
    (found,), errors = read_all()
    assert not errors
    assert document.runtime_version == found.runtime_version
    assert {one.network for one in found.programs} == {"few0", "few1", "few2"}
    assert {quality.threads for quality in document.quality} == set(found.threads)
    assert all(one.latency_ms > 0 and sum(one.operator_ms) > 0 for one in found.programs)
    names = [entry.name for entry in calibration_folder().iterdir()]
    assert names == [document.file.rpartition("/")[2]]  # no draft is left

    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    built = build(
        recipe, target="x86", precision="fp32", effort="quick", latency_ms=1000,
        output=tmp_path / "bundle",
    )  # fmt: skip
    (line,) = [one for one in built.budgets if one.name == "latency_ms"]
    assert (line.source, line.status) == ("predicted", "ok")
    assert found.device.title in line.note
    assert "sigmoid" in line.note  # a kind that no network of the calibration has
    assert_parts_are_those_of(line, built.latency)
    checked = check(tmp_path / "bundle")
    assert checked.latency == built.latency

    finished = build(
        tmp_path / "bundle" / "model.pte", target="x86", latency_ms=1000, output=tmp_path / "again"
    )
    (again,) = [one for one in finished.budgets if one.name == "latency_ms"]
    assert (again.value, again.interval) == (line.value, line.interval)
    assert_parts_are_those_of(again, finished.latency)


def assert_parts_are_those_of(line: BudgetLine, parts: LatencyParts) -> None:
    assert (parts.source, parts.method) == (line.source, "calibrated")
    assert (parts.latency_ms, parts.interval) == (line.value, line.interval)
    assert [one.kind for one in parts.operators].count("convolution") == 2
    total_ms = sum(one.latency_ms for one in parts.operators) + parts.rest_ms
    assert total_ms == pytest.approx(line.value, rel=1e-3)


def test_a_damaged_calibration_is_not_replaced(few) -> None:
    document = calibrate_device("local", lenient=True)
    path = calibration_folder() / document.file.rpartition("/")[2]
    path.write_text(json.dumps({"schema": "edgekit.calibration/1"}))
    with pytest.raises(CalibrationError):
        calibrate_device("local", lenient=True)
    assert path.read_text() == json.dumps({"schema": "edgekit.calibration/1"})


def test_an_interrupted_calibration_goes_on(few, monkeypatch) -> None:
    taken = []
    real = measuring.measure

    def until_stopped(*arguments, **keywords):
        if len(taken) == 9:
            raise KeyboardInterrupt
        taken.append(keywords["threads"])
        return real(*arguments, **keywords)

    monkeypatch.setattr(measuring, "measure", until_stopped)
    with pytest.raises(KeyboardInterrupt):
        calibrate_device("local", lenient=True)
    assert not read_all()[0]
    notes: list[str] = []
    monkeypatch.setattr(command.Silent, "note", lambda self, text: notes.append(text))
    monkeypatch.setattr(measuring, "measure", lambda *a, **k: taken.append(0) or real(*a, **k))
    document = calibrate_device("local", lenient=True)
    assert any("continued" in note for note in notes)
    threads = len(document.quality)
    assert len(taken) == 9 + 2 * 2 * 3 * threads - 8  # the ninth was half a measurement


def test_half_precision_is_calibrated_where_cores_compute_in_it(few, tmp_path, monkeypatch) -> None:
    """Any host can run the programs, so this one stands for such a device.

    A mixed program whose float layers are in half precision is predicted too.
    """
    monkeypatch.setattr(Target, "computes_half", True)
    calibrate_device("local", lenient=True)
    (found,), _ = read_all()
    assert {one.precision for one in found.programs} == {"fp32", "fp16"}
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE + CALIBRATION)
    mixed = Plan(precision="mixed", float_layers=("2",), float_as="fp16", seed=0)
    for name, wanted in (("fp16", Plan(precision="fp16", seed=0)), ("mixed", mixed)):
        built = build(
            recipe, target="x86", plan=wanted, effort="quick", latency_ms=1000,
            output=tmp_path / name,
        )  # fmt: skip
        assert built.latency.method == "calibrated"
        convolutions = [one for one in built.latency.operators if one.kind == "convolution"]
        assert convolutions[-1].precision == "fp16"


def test_without_a_runtime_in_half_precision_nothing_is_calibrated_in_it(few) -> None:
    class FloatOnly(type(registry.RUNTIMES["executorch"].create())):
        half = None

    found = programs.calibration_programs(FloatOnly(), Silent(), with_half=True)
    assert {one.precision for one in found} == {"fp32"}
