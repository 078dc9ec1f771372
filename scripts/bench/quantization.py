"""What quantization loses and what its repair gives back, on the artifact; prints tables.

python scripts/bench/quantization.py                       all of it
python scripts/bench/quantization.py mobilenet_v1_025 gru  some models only

Every tenth image calibrates, its label unused; the artifact judges the others by its own runner on
this host. EDGEKIT_DATA names the folder with weights and images. Nothing in a build is left to
chance but the order of sums, so there are no seeds: the intervals are over the images.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from models import recipes
from side_by_side import ROWS, print_table

import edgekit
from edgekit.device.local import LocalTransport
from edgekit.documents.verdict import VerdictDocument
from edgekit.metrics import top1
from edgekit.pipeline.model.predict import run_eager, run_serving
from edgekit.pipeline.model.subject import read_subject
from edgekit.pipeline.precision.quantize import Simulator
from edgekit.plan import Plan
from edgekit.progress import Silent
from edgekit.recipe.recipe import Recipe, open_recipe
from edgekit.runner.client import Serving
from edgekit.runner.staging import installed_at
from edgekit.runtimes.executorch.runtime import ExecuTorch
from edgekit.search.repairs import find_repairs, float_outputs, split
from edgekit.search.work_limit import REPAIRING, TIMES_PLAIN, work_of_plain

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PLAIN = {"precision": "int8", "effort": "quick"}
INT8 = {"precision": "int8"}
MIXED = {"precision": "mixed", "max_drop": 1.0}


@dataclass(frozen=True)
class Goal:
    """Points that an arm may lose at most."""

    model: str
    int8: float
    mixed: float | None = None


GOALS = [
    Goal("mobilenet_v1_025", int8=2.7, mixed=1.3),
    Goal("mobilenet_v2", int8=0.3),
    Goal("resnet_cifar/resnet20", int8=0.2),
]
# Of the zoo (docs/models.md): what agrees with fp32 before and after.
SMALL = ["gru", "lstm", "crnn", "vit", "text_encoder", "text_decoder"]
REPAIR_SECONDS = 60


def main() -> None:
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        for goal in GOALS:
            if not wanted or goal.model in wanted:
                images(goal, Path(name) / goal.model)
        for model in SMALL:
            if model in recipes() and (not wanted or model in wanted):
                small(model, Path(name) / model)
    print_table()


def images(goal: Goal, folder: Path) -> None:
    folder_of, _, file = goal.model.partition("/")
    path = EXAMPLES / folder_of / f"{file or 'recipe'}.py"
    with open_recipe(path, 0) as recipe:
        judge = Judge(recipe)
        floats = judge.of_model()
        say(f"{goal.model}: fp32", "", f"{100 * floats.mean():.2f}")
        plain = arm(goal.model, "plain int8", path, folder / "plain", PLAIN, None, judge, floats)
        arm(goal.model, "all int8", path, folder / "int8", INT8, goal.int8, judge, floats)
        took = repair_seconds(recipe)
        limit = f"<= {REPAIR_SECONDS}" if goal.model == "mobilenet_v1_025" else ""
        say(f"{goal.model}: seconds of repair", limit, f"{took:.0f}", took <= REPAIR_SECONDS)
        if goal.mixed is not None:
            mixed = folder / "mixed"
            arm(goal.model, "guilty layers float", path, mixed, MIXED, goal.mixed, judge, floats)
            more = 100 * (model_bytes(mixed) / model_bytes(plain) - 1)
            say(
                f"{goal.model}: bytes more with guilty layers float",
                "<= 5 %",
                f"{more:.1f} %",
                more <= 5,
            )


def arm(
    model: str,
    title: str,
    recipe: Path,
    output: Path,
    options: dict[str, Any],
    goal: float | None,
    judge: Judge,
    floats: np.ndarray,
) -> Path:
    try:
        document = edgekit.build(recipe, target="x86", output=output, **options)
    except edgekit.EdgekitError as error:
        say(f"{model}: {title} loses", "", f"{type(error).__name__}: {error.message}")
        return output
    hits = judge.of_bundle(output)
    lost = 100 * (floats.mean() - hits.mean())
    low, high = paired_interval(floats, hits)
    done = document.ladder[-1].precision
    layers = document.plan.float_layers
    how = done + (f", float: {', '.join(layers)}" if layers else "")
    text = f"{lost:.2f} ({low:.2f} to {high:.2f}); {100 * hits.mean():.2f} left; {how}"
    say(
        f"{model}: {title} loses",
        "" if goal is None else f"<= {goal:g}",
        text,
        goal is None or lost <= goal,
    )
    return output


def repair_seconds(recipe: Recipe) -> float:
    """Searching, and doing what was found on all calibration data; without calibrating the plain
    model, lowering, or finding the guilty layers.
    """
    subject = read_subject(recipe, True, Silent())
    pt2e, plain, data = ExecuTorch().pt2e, Plan(precision="int8"), split(subject.calibration)
    simulator = Simulator(subject.float_model, pt2e, data.fitted)
    floats = float_outputs(simulator(plain), data.judged)
    start = time.perf_counter()
    work = REPAIRING * TIMES_PLAIN["normal"]
    work *= work_of_plain(simulator(plain), len(subject.calibration))
    found = find_repairs(plain, simulator, data, floats, subject.fidelity, work, Silent())
    Simulator(subject.float_model, pt2e, subject.calibration)(found.plan)
    return time.perf_counter() - start


def small(model: str, folder: Path) -> None:
    """Agreement with fp32 of plain int8, and what auto makes of it."""
    recipe = recipes()[model]
    for title, options in (("plain int8", PLAIN), ("auto", {"precision": "auto", "max_drop": 1.0})):
        try:
            document = edgekit.build(recipe, target="x86", output=folder / title[:4], **options)
        except edgekit.EdgekitError as error:
            say(f"{model}: {title}", "", f"{type(error).__name__}: {error.message}")
            continue
        say(f"{model}: {title}", "", agreement(document))


def agreement(document: VerdictDocument) -> str:
    rung = document.ladder[-1]
    parity = document.parity.float_model if document.parity else None
    level = "bit-equal" if parity is None or parity.sqnr_db is None else f"{parity.sqnr_db:.1f} dB"
    lost = "" if rung.drop is None else f"; {rung.drop:.1f} points by {rung.judged_by}"
    layers = document.plan.float_layers
    return f"{rung.precision}: {level} against fp32{lost}" + (
        f"; float: {', '.join(layers)}" if layers else ""
    )


class Judge:
    """Which of the judged images a model gets right."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.subject = read_subject(recipe, False, Silent())
        self.model = self.subject.model

    def of_model(self) -> np.ndarray:
        return self.of_run(run_eager(self.model))

    def of_bundle(self, bundle: Path) -> np.ndarray:
        with Serving(installed_at(LocalTransport(), bundle, "model.pte")) as serving:
            return self.of_run(run_serving(serving))

    def of_run(self, run: Callable[..., Any]) -> np.ndarray:
        found: list[bool] = []

        def recording(predict: Callable[..., Any], inputs: Any, labels: Any) -> float:
            def noted(*given: Any) -> Any:
                scores = predict(*given)
                found.extend(
                    (scores.argmax(1) == wanted[len(found) : len(found) + len(scores)]).tolist()
                )
                return scores

            import torch

            wanted = torch.as_tensor(labels)
            return top1(noted, inputs, labels)

        names = self.recipe._module.evaluate.__globals__  # of the file that evaluate is written in
        real, names["top1"] = names["top1"], recording
        try:
            self.subject.evaluate(run)
        finally:
            names["top1"] = real
        return np.array(found, dtype=float)


def paired_interval(floats: np.ndarray, hits: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the points lost, image by image."""
    random = np.random.default_rng(0)
    lost = floats - hits
    means = lost[random.integers(0, len(lost), (2000, len(lost)))].mean(1)
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return float(low), float(high)


def model_bytes(bundle: Path) -> int:
    return (bundle / "model.pte").stat().st_size


def say(what: str, goal: str, measured: str, reached: bool = True) -> None:
    ROWS.append((what, goal, measured, ("yes" if reached else "NO") if goal else ""))
    print(ROWS[-1], file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
