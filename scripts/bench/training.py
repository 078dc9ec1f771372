"""Quantization-aware training against the best that needs no training; prints a table.

python scripts/bench/training.py [STEPS] [SEEDS]

ResNet-20 on CIFAR-10 (EDGEKIT_DATA); every row the artifact's accuracy on the judged images. All
trained arms see the same batches in the same number of steps. The weights were trained on the
original images and the recipe trains on their JPEG files, so training alone lifts accuracy: the
float model with the same training, quantized afterwards, is the fair rival.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side  # noqa: F401 - before torch, for its threads to wait asleep
import torch
from quantization import Judge, say
from side_by_side import print_table

import edgekit
from edgekit.compress.training.held_out import HeldOut, hold_out
from edgekit.compress.training.loop import Batch, Job, freeze_norms, train
from edgekit.pipeline.model.predict import run_serving
from edgekit.pipeline.training.checkpoint import Checkpoint
from edgekit.pipeline.training.int8 import RATE
from edgekit.plan import Plan, Training
from edgekit.progress import Silent
from edgekit.recipe.arguments import read_arguments
from edgekit.recipe.recipe import Recipe, open_recipe
from edgekit.runner.client import Serving
from edgekit.runner.staging import staged
from edgekit.runtimes.executorch.runtime import ExecuTorch
from edgekit.runtimes.quiet import quiet
from edgekit.target import host_architecture

RECIPE = Path(__file__).resolve().parents[2] / "examples" / "resnet_cifar" / "resnet20.py"
# Two-sided 95 % of Student's t, by degrees of freedom.
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776}
# From this share of the steps on batch norms stay as they are, and ranges with them.
FROZEN_FROM = 2 / 3


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    seeds = range(int(sys.argv[2]) if len(sys.argv) > 2 else 3)
    training = Training(objective="labels", steps=steps, learning_rate=RATE)
    with tempfile.TemporaryDirectory() as name, open_recipe(RECIPE, 0) as recipe:
        folder, judge = Path(name), Judge(recipe)
        say("ResNet-20: fp32 as it is", "", f"{100 * judge.of_model().mean():.2f}")
        edgekit.build(RECIPE, target="x86", precision="int8", output=folder / "untrained")
        untrained = score(judge, folder / "untrained")
        say("ResNet-20: best int8 without training", "", f"{untrained:.2f}")
        arms: dict[str, list[float]] = {}
        for seed in seeds:
            recipe.seed = seed
            for title, arm in ARMS.items():
                out = folder / f"{title[:12]} {seed}"
                arms.setdefault(title, []).append(arm(recipe, judge, training, seed, out))
                print(f"  {title}, seed {seed}: {arms[title][-1]:.2f}", file=sys.stderr, flush=True)
    ours = arms["quantization-aware training (--qat)"]
    for title, scores in arms.items():
        say(f"ResNet-20: {title}, {steps} steps", "", spread(scores))
        gains = [a - b for a, b in zip(ours, scores, strict=True)]
        if scores is not ours:
            say(f"--qat against {title}", "", f"{spread(gains)} points")
    gains = [score - untrained for score in ours]
    say("--qat against the best without training", "> 0", f"{spread(gains)} points", min(gains) > 0)
    print_table()


def with_qat(_recipe: Recipe, judge: Judge, training: Training, seed: int, out: Path) -> float:
    """As --qat does it: from the best int8 without training, by a plan with a seed of its own."""
    plan = Plan(precision="int8", seed=seed, train=training)
    edgekit.build(RECIPE, target="x86", plan=plan, output=out)
    return score(judge, out)


def trained_as_float(
    recipe: Recipe, judge: Judge, training: Training, seed: int, out: Path
) -> float:
    """The float model, batch norms live until late, then the best int8 without training."""
    model, example = recipe.model(), recipe.call("example_inputs")
    state = dict(model.named_parameters())
    freeze = partial(freeze_norms, model)
    train_by_recipe(recipe, example, state, model, training, seed, freeze, model.train, model.eval)
    weights = out.with_suffix(".pt")
    torch.save(model.eval().state_dict(), weights)
    copy = out.with_suffix(".py")
    copy.write_text(WITH_WEIGHTS.format(folder=str(RECIPE.parent), weights=str(weights)))
    edgekit.build(copy, target="x86", precision="int8", output=out)
    return score(judge, out)


def with_pt2e(recipe: Recipe, judge: Judge, training: Training, seed: int, _out: Path) -> float:
    """PT2E's own quantization-aware training: batch norms live until late, ranges that follow."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import (
        disable_observer,
        move_exported_model_to_eval,
        move_exported_model_to_train,
    )
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    runtime, example = ExecuTorch(), recipe.call("example_inputs")
    config = get_symmetric_quantization_config(is_per_channel=True, is_qat=True)
    batch = (torch.cat([example[0]] * 2),)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with quiet():
        exported = torch.export.export(recipe.model().train(), batch, dynamic_shapes=shapes)
        graph = prepare_qat_pt2e(exported.module(), XNNPACKQuantizer().set_global(config))

        def freeze() -> None:
            graph.apply(disable_observer)
            freeze_graph_norms(graph)

        def to_train() -> None:
            move_exported_model_to_train(graph)

        def to_eval() -> None:
            move_exported_model_to_eval(graph)

        state = dict(graph.named_parameters())
        train_by_recipe(recipe, example, state, graph, training, seed, freeze, to_train, to_eval)
        artifact = runtime.lower(runtime.pt2e.convert(graph, example))
    files = runtime.runner_files(host_architecture(), Silent())
    with staged(artifact, files) as here, Serving(here) as serving:
        return 100 * float(judge.of_run(run_serving(serving)).mean())


