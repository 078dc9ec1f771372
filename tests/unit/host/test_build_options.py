"""A build's options from all four sides: command line, environment, edgekit.toml, library."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT

import edgekit
from edgekit import build_options
from edgekit.build_options import BUDGETS, OPTIONS, BuildOptions, key_of
from edgekit.cli import main
from edgekit.commands.build import with_keywords_of
from edgekit.errors import EdgekitError, SettingError
from edgekit.plan import Plan

SPELL = {
    "flag": build_options.FLAGS.spell,
    "environment": build_options.ENVIRONMENT.spell,
    "edgekit.toml": key_of,
    "library": build_options.LIBRARY.spell,
}
BUDGET_NAME = {
    "latency_ms": "latency_ms",
    "memory_mb": "peak_memory_mb",
    "size_mb": "size_mb",
    "max_drop": "accuracy_drop",
}


@dataclass
class Outcome:
    """How one side's call ended: the options that the build got, or the error."""

    code: int
    message: str
    options: BuildOptions | None


class Sides:
    """Gives options from one of the four sides to a double of ``edgekit.build``."""

    def __init__(self, folder, monkeypatch, capsys) -> None:
        self.folder, self.patch, self.capsys = folder, monkeypatch, capsys
        self.received: list[BuildOptions] = []
        monkeypatch.setattr(edgekit, "build", with_keywords_of(BuildOptions)(self._build))
        monkeypatch.setattr("edgekit.report.verdict.render_verdict", lambda document: "built")

    def _build(self, options: BuildOptions) -> Any:
        self.received.append(options)
        return SimpleNamespace(exit_code=0)

    def give(self, side: str, given: dict[str, Any]) -> Outcome:
        """``given``: values by the names that this side uses."""
        self.received.clear()
        code, message = getattr(self, f"_{side.removeprefix('edgekit.')}")(given)
        return Outcome(code, message, self.received[0] if self.received else None)

    def _flag(self, given: dict[str, Any]) -> tuple[int, str]:
        words = []
        for flag, value in given.items():
            words += [flag] if value is True else [flag, str(value)]
        return self._command(*(word for word in words if word != "--recipe"))

    def _environment(self, given: dict[str, Any]) -> tuple[int, str]:
        with self.patch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, str(value))
            return self._command()

    def _toml(self, given: dict[str, Any]) -> tuple[int, str]:
        file = self.folder / "edgekit.toml"
        lines = [
            f"{key} = {value if isinstance(value, float) else json.dumps(value)}"
            for key, value in given.items()
        ]
        file.write_text("\n".join(lines))
        try:
            return self._command()
        finally:
            file.unlink()

    def _library(self, given: dict[str, Any]) -> tuple[int, str]:
        try:
            edgekit.build(**given)
        except EdgekitError as error:
            assert isinstance(error, SettingError)
            return error.exit_code, error.message
        return 0, ""

    def _command(self, *words: str) -> tuple[int, str]:
        self.patch.setattr(sys, "argv", ["edgekit", "build", *words])
        code = main._run()
        return code, self.capsys.readouterr().err.removeprefix("error: ").split("\n  hint")[0]


@pytest.fixture
def sides(tmp_path, monkeypatch, capsys) -> Sides:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.startswith("EDGEKIT_")]:
        monkeypatch.delenv(name)
    return Sides(tmp_path, monkeypatch, capsys)


def spelled(side: str, values: dict[str, Any]) -> dict[str, Any]:
    return {SPELL[side](name): value for name, value in {"target": "x86", **values}.items()}


def core(side: str, message: str) -> str:
    """An error's message without what names the side: options by their names in the library."""
    message = message.replace("edgekit.toml: ", "").strip()
    for name in OPTIONS:
        message = re.sub(rf"(?<![\w-]){SPELL[side](name)}(?![\w-])", name, message)
    return message


