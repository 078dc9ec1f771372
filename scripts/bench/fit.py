"""Budgets that drive the compression, against single axes; prints the table of docs/benchmarks.md.

    EDGEKIT_DATA=... python scripts/bench/fit.py [PART...]

Parts: resnet20, one_size (the same without input_sizes()), mobilenet_v2, axes (all networks at
0.5, 0.65 and 0.8 of their latency), budgets (20 sets, nothing trained), solver.
EDGEKIT_BENCH_SEEDS=3   trainings of each arm
EDGEKIT_BENCH_STEPS=400 steps of each training with labels

Every row is the int8 artifact: its accuracy by its own runner on this host, and its latency there
against the model that nothing was removed from, timed in turns with one thread. The plan of an arm
is found once; then it is trained like the others, with the same number of steps on the same
batches. A single axis removes as little as meets the latency. What was built is kept in
./build/bench_fit: started again, it resumes there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import side_by_side  # noqa: F401 - before torch, for its threads to wait asleep
from arms import Arms, half_width, mean
from pruning import EXAMPLES, MOBILENET, median_ms, raced
from quantization import say
from side_by_side import Ratio, print_table, row
from training import spread

import edgekit
from edgekit.documents.verdict import VerdictDocument
from edgekit.errors import EdgekitError
from edgekit.pipeline.training.int8 import UNLABELLED_RATE
from edgekit.plan import DropBlocks, Plan, Prune, Resize, Training
from edgekit.search.solver import solve
from edgekit.search.space import Block, Part, Space, Widths, at_most

FOLDER = Path("build") / "bench_fit"
ARMS = Arms(FOLDER)
SEEDS = tuple(range(int(os.environ.get("EDGEKIT_BENCH_SEEDS", "3"))))
STEPS = int(os.environ.get("EDGEKIT_BENCH_STEPS", "400"))
RATE = 2e-2
SIZES = (28, 24, 20, 16)


@dataclass(frozen=True)
class Network:
    """``recover``: the training of every arm."""

    name: str
    recipe: Path
    sizes: tuple[int, ...]
    most_blocks: int
    recover: Training


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for part in sys.argv[1:] or list(PARTS):
        PARTS[part]()
    print_table()


def resnet20() -> None:
    """0.62 of the latency, with labels."""
    network = resnet(20)
    share = 0.62
    ours = trained(network, "fit", fitted(network, share))
    lost = ARMS.gains(trained(network, "whole", plain()), ours)
    title = f"ResNet-20, {STEPS} steps with labels: fit at {share} loses"
    say(title, "<= 2.5", spread(lost), mean(lost) <= 2.5)
    latency(network, "fit", share)


def one_size() -> None:
    """ResNet-20 without input_sizes(): above channels alone and above blocks alone."""
    network, share = resnet(20, sizes=()), 0.62
    ours = trained(network, "fit one size", fitted(network, share, "fit one size"))
    latency(network, "fit one size", share)
    for axis in ("channels", "blocks"):
        compare(network, ours, axis, share)


def mobilenet_v2() -> None:
    """0.65 of the latency, without labels."""
    network, share = mobilenet(), 0.65
    ours = trained(network, "fit", fitted(network, share))
    value = mean([ARMS.accuracy(one) for one in ours])
    title = f"MobileNetV2, no labels: fit at {share}"
    say(title, ">= 82", ARMS.accuracies(ours), value >= 82)
    latency(network, "fit", share)


def axes() -> None:
    for network in (resnet(20), resnet(56), mobilenet()):
        for share in (0.5, 0.65, 0.8):
            name = f"fit {share}"
            ours = trained(network, name, fitted(network, share, name))
            latency(network, name, share)
            for axis in AXES:
                if axis != "size" or network.sizes:
                    compare(network, ours, axis, share)


def compare(network: Network, ours: Sequence[Path], axis: str, share: float) -> None:
    """Fit against one axis at the same latency: paired by seed."""
    name = f"{axis} {share}"
    plan = least_of(network, axis, share)
    title = f"{network.name} at {share}: fit against {axis}"
    if plan is None:
        say(title, "> 0", f"{axis} alone does not reach {share}", True)
        return
    better = ARMS.gains(ours, trained(network, name, plan))
    least = mean(better) - (half_width(better) if len(better) > 1 else 0)
    say(title, "> 0", spread(better) if len(better) > 1 else f"{better[0]:+.2f}", least > 0)


def budgets() -> None:
    """20 budget sets on digits and ResNet-20, nothing trained."""
    reachable = met = said = true = 0
    for network in (digits(), resnet(20)):
        base = built(network, "whole plain", plain())
        found = ARMS.document(base)
        lines = {line["name"]: line["value"] for line in found["budgets"]}
        for number, shares in enumerate(BUDGET_SETS):
            limits = {
                key: share * lines[NAMES[key]] if key != "latency_ms" else share * median_ms(base)
                for key, share in shares.items()
            }
            name = f"budget {number}"
            ours = searched(network, name, limits, seconds=1.0)
            fits = ARMS.document(ours)["verdict"] == "fits"
            holds = is_met(ours, base, shares, lines)
            baseline = any(
                is_met(built(network, f"{axis} {level}", plan), base, shares, lines)
                for axis, level, plan in baselines(network)
            )
            reachable += baseline
            met += baseline and holds
            said += fits
            true += fits and holds
            print(f"  {network.name} {shares}: {fits=} {holds=} {baseline=}", file=sys.stderr)
    goal = ">= 95 %"
    say("budget sets that a single axis meets, met by fit", goal, f"{met} of {reachable}",
        met >= 0.95 * reachable)  # fmt: skip
    say("verdict fits, true of the measurement", goal, f"{true} of {said}", true >= 0.95 * said)


def baselines(network: Network) -> Iterator[tuple[str, float, Plan]]:
    for axis in ("channels", "blocks", "size"):
        for level, plan in AXES[axis](network):
            yield axis, level, plan


def is_met(bundle: Path, base: Path, shares: dict[str, float], whole: dict[str, float]) -> bool:
    """As measured: latency against the whole model in turns, memory and size by the bundle."""
    lines = {line["name"]: line["value"] for line in ARMS.document(bundle)["budgets"]}
    for key, share in shares.items():
        if key == "latency_ms":
            if remembered(bundle, base).median > share:
                return False
        elif lines[NAMES[key]] > share * whole[NAMES[key]]:
            return False
    return True


def solver() -> None:
    """The solver's time for a chain of 60 groups of 8 widths with ten blocks."""
    space = chain(60)
    points = {name: 0.8 for name in space.resources if name != "latency_ms"}
    for title, shares in (("latency", {}), ("latency, weights, ten program points", points)):
        shares = {"latency_ms": 0.6, **shares}
        limits = {name: share * space.cost(name, space.whole) for name, share in shares.items()}
        start = time.monotonic()
        assert solve(space, at_most(**limits)) is not None
        took = time.monotonic() - start
        say(f"solver, 60 groups, limits: {title}", "<= 2 s", f"{took:.2f} s", took <= 2)


