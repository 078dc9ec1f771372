"""``--runtime auto``: built for all runtimes of the target, compared, and the best one kept."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy_runtime
import pytest
from conftest import ROOT
from numpy_runtime import RECIPE

import edgekit
from edgekit.bundle.manifest import read_manifest
from edgekit.documents.runtimes import RuntimeCandidate
from edgekit.documents.verdict import VerdictDocument
from edgekit.errors import ExportError, MissingExtraError, RuntimeFailure
from edgekit.pipeline import choose_runtime
from edgekit.pipeline.bundle_build import BundleBuild
from edgekit.plan import Plan
from edgekit.runtimes import registry
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.registry import RUNTIMES, Entry
from edgekit.target import Target, load_target

pytestmark = pytest.mark.runtime
SCHEMA = json.loads((ROOT / "edgekit" / "schemas" / "contract.schema.json").read_text())


@pytest.fixture
def recipe(write_recipe, numpy_entry) -> Path:
    return write_recipe(RECIPE)


def target(*runtimes: str) -> Target:
    return load_target("x86").replaced(runtimes=runtimes)


def build(recipe: Path, tmp_path: Path, *runtimes: str, **options) -> VerdictDocument:
    options = {"runtime": "auto", "effort": "quick", "output": tmp_path / "bundle"} | options
    return edgekit.build(recipe, target=target(*runtimes), **options)


def by_name(document: VerdictDocument) -> dict[str, RuntimeCandidate]:
    return {one.runtime: one for one in document.runtimes}


def test_the_faster_one_is_kept(recipe, tmp_path) -> None:
    document = build(recipe, tmp_path, "litert", "executorch", device="local")
    assert document.runtime == "executorch"
    found = by_name(document)
    assert document.runtimes[0] == found["executorch"]
    assert found["executorch"].kept
    lost = found["litert"]
    assert not lost.kept
    assert lost.latency_ratio is not None and lost.latency_ratio[1] > 1
    assert lost.latency_source == "measured"
    assert lost.peak_memory_mb > found["executorch"].peak_memory_mb
    assert (tmp_path / "bundle" / "model.pte").is_file()
    assert {path.name for path in tmp_path.iterdir()} >= {"bundle", "recipe.py"}
    assert not list(tmp_path.glob(".edgekit*"))
    jsonschema.validate(json.loads(document.to_json()), SCHEMA)
    again = edgekit.check(tmp_path / "bundle")
    assert again.runtimes == document.runtimes


@pytest.mark.parametrize("limits", [{}, {"memory_mb": 1, "effort": "normal"}])
def test_the_device_keeps_the_best_release_and_what_it_had(
    recipe, tmp_path, monkeypatch, limits
) -> None:
    """Also after a search, which installs more."""
    monkeypatch.setenv("EDGEKIT_ROOT", str(tmp_path / "store"))
    options = {"device": "local", "name": "net"} | limits
    alone = build(recipe, tmp_path, "litert", name="net", runtime=None, output=tmp_path / "old")
    edgekit.deploy(tmp_path / "old", "local")
    build(recipe, tmp_path, "litert", "executorch", **options)
    kept = read_manifest(tmp_path / "bundle").digest
    now = {row.release: row.current for row in edgekit.ls("local").bundles}
    before = read_manifest(Path(alone.bundle)).digest
    assert now == {before[:16]: True, kept[:16]: False}


def test_the_losers_release_stays_if_it_was_there_before(recipe, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEKIT_ROOT", str(tmp_path / "store"))
    options = {"device": "local", "name": "net"}
    lost = build(recipe, tmp_path, "litert", runtime=None, output=tmp_path / "old", **options)
    document = build(recipe, tmp_path, "litert", "executorch", **options)
    assert document.runtime == "executorch"
    ids = {read_manifest(Path(one.bundle)).digest[:16] for one in (lost, document)}
    assert {row.release for row in edgekit.ls("local").bundles} == ids


@pytest.mark.parametrize(("size_mb", "verdict"), [(1, "missed"), (0.3, None)])
def test_a_budget_that_only_the_slower_one_meets(recipe, tmp_path, size_mb, verdict) -> None:
    """Where no model would fit beside the runtime's own files, it is refused before a build."""
    document = build(recipe, tmp_path, "executorch", "litert", size_mb=size_mb)
    assert document.runtime == "litert"
    assert document.verdict == "fits"
    lost = by_name(document)["executorch"]
    assert lost.verdict == verdict
    assert lost.reason


def test_without_a_device_and_a_prediction_memory_decides(recipe, tmp_path) -> None:
    document = build(recipe, tmp_path, "litert", "executorch")
    assert document.runtime == "executorch"
    assert by_name(document)["litert"].latency_ratio is None


def test_a_runtime_that_cannot_follow_the_plan_is_left_out(recipe, tmp_path) -> None:
    plan = Plan(precision="int8", equalize=0.5)
    document = build(recipe, tmp_path, "litert", "executorch", plan=plan)
    assert document.runtime == "executorch"
    assert "quantizes after conversion" in by_name(document)["litert"].reason