ARMS: dict[str, Callable[..., float]] = {
    "quantization-aware training (--qat)": with_qat,
    "PT2E's own quantization-aware training": with_pt2e,
    "the float model trained, then int8": trained_as_float,
}
WITH_WEIGHTS = """
import sys
sys.path.insert(0, {folder!r})
import cifar10, torch
from cifar10 import calibration, evaluate, example_inputs
def model():
    net = cifar10.trained(20)
    net.load_state_dict(torch.load({weights!r}, weights_only=True))
    return net
"""


def train_by_recipe(
    recipe: Recipe,
    example: tuple[torch.Tensor, ...],
    weights: dict[str, torch.Tensor],
    model: Any,
    training: Training,
    seed: int,
    freeze: Callable[[], None],
    to_train: Callable[[], Any],
    to_eval: Callable[[], Any],
) -> None:
    """By edgekit's loop. Batch norms' statistics are no weights: those of the last step stay."""
    recipe.seed = seed
    arguments = read_arguments(example, ("images",), "example_inputs()")
    apart: HeldOut = hold_out(recipe.training(0, arguments, example), 1)
    done = 0

    def loss(batch: Batch) -> torch.Tensor:
        return recipe.loss(model(*batch[0]), batch[1])

    def training_loss(batch: Batch, _share: float) -> torch.Tensor:
        nonlocal done
        done += 1
        if done == round(FROZEN_FROM * training.steps):
            freeze()
        return loss(batch)

    def judge() -> float:
        to_eval()
        found = apart.mean(loss, 1)
        to_train()
        if done >= round(FROZEN_FROM * training.steps):
            freeze()
        return found

    def epoch(number: int) -> Iterator[Batch]:
        return apart.without(recipe.training(number, arguments, example), 1)

    to_train()
    all_steps = training.replaced(stop=training.steps)
    train(
        Job("training", weights, epoch, training_loss, judge),
        all_steps,
        seed,
        Checkpoint(None),
        Silent(),
    )
    to_eval()


def freeze_graph_norms(graph: torch.fx.GraphModule) -> None:
    """What train.freeze_norms does to modules, to the calls of an exported graph."""
    for node in graph.graph.nodes:
        if str(node.target).startswith("aten.batch_norm") and node.args[5] is True:
            node.update_arg(5, False)
    graph.recompile()


def score(judge: Judge, bundle: Path) -> float:
    return 100 * float(judge.of_bundle(bundle).mean())


def spread(values: list[float]) -> str:
    """Mean, 95 % interval over the seeds, and each."""
    mean, each = float(np.mean(values)), ", ".join(f"{value:.2f}" for value in values)
    if len(values) - 1 not in STUDENT:
        return f"{mean:.2f} ({each})"
    half = STUDENT[len(values) - 1] * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{mean:.2f} ± {half:.2f} ({each})"


if __name__ == "__main__":
    main()