EVERY = {
    "recipe": "other.pt2",
    "target": "rpi4",
    "runtime": "executorch",
    "precision": "mixed",
    "latency_ms": 1.5,
    "memory_mb": 2.5,
    "size_mb": 3.5,
    "max_drop": 0.0,
    "effort": "thorough",
    "input_size": "160x224",
    "drop_blocks": 2,
    "prune": 0.25,
    "low_rank": 0.25,
    "sparsity": 0.75,
    "distill": True,
    "qat": True,
    "time_limit_s": 9.5,
    "workers": "tcp://10.0.0.2:8786",
    "plan": "plan.json",
    "calibration": "typical.npz",
    "signature": "embed",
    "threads": "auto",
    "seed": 7,
    "device": "local",
    "name": "mine",
    "output": "there",
}


# What another option needs.
ONLY_WITH = {"signature": {"recipe": "model.tflite"}}


def test_every_option_is_tried() -> None:
    assert set(EVERY) == set(OPTIONS)
    assert set(BUDGETS) == set(BUDGET_NAME)


@pytest.mark.parametrize("side", SPELL)
@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_reaches_the_build(sides, side, name) -> None:
    needed = ONLY_WITH.get(name, {})
    outcome = sides.give(side, spelled(side, {name: EVERY[name], **needed}))
    assert (outcome.code, outcome.message.strip()) == (0, "")
    found = getattr(outcome.options, name)
    if name in BUDGETS and side != "library":
        limit = outcome.options.limits[BUDGET_NAME[name]]
        assert limit.asked_by == side
        found = limit.value
    assert (str(found), str(outcome.options.recipe)) == (
        str(EVERY[name]),
        EVERY["recipe"] if name == "recipe" else needed.get("recipe", "recipe.py"),
    )


def same_error(sides: Sides, given: dict[str, Any]) -> str:
    """Give ``given`` from each side, and return what all their errors say."""
    cores = set()
    for side in SPELL:
        outcome = sides.give(side, spelled(side, given))
        assert outcome.options is None
        assert outcome.code == (2 if side == "flag" else 1)
        cores.add(core(side, outcome.message))
    assert len(cores) == 1, cores
    return cores.pop()


