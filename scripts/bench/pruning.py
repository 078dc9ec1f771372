"""What pruning, zeros and distillation cost and buy, against their rivals; prints tables.

python scripts/bench/pruning.py                        all of it
python scripts/bench/pruning.py resnet20 zeros loop    some parts: resnet20, mobilenet_v2, zeros,
                                                       student, loop
EDGEKIT_BENCH_STEPS=100                                a training's steps (800)

Every row is the int8 artifact: its accuracy on the judged images by its own runner on this host,
and its latency there against the model that lost nothing, both timed in turn. EDGEKIT_DATA names
the folder with weights and images. All arms of a part train for the same number of steps on the
same batches; ResNet's weights were trained on the original images and the recipe trains on their
JPEG files, so the unpruned model with the same training is the fair baseline. What was built is
kept in ./build/bench_pruning: started again, it goes on where it was stopped.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import side_by_side  # noqa: F401 - before torch, for its threads to wait asleep
import torch
from arms import Arms, half_width, mean
from quantization import say
from side_by_side import Ratio, interleaved, print_table, row, with_interval
from training import spread

import edgekit
from edgekit.device.local import LocalTransport
from edgekit.documents.verdict import VerdictDocument
from edgekit.errors import ParityError
from edgekit.pipeline.training.int8 import UNLABELLED_RATE
from edgekit.plan import Observer, Plan, Prune, Sparsity, Training
from edgekit.runner.client import measure
from edgekit.runner.staging import installed_at

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
RESNET = EXAMPLES / "resnet_cifar"
FOLDER = Path("build") / "bench_pruning"
ARMS = Arms(FOLDER)
STEPS = int(os.environ.get("EDGEKIT_BENCH_STEPS", "800"))
SEEDS = (0, 1, 2)
RATE = 2e-2
ROUNDS, RUNS = 12, 30


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for part in wanted:
        PARTS[part]()
    print_table()


def resnet20() -> None:
    """Half of the MACs, by trial, against uniform L1 at the same MACs."""
    recipe, labels = RESNET / "resnet20.py", training("labels")
    uniform = Prune(ratio=0.5, importance="l1", spread="uniform", compensate=False)
    whole = [built("resnet20 whole", recipe, seed, recover=labels) for seed in SEEDS]
    rivals = [built("resnet20 l1", recipe, seed, prune=uniform, recover=labels) for seed in SEEDS]
    # widths are multiples of eight: no less is taken here than the rival happened to take
    own = Prune(ratio=1 - share_of_macs(rivals[0]))
    bare = own.replaced(compensate=False)
    ours = [
        built("resnet20 trial bare", recipe, seed, prune=bare, recover=labels) for seed in SEEDS
    ]
    mended = [built("resnet20 trial", recipe, seed, prune=own, recover=labels) for seed in SEEDS]
    name = f"ResNet-20, {STEPS} steps"
    say(f"{name}: unpruned", "", ARMS.accuracies(whole))
    arms = {"uniform L1": rivals, "by trial": ours, "by trial, made good before": mended}
    for title, found in arms.items():
        say(
            f"{name}: {title}, {share_of_macs(found[0]):.3f} of the MACs",
            "",
            ARMS.accuracies(found),
        )
    lost = ARMS.gains(whole, ours)
    say(f"{name}: by trial against unpruned loses", "<= 0.5", f"{spread(lost)}", mean(lost) <= 0.5)
    better = ARMS.gains(ours, rivals)
    least = mean(better) - half_width(better)
    say(f"{name}: by trial against uniform L1", "> 0", f"{spread(better)}", least > 0)
    latency(f"{name}: latency of by trial to unpruned", "<= 0.6", ours[0], whole[0], 0.6)
    untrained = built("resnet20 untrained", recipe, 0, prune=own)
    raw = built("resnet20 raw", recipe, 0, prune=bare)
    say("ResNet-20, by trial, not trained: as it is cut", "", ARMS.accuracies([raw]))
    say("ResNet-20, by trial, not trained: made good", "", ARMS.accuracies([untrained]))


def zeros() -> None:
    """70 and 90 % of ResNet-20's weights, one-shot and with training."""
    recipe, labels = RESNET / "resnet20.py", training("labels")
    for ratio in (0.7, 0.9):
        own, bare = Sparsity(ratio=ratio), Sparsity(ratio=ratio, compensate=False)
        arms = {
            "one-shot": [built(f"zeros {ratio} bare", recipe, 0, sparsity=bare)],
            "one-shot, made good": [built(f"zeros {ratio} once", recipe, 0, sparsity=own)],
            f"{STEPS} steps of training, made good before": [
                built(f"zeros {ratio}", recipe, 0, sparsity=own, recover=labels)
            ],
            f"{STEPS} steps of training": [
                built(f"zeros {ratio} nomend", recipe, seed, sparsity=bare, recover=labels)
                for seed in SEEDS
            ],
        }
        for title, found in arms.items():
            say(f"ResNet-20, {ratio:.0%} zeros: {title}", "", ARMS.accuracies(found))
        step = ARMS.document(found[0])["compression"][-1]
        packed = step["compressed_mb"] / step["compressed_before_mb"]
        say(f"ResNet-20, {ratio:.0%} zeros: the int8 file as gzip packs it", "", f"{packed:.2f}")


