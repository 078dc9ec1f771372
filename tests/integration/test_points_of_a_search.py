"""Stored points answer only the questions of the same model, data, device and versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy_runtime
import pytest
from test_workers import RECIPE, Counting

from edgekit.documents.environment import DeviceEnvironment
from edgekit.pipeline.fit import evaluator
from edgekit.pipeline.fit.evaluator import Evaluator
from edgekit.pipeline.fit.laboratory import CostTrial, WidthTrial
from edgekit.pipeline.fit.meter import Lowered, Meter
from edgekit.pipeline.model import cache_key
from edgekit.pipeline.model.cache_key import Fingerprint
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.subject import read_subject
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.recipe.recipe import open_recipe
from edgekit.runner.files import RunnerFiles
from edgekit.search.points import Points
from edgekit.target import load_target

pytestmark = pytest.mark.runtime

PLAN = Plan(precision="int8", seed=0)
TARGET = load_target("x86")


class Bench:
    """Evaluates one width and one cost, and says how many of them were computed."""

    def __init__(self, folder: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.recipe, self.monkeypatch = folder, recipe, monkeypatch
        self.device: object | None = None
        self.target, self.plan, self.version = TARGET, PLAN, "1"
        self.environment = DeviceEnvironment(model="board 1")
        monkeypatch.setattr(evaluator, "environment_of", lambda _: self.environment)
        monkeypatch.setattr(Meter, "time", lambda _, lowered: lowered.known)

    def computed(self, is_finished: bool = False) -> list[str]:
        runtime = numpy_runtime.NumpyRuntime(self.folder)
        runtime.version = self.version
        where, points = Counting(), Points(print, self.folder)
        with open_recipe(self.recipe, self.plan.seed) as recipe:
            subject = read_subject(recipe, True, Silent())
            fingerprint = Fingerprint(subject)
            files = RunnerFiles(self.folder / "runner", {})
            context = BuildContext(runtime, files, self.plan.seed, Silent(), fingerprint)
            meter = Meter(self.target, context, self.device)
            found = Evaluator(subject, meter, self.plan, where, points)
            (loss,) = found.losses("trying", [WidthTrial(group="first", removed=8)])
            (cost,) = found.costs("timing", [CostTrial(plan=self.plan, share=0.5)])
            if is_finished:
                found.forget_measured()
        points.close()
        assert loss.loss is not None and not isinstance(cost, Lowered) and cost.model_mb > 0
        return ["width" if '"width"' in one else "cost" for one in where.asked]

    def on(self, device: str) -> None:
        self.device = SimpleNamespace(transport=SimpleNamespace(name=device))


def edited(old: str, new: str) -> Callable[[Bench], None]:
    def edit(bench: Bench) -> None:
        assert old in bench.recipe.read_text()
        bench.recipe.write_text(bench.recipe.read_text().replace(old, new))

    return edit


def other_edgekit(bench: Bench) -> None:
    bench.monkeypatch.setattr(cache_key, "versions", lambda: ("another",))


BOTH = ["width", "cost"]
CHANGES = {
    "weights": (edited("torch.manual_seed(0)", "torch.manual_seed(2)"), BOTH),
    "data": (edited("torch.manual_seed(1)", "torch.manual_seed(3)"), BOTH),
    "code": (edited("relu(self.first(x))", "relu(torch.relu(self.first(x)))"), BOTH),
    "seed": (lambda bench: vars(bench).update(plan=PLAN.replaced(seed=1)), BOTH),
    "precision": (lambda bench: vars(bench).update(plan=Plan(precision="fp32")), BOTH),
    "runtime": (lambda bench: vars(bench).update(version="2"), BOTH),
    "edgekit": (other_edgekit, BOTH),
    "target": (lambda bench: vars(bench).update(target=TARGET.replaced(clock_ghz=1.5)), ["cost"]),
    "device": (lambda bench: bench.on("another"), ["cost"]),
    "board": (
        lambda bench: vars(bench).update(environment=DeviceEnvironment(model="board 2")),
        ["cost"],
    ),
    "no device": (lambda bench: vars(bench).update(device=None), ["cost"]),
}


@pytest.fixture
def bench(tmp_path, write_recipe, monkeypatch) -> Bench:
    found = Bench(tmp_path, write_recipe(RECIPE), monkeypatch)
    found.on("a device")
    return found


@pytest.mark.parametrize("changed", CHANGES)
def test_another_model_device_or_version_finds_none(bench, changed) -> None:
    assert bench.computed() == BOTH
    assert bench.computed() == []
    change, computed = CHANGES[changed]
    change(bench)
    assert bench.computed() == computed


def test_what_a_device_measured_is_forgotten_when_the_build_is_complete(bench) -> None:
    assert bench.computed(is_finished=True) == BOTH
    assert bench.computed() == ["cost"]
    bench.device = None
    assert bench.computed(is_finished=True) == ["cost"]
    assert bench.computed() == [], "a prediction stays"


def test_budgets_are_not_part_of_the_keys(bench) -> None:
    bench.computed()
    bench.target = TARGET.replaced(budgets={"latency_ms": 3})
    assert bench.computed() == []


def test_a_model_that_cannot_be_read_completely_is_measured_each_time(bench, monkeypatch) -> None:
    monkeypatch.setattr(Fingerprint, "key", lambda *_: None)
    assert bench.computed() == BOTH and bench.computed() == BOTH