WRONG: dict[str, list[Any]] = {
    "latency_ms": [0, -1, "fast", float("inf"), float("nan")],
    "memory_mb": [0],
    "size_mb": [-2.5],
    "max_drop": [-0.5, float("nan")],
    "input_size": [0, -8, "large", "1x2x3", "0x4"],
    "workers": [0, -1, "many", "tcp://host", "http://host:1"],
    "drop_blocks": [0, -1, 1.5],
    "prune": [0, 1, 1.5, "half"],
    "low_rank": [0, 1],
    "sparsity": [-0.1, 1],
    "time_limit_s": [0, float("inf")],
    "threads": [0, -1, 257, "all", 1.5],
    "seed": [-1, 2**32, 1.5],
    "precision": ["int4", ""],
    "runtime": ["onnx"],
    "effort": ["much"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_the_same_error_on_all_sides(sides, name, value) -> None:
    assert name in same_error(sides, {name: value})


CONTRADICTIONS = [
    {"plan": "plan.json", "precision": "int8"},
    {"plan": "plan.json", "input_size": 176},
    {"plan": "plan.json", "drop_blocks": 1},
    {"plan": "plan.json", "prune": 0.5},
    {"plan": "plan.json", "low_rank": 0.5},
    {"plan": "plan.json", "sparsity": 0.5},
    {"plan": "plan.json", "distill": True},
    {"plan": "plan.json", "qat": True},
    {"qat": True, "precision": "fp32"},
    {"qat": True, "precision": "fp16"},
    {"qat": True, "precision": "fp32", "plan": "plan.json"},
]


@pytest.mark.parametrize("given", CONTRADICTIONS, ids=lambda given: "+".join(given))
def test_a_contradiction_is_the_same_error_on_all_sides(sides, given) -> None:
    message = same_error(sides, given)
    assert all(name in message for name in given)


@pytest.mark.parametrize(
    "given",
    [
        {"precision": "int8"},
        {"plan": "plan.json"},
        {"input_size": 176},
        {"drop_blocks": 1},
        {"prune": 0.5},
        {"sparsity": 0.5},
        {"distill": True},
        {"qat": True},
        {"calibration": "typical.npz"},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_a_finished_file_cannot_have(sides, given) -> None:
    """The recipe shows it, not the command line alone: exit 1 everywhere."""
    messages = set()
    for side in SPELL:
        outcome = sides.give(side, spelled(side, {"recipe": "model.pte", **given}))
        assert (outcome.options, outcome.code) == (None, 1)
        messages.add(outcome.message.strip())
    assert len(messages) == 1
    assert "model.pte" in messages.pop()


@pytest.mark.parametrize("recipe", ["recipe.py", "model.pt2", "model.pte"])
def test_only_a_tflite_has_signatures(recipe) -> None:
    with pytest.raises(SettingError, match="signature"):
        BuildOptions(recipe, target="x86", signature="embed")


@pytest.mark.parametrize(
    ("unknown", "near"), [("prun", "prune"), ("latency", "latency_ms"), ("max_drops", "max_drop")]
)
def test_an_unknown_option_is_named_with_the_nearest_one(sides, unknown, near) -> None:
    names = {
        "flag": "--" + unknown.replace("_", "-"),
        "environment": f"EDGEKIT_{unknown.upper()}",
        "edgekit.toml": unknown,
        "library": unknown,
    }
    cores = set()
    for side, name in names.items():
        outcome = sides.give(side, {**spelled(side, {}), name: "0.3"})
        assert outcome.options is None
        assert outcome.code == (2 if side == "flag" else 1)
        message = core(side, outcome.message)
        cores.add(re.sub(rf"(?<![\w-]){name}(?![\w-])", unknown, message))
    assert len(cores) == 1, cores
    assert {unknown, near} <= set(re.findall(r"\w+", cores.pop()))


def test_all_wrong_values_are_reported_at_once(sides) -> None:
    outcome = sides.give("edgekit.toml", {"prune": 2, "seed": -1, "size_mb": 4})
    assert outcome.message.count("edgekit.toml: ") == outcome.message.strip().count("\n") + 1 == 2


def test_variables_that_are_no_options_are_ignored(sides) -> None:
    others = {"EDGEKIT_DATA": "/somewhere", "EDGEKIT_ROOT": "/elsewhere"}
    assert sides.give("environment", {"EDGEKIT_TARGET": "x86", **others}).code == 0


def test_no_target_is_an_error_of_usage(sides) -> None:
    assert sides.give("flag", {}).code == 2


def test_a_flag_can_be_taken_back(sides) -> None:
    (sides.folder / "edgekit.toml").write_text("qat = true\ntarget = 'x86'\n")
    assert sides.give("environment", {}).options.qat
    assert not sides.give("flag", {"--no-qat": True}).options.qat


def test_options_are_frozen_and_stay_valid() -> None:
    given = BuildOptions(target="x86", plan=Plan(precision="int8", seed=3))
    assert given.plan.seed == 3
    with pytest.raises(AttributeError):
        given.seed = -1  # type: ignore[misc]
    with pytest.raises(SettingError, match="seed"):
        BuildOptions(target="x86", seed=-1)
    with pytest.raises(SettingError, match="target"):
        BuildOptions(target=3)  # type: ignore[arg-type]


def test_check_judges_its_budgets_by_the_same_declaration(sides, tmp_path) -> None:
    with pytest.raises(SettingError, match="size_mb") as caught:
        edgekit.check(tmp_path, size_mb=-1)
    sides.patch.setattr(sys, "argv", ["edgekit", "check", str(tmp_path), "--size-mb", "-1"])
    assert main._run() == 2
    assert core("library", caught.value.message) in core("flag", sides.capsys.readouterr().err)


def test_people_and_editors_see_the_options_of_build() -> None:
    from edgekit.commands.build import build

    seen = inspect.signature(build).parameters
    assert list(seen) == list(inspect.signature(BuildOptions).parameters)
    assert seen["prune"].default is None
    assert seen["precision"].default == "auto"


def test_the_docs_list_every_option() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    rows = re.findall(r"^\| `(--[\w-]+)`", page, re.MULTILINE)
    assert sorted(rows) == sorted(
        build_options.FLAGS.spell(name) for name in OPTIONS if name != "recipe"
    )