def mobilenet_v2() -> None:
    """0.7 of the latency, without labels: 500 images train, the other 500 judge."""
    recipe = ARMS.written("mobilenet_v2", MOBILENET)
    # plain int8 of this model is too near to the gate of parity
    made = partial(built, observer="mse_after_activation")
    whole = made("mobilenet_v2 whole", recipe, 0)
    say("MobileNetV2: unpruned, int8", "", ARMS.accuracies([whole]))
    for percent in range(31, 60, 2):
        own = Prune(ratio=percent / 100)
        cut = made(f"mobilenet_v2 {percent}", recipe, 0, prune=own)
        ratio = raced(cut, whole)
        if ratio[0] <= 0.7:
            break
    row("MobileNetV2: latency of by trial to unpruned", "<= 0.7", ratio, ratio[0] <= 0.7)
    outputs = training("float_model").replaced(learning_rate=UNLABELLED_RATE)
    inside = outputs.replaced(features=1.0)
    gone = 1 - share_of_macs(cut)
    uniform = Prune(ratio=gone, importance="l1", spread="uniform", compensate=False)
    arms = {
        "by trial, made good, not trained": (f"mobilenet_v2 {percent}", own, None),
        f"by trial, made good, {STEPS} steps towards the inner layers": (
            "mobilenet_v2 inside",
            own,
            inside,
        ),
        f"uniform L1, {STEPS} steps towards the inner layers": ("mobilenet_v2 l1", uniform, inside),
        f"by trial, made good, {STEPS} steps towards the outputs": (
            "mobilenet_v2 outputs",
            own,
            outputs,
        ),
    }
    for title, (name, prune, recover) in arms.items():
        try:
            found = ARMS.accuracies([made(name, recipe, 0, prune, recover=recover)])
        except ParityError:
            found = "int8 fails the parity gate"
        said = f"{title}, {1 - gone:.3f} of the MACs"
        say(f"MobileNetV2, without labels: {said}", "", found)


def student() -> None:
    """ResNet-8 from scratch, with and without a teacher: ResNet-20 trained on the same images."""
    weights = FOLDER / "teacher.pt"
    if not weights.exists():
        teach(weights)
    recipe = ARMS.written(
        "student", STUDENT.format(folder=str(RESNET), weights=str(weights.absolute()))
    )
    steps = STEPS * 3 // 2
    alone, taught = (
        training(objective, steps).replaced(learning_rate=3 * RATE)
        for objective in ("labels", "both")
    )
    arms = {
        "by labels": [built("student alone", recipe, s, recover=alone) for s in SEEDS],
        "and its teacher": [built("student taught", recipe, s, recover=taught) for s in SEEDS],
    }
    name = f"ResNet-8, {steps} steps"
    for title, found in arms.items():
        say(f"{name}: {title}", "", ARMS.accuracies(found))
    gained = ARMS.gains(arms["and its teacher"], arms["by labels"])
    lowest = mean(gained) - half_width(gained)
    say(f"{name}: what the teacher gains", "> 0", spread(gained), lowest > 0)