def test_a_runtime_that_is_not_installed_is_named(recipe, tmp_path, monkeypatch) -> None:
    def not_installed() -> Runtime:
        raise MissingExtraError("building for ExecuTorch", "executorch")

    entry = Entry(not_installed, RUNTIMES["executorch"].host, RUNTIMES["executorch"].locate)
    monkeypatch.setitem(registry.RUNTIMES, "executorch", entry)
    document = build(recipe, tmp_path, "executorch", "litert")
    assert document.runtime == "litert"
    assert "extra" in by_name(document)["executorch"].reason
    with pytest.raises(MissingExtraError):
        build(recipe, tmp_path, "executorch")


def test_if_all_fail_the_first_error_is_raised_and_the_old_bundle_stays(
    recipe, tmp_path, monkeypatch
) -> None:
    build(recipe, tmp_path, "executorch")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()

    def fail(*_: object) -> None:
        raise RuntimeFailure("no lowering today")

    monkeypatch.setattr(numpy_runtime.NumpyRuntime, "lower", fail)
    with pytest.raises(RuntimeFailure, match="no lowering"):
        build(recipe, tmp_path, "litert", precision="fp32")
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before
    assert not list(tmp_path.glob(".edgekit*"))


def test_an_error_of_the_model_ends_the_build_at_once(write_recipe, numpy_entry, tmp_path) -> None:
    recipe = write_recipe(
        RECIPE.replace("nn.ReLU()", "Odd()") + "class Odd(nn.Module):\n    def forward(self, x):\n"
        "        return x if x.sum() > 0 else -x\n"
    )
    with pytest.raises(ExportError):
        build(recipe, tmp_path, "executorch", "litert", precision="fp32")


def test_every_runtime_builds_the_same_model(write_recipe, numpy_entry, tmp_path) -> None:
    """A recipe may draw random numbers, and its data may be an iterator that ends."""
    recipe = write_recipe(
        """
def model():
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 10)).eval()

def example_inputs():
    return (torch.zeros(1, 16),)

DATA = iter([(torch.randn(1, 16),) for _ in range(60)])

def calibration():
    return DATA
"""
    )
    kept = build(recipe, tmp_path, "litert", "executorch")
    assert {one.runtime for one in kept.runtimes if one.verdict} == {"litert", "executorch"}
    alone = build(recipe, tmp_path, "executorch", runtime=None, output=tmp_path / "alone")
    models = [tmp_path / name / "model.pte" for name in ("bundle", "alone")]
    assert kept.runtime == alone.runtime
    assert models[0].read_bytes() == models[1].read_bytes()


def test_a_runtime_whose_runner_cannot_be_made_is_left_out(recipe, tmp_path, monkeypatch) -> None:
    def offline(*_: object) -> None:
        raise RuntimeFailure("the wheel cannot be fetched")

    monkeypatch.setattr(numpy_runtime.NumpyRuntime, "runner_files", offline)
    document = build(recipe, tmp_path, "litert", "executorch")
    assert document.runtime == "executorch"
    assert "wheel" in by_name(document)["litert"].reason


def test_the_search_goes_on_for_each(recipe, tmp_path) -> None:
    document = build(recipe, tmp_path, "executorch", "litert", effort="normal", memory_mb=1)
    assert document.verdict == "missed"
    assert document.search is not None
    assert document.runtime == "executorch"  # it is nearer to the budget


@pytest.mark.parametrize("fails", [False, True])
def test_the_time_limit_is_shared(recipe, tmp_path, monkeypatch, fails) -> None:
    """A build that fails at once leaves nearly all to the next one."""
    limits = []
    run = BundleBuild.run

    def watched(job, *arguments):
        limits.append(job.options.time_limit_s)
        if fails and len(limits) == 1:
            raise RuntimeFailure("not today")
        return run(job, *arguments)

    monkeypatch.setattr(BundleBuild, "run", watched)
    build(recipe, tmp_path, "litert", "executorch", time_limit_s=1e6)
    assert limits[0] == 5e5
    assert limits[1] == pytest.approx(1e6, rel=0.01)


def test_without_a_time_limit_no_build_has_one(recipe, tmp_path, monkeypatch) -> None:
    limits = []
    run = BundleBuild.run

    def watched(job, *arguments):
        limits.append(job.options.time_limit_s)
        return run(job, *arguments)

    monkeypatch.setattr(BundleBuild, "run", watched)
    build(recipe, tmp_path, "litert", "executorch")
    assert limits == [None, None]


def test_the_searches_share_the_time_limit_too(recipe, tmp_path, monkeypatch) -> None:
    limits = []

    def watched(built):
        limits.append(built.job.options.time_limit_s)
        return built.document

    monkeypatch.setattr(choose_runtime, "searched", watched)
    build(
        recipe, tmp_path, "executorch", "litert",
        effort="normal", memory_mb=1, time_limit_s=1e6,
    )  # fmt: skip
    assert limits == [5e5, pytest.approx(1e6, rel=0.01)]