def chain(count: int) -> Space:
    """Layers one after another, with random costs and losses."""
    draw = np.random.default_rng(0)
    widths = tuple(range(16, 144, 16))
    left = np.array(widths) / widths[-1]
    groups = tuple(
        Widths(f"g{i}", widths, tuple(draw.uniform(0.1, 2) * (1 - left) ** 2)) for i in range(count)
    )
    parts = []
    for place in range(count - 1):
        work = draw.uniform(0.1, 1) * np.outer(left, left)
        costs = {"latency_ms": work, "weights_mb": 0.1 * work}
        if place % (count // 10) == 0:
            costs[f"live_mb_{place}"] = np.add.outer(left, left)
        block = f"b{place // 6}" if place % 6 < 2 else None
        parts.append(Part((f"g{place}", f"g{place + 1}"), block, costs))
    blocks = tuple(Block(f"b{i}", float(draw.uniform(0.2, 2))) for i in range(count // 6))
    return Space(groups, blocks, tuple(parts))


def fitted(network: Network, share: float, name: str = "fit") -> Plan:
    """The plan that the search finds for a share of the latency."""
    base = built(network, "whole plain", plain())
    bundle = searched(network, f"{name} search", {"latency_ms": share * median_ms(base)})
    return Plan.model_validate(ARMS.document(bundle)["plan"])


def searched(
    network: Network, name: str, limits: dict[str, float], seconds: float | None = None
) -> Path:
    """A build under budgets. ``seconds``: of training; all arms are trained alike later."""

    def build(folder: Path) -> VerdictDocument:
        return edgekit.build(
            network.recipe,
            target="x86",
            device="local",
            output=folder,
            time_limit_s=seconds,
            **limits,
        )

    return ARMS.built(f"{network.name} {name}", build)


def plain() -> Plan:
    return Plan(precision="int8", observer="mse_after_activation")


def trained(network: Network, name: str, plan: Plan, seeds: Sequence[int] = SEEDS) -> list[Path]:
    """The plan's model after the network's training, for each seed."""
    plan = plan.replaced(recover=network.recover, precision="int8", train=None)
    if network.recover.objective == "labels":
        plan = plan.without_compensation
    return [built(network, f"{name} trained {s}", plan.replaced(seed=s)) for s in seeds]


def built(network: Network, name: str, plan: Plan) -> Path:
    def build(folder: Path) -> VerdictDocument:
        return edgekit.build(network.recipe, target="x86", plan=plan, output=folder)

    return ARMS.built(f"{network.name} {name}", build)


def least_of(network: Network, axis: str, share: float) -> Plan | None:
    """The plan of one axis that removes the least and still meets the share of the latency."""
    base = built(network, "whole plain", plain())
    for level, plan in AXES[axis](network):
        try:
            bundle = built(network, f"{axis} {level}", plan)
        except EdgekitError as error:
            print(f"  {axis} {level}: {error.message}", file=sys.stderr)
            continue
        if remembered(bundle, base).median <= share:
            return plan
    return None


def sizes(network: Network) -> Iterator[tuple[float, Plan]]:
    for size in network.sizes:
        yield size, plain().replaced(resize=Resize(size=(size, size)))


def blocks(network: Network) -> Iterator[tuple[float, Plan]]:
    for count in range(1, network.most_blocks + 1):
        yield count, plain().replaced(drop_blocks=DropBlocks(count=count))


def pruned(**options: object) -> Callable[[Network], Iterator[tuple[float, Plan]]]:
    def plans(_network: Network) -> Iterator[tuple[float, Plan]]:
        for percent in range(15, 90, 5):
            prune = Prune(ratio=percent / 100, **options)  # type: ignore[arg-type]
            yield percent, plain().replaced(prune=prune)

    return plans


AXES: dict[str, Callable[[Network], Iterator[tuple[float, Plan]]]] = {
    "channels": pruned(),
    "uniform L1": pruned(importance="l1", spread="uniform", compensate=False),
    "global Taylor": pruned(importance="taylor", compensate=False),
    "blocks": blocks,
    "size": sizes,
}


def remembered(bundle: Path, base: Path) -> Ratio:
    """The ratio of latencies, timed once."""
    path = FOLDER / f"{bundle.name}.ratio.json"
    if not path.exists():
        path.write_text(json.dumps(raced(bundle, base)))
    return Ratio(*json.loads(path.read_text()))


def latency(network: Network, name: str, share: float) -> None:
    base = built(network, "whole plain", plain())
    ratio = remembered(FOLDER / f"{network.name} {name} trained 0", base)
    row(f"{network.name}: latency of {name} to unpruned", f"<= {share}", ratio, ratio[0] <= share)


def resnet(depth: int, sizes: tuple[int, ...] = SIZES) -> Network:
    recipe = EXAMPLES / "resnet_cifar" / f"resnet{depth}.py"
    name = f"ResNet-{depth}"
    if not sizes:
        name, recipe = f"{name} at one size", ARMS.written("one_size", ONE_SIZE.format(depth=depth))
    labels = Training(objective="labels", steps=STEPS, learning_rate=RATE)
    return Network(name, recipe, sizes, 3 * (depth - 2) // 6, labels)


def mobilenet() -> Network:
    text = MOBILENET + "\ninput_sizes = recipe.input_sizes\n"
    recipe = ARMS.written("mobilenet_v2", text)
    inner = Training(
        objective="float_model", steps=STEPS, learning_rate=UNLABELLED_RATE, features=1.0
    )
    return Network("MobileNetV2", recipe, (208, 192, 176, 160, 144, 128), 10, inner)


def digits() -> Network:
    labels = Training(objective="labels", steps=STEPS, learning_rate=RATE)
    return Network("digits", EXAMPLES / "digits" / "recipe.py", (), 3, labels)


ONE_SIZE = f"""
import sys
sys.path.insert(0, {str(EXAMPLES / "resnet_cifar")!r})
from cifar10 import calibration, evaluate, example_inputs, trained, training

def model():
    return trained({{depth}})
"""
NAMES = {"latency_ms": "latency_ms", "memory_mb": "peak_memory_mb", "size_mb": "size_mb"}
BUDGET_SETS: tuple[dict[str, float], ...] = (
    {"latency_ms": 0.9},
    {"latency_ms": 0.75},
    {"latency_ms": 0.6},
    {"latency_ms": 0.45},
    {"size_mb": 0.99},
    {"size_mb": 0.98},
    {"memory_mb": 0.99},
    {"memory_mb": 0.98},
    {"latency_ms": 0.7, "memory_mb": 0.99},
    {"latency_ms": 0.7, "memory_mb": 0.99, "size_mb": 0.985},
)
PARTS: dict[str, Callable[[], None]] = {
    "resnet20": resnet20,
    "one_size": one_size,
    "mobilenet_v2": mobilenet_v2,
    "axes": axes,
    "budgets": budgets,
    "solver": solver,
}

if __name__ == "__main__":
    main()