def loop() -> None:
    """Steps a second of edgekit's loop to a bare one, on batches that are there already."""
    from edgekit.compress.training.loop import Job, train
    from edgekit.pipeline.training.checkpoint import Checkpoint
    from edgekit.progress import Silent

    sys.path.insert(0, str(RESNET))
    from resnet import ResNet

    for depth, size, steps in ((8, 64, 120), (20, 128, 30)):
        data = [((torch.randn(size, 3, 32, 32),), torch.randint(0, 10, (size,))) for _ in range(20)]
        schedule = Training(objective="labels", steps=steps, learning_rate=RATE)

        def fresh(depth: int = depth) -> torch.nn.Module:
            torch.manual_seed(0)
            net = ResNet(depth).train()
            return net.to(memory_format=torch.channels_last)

        def ours(data=data, schedule=schedule, fresh=fresh) -> float:
            net = fresh()

            def loss(batch, _share: float) -> torch.Tensor:
                return torch.nn.functional.cross_entropy(net(*batch[0]), batch[1])

            weights, buffers = dict(net.named_parameters()), dict(net.named_buffers())
            job = Job("loop", weights, lambda _: iter(data), loss, None, buffers)
            start = time.perf_counter()
            train(job, schedule, 0, Checkpoint(None), Silent())
            return 1 / (time.perf_counter() - start)

        def bare(data=data, steps: int = steps, fresh=fresh) -> float:
            net = fresh()
            optimizer = torch.optim.Adam(net.parameters())
            start = time.perf_counter()
            for step in range(steps):
                (images,), labels = data[step % len(data)]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(images), labels).backward()
                optimizer.step()
            return 1 / (time.perf_counter() - start)

        found = interleaved(ours, bare, 6)
        title = f"ResNet-{depth}, batches of {size}: steps a second to a bare loop's"
        row(title, ">= 0.95", found, found[0] >= 0.95)


def training(objective: str, steps: int = STEPS) -> Training:
    return Training(objective=objective, steps=steps, learning_rate=RATE)


def built(
    name: str,
    recipe: Path,
    seed: int,
    prune: Prune | None = None,
    sparsity: Sparsity | None = None,
    recover: Training | None = None,
    observer: Observer = "histogram",
) -> Path:
    """The bundle of an arm, built now or before."""
    plan = Plan(
        precision="int8",
        prune=prune,
        sparsity=sparsity,
        recover=recover,
        observer=observer,
        seed=seed,
    )

    def build(folder: Path) -> VerdictDocument:
        return edgekit.build(recipe, target="x86", plan=plan, output=folder)

    return ARMS.built(f"{name} {seed}", build)


def share_of_macs(bundle: Path) -> float:
    step = ARMS.document(bundle)["compression"][0]
    return step["macs"] / step["macs_before"]


def latency(title: str, goal: str, one: Path, other: Path, limit: float) -> None:
    ratio = raced(one, other)
    row(title, goal, ratio, ratio[0] <= limit)


def raced(one: Path, other: Path) -> Ratio:
    """Median latency of one bundle's artifact to the other's, in turn, with one thread."""
    ratios = []
    for index in range(ROUNDS):
        pair = (one, other) if index % 2 == 0 else (other, one)
        first, second = (median_ms(bundle) for bundle in pair)
        ratios.append(first / second if index % 2 == 0 else second / first)
    return with_interval(ratios)


def median_ms(bundle: Path) -> float:
    at = installed_at(LocalTransport(), bundle, "model.pte")
    report = measure(at, runs=RUNS, warmup=5, threads=1)
    return float(torch.tensor(report.latencies_ms).median())


def teach(weights: Path) -> None:
    """ResNet-20, trained on the JPEG files as the baseline is."""
    from training import train_by_recipe

    from edgekit.compress.training.loop import freeze_norms
    from edgekit.recipe.recipe import open_recipe

    with open_recipe(RESNET / "resnet20.py", 0) as recipe:
        model, example = recipe.model(), recipe.call("example_inputs")
        state = dict(model.named_parameters())

        def freeze() -> None:
            freeze_norms(model)

        labels = training("labels")
        train_by_recipe(recipe, example, state, model, labels, 0, freeze, model.train, model.eval)
        model.eval()

        def predict(images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return model(images)

        say("ResNet-20, the teacher, in torch", "", f"{recipe.evaluate(predict):.2f}")
        torch.save(model.state_dict(), weights)


MOBILENET = f"""
import sys
sys.path.insert(0, {str(EXAMPLES / "mobilenet_v2")!r})
import recipe
from recipe import model
from edgekit.data import images

CALIBRATING, JUDGED = images(recipe.PHOTOS, 224, mean=recipe.HALF, std=recipe.HALF).split(every=2)

def example_inputs():
    return next(iter(recipe.turned(CALIBRATING)))

def calibration():
    return recipe.turned(CALIBRATING)

def evaluate(predict):
    recipe.JUDGED = JUDGED
    return recipe.evaluate(predict)
"""
STUDENT = """
import sys
sys.path.insert(0, {folder!r})
import torch
from cifar10 import calibration, evaluate, example_inputs, training
from resnet import ResNet

def model():
    return ResNet(8)

def teacher():
    net = ResNet(20)
    net.load_state_dict(torch.load({weights!r}, weights_only=True))
    return net
"""
PARTS: dict[str, Callable[[], None]] = {
    "resnet20": resnet20,
    "zeros": zeros,
    "mobilenet_v2": mobilenet_v2,
    "student": student,
    "loop": loop,
}

if __name__ == "__main__":
    main()
