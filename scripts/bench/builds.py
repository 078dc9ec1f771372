"""What builds take, part by part, against an earlier commit; prints Markdown tables.

git worktree add /tmp/before COMMIT
python scripts/bench/builds.py /tmp/before                     all of it
python scripts/bench/builds.py /tmp/before judging again       some parts only

Parts: judging, repair, mobilenet_v2, again, silence, waiting. Both commits run in turn, each in
processes of its own with an empty cache; what counts is CPU time (user and system), of which a
shared machine changes less than of wall time. EDGEKIT_DATA names weights and images.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from side_by_side import PYTHON, fact, interleaved, print_table, row

from edgekit.cache import cache_folder

HERE = str(Path(__file__).resolve().parent)
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
ROUNDS = 3
# Models whose builds are watched for silence: some that take long in one stage.
WATCHED = (
    "audio_m5", "crnn", "deeplab", "densenet121", "efficientnet_b0", "googlenet", "lstm",
    "mobilenet_v3_large", "vit", "autoencoder",
)  # fmt: skip

JUDGE = """
import sys, os
from pathlib import Path
from edgekit.pipeline.model.subject import read_subject, with_accuracy
from edgekit.progress import Silent
from edgekit.recipe.recipe import open_recipe
with open_recipe(Path(sys.argv[1]), 0) as recipe:
    subject = read_subject(recipe, False, Silent())
    before = os.times()
    subject = with_accuracy(subject, Silent())
    after = os.times()
    print(after.user + after.system - before.user - before.system)
"""
SPIN = "while True: pass"
INFER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from edgekit.process.waiting import wait_passively
if sys.argv[2] == "passive": wait_passively()
import torch
from mobilenet_v2 import MobileNetV2
net, x = MobileNetV2().eval(), torch.randn(1, 3, 224, 224)
with torch.no_grad():
    net(x)
    seconds = []
    for _ in range(15):
        start = time.perf_counter(); net(x); seconds.append(time.perf_counter() - start)
print(sorted(seconds)[7])
"""


@dataclass
class Watched:
    """A command: its CPU and wall seconds, those of each stage, the longest silence on stderr."""

    cpu_s: float = 0.0
    wall_s: float = 0.0
    silence_s: float = 0.0
    silent_after: str = ""
    stages: dict[str, float] = field(default_factory=dict)


def main() -> None:
    before, *wanted = sys.argv[1:] or sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted or PARTS:
            PARTS[name](Path(before).resolve(), Path(folder))
    print_table()


def judging(before: Path, _: Path) -> None:
    """The float model of ResNet-20 by evaluate()."""
    path = EXAMPLES / "resnet_cifar" / "resnet20.py"

    def of(tree: Path) -> Callable[[], float]:
        return lambda: float(output_of(tree, JUDGE, str(path)))

    ratio = interleaved(of(before), of(ROOT), ROUNDS)
    row("judging 4,500 CIFAR images, before / now", ">= 8", ratio, ratio[1] >= 8)


def repair(before: Path, folder: Path) -> None:
    """All stages of MobileNetV1's build that are neither plain int8 nor judging."""
    recipe = EXAMPLES / "mobilenet_v1_025" / "recipe.py"
    names = ("trying", "choosing", "repairing", "mending", "observing")

    def of(tree: Path) -> Callable[[], float]:
        def seconds() -> float:
            found = build(tree, folder, recipe, "--precision", "int8")
            return sum(s for name, s in found.stages.items() if name.startswith(names))

        return seconds

    ratio = interleaved(of(ROOT), of(before), ROUNDS)
    row("MobileNetV1-0.25 repaired, now / before", "<= 0.63 (25 s of 40)", ratio, ratio[1] <= 0.63)


def mobilenet_v2(before: Path, folder: Path) -> None:
    recipe = EXAMPLES / "mobilenet_v2" / "recipe.py"
    both = [build(tree, folder, recipe, target="rpi4") for tree in (before, ROOT)]
    share = both[1].cpu_s / both[0].cpu_s
    fact("MobileNetV2 for rpi4, now / before, CPU time", "<= 0.33", f"{share:.2f}", share <= 1 / 3)
    print("\n| stage | before, CPU s | now, CPU s |\n|---|---|---|")
    for name in dict.fromkeys([*both[0].stages, *both[1].stages]):
        one, other = (watched.stages.get(name) for watched in both)
        print(f"| {name} | {_said(one)} | {_said(other)} |")
    print(f"| all | {both[0].cpu_s:.0f} | {both[1].cpu_s:.0f} |")


def again(_: Path, folder: Path) -> None:
    """An unchanged build, against the imports of torch and the recipe alone. The digits, whose
    evaluate() takes no time: it is the user's own and runs each time.
    """
    recipe = EXAMPLES / "digits" / "recipe.py"
    build(ROOT, folder, recipe, "--effort", "quick")
    code = f"import sys; sys.path.insert(0, {str(recipe.parent)!r}); import torch, recipe"
    beyond = []
    for _round in range(ROUNDS):
        start = time.perf_counter()
        output_of(ROOT, code)
        alone = time.perf_counter() - start
        beyond.append(build(ROOT, folder, recipe, "--effort", "quick", keep=True).wall_s - alone)
    middle = statistics.median(beyond)
    title = "unchanged build again (evaluate included): beyond the recipe's own imports"
    fact(title, "<= 2 s", f"{middle:.2f} s", middle <= 2)


def silence(_: Path, folder: Path) -> None:
    worst = Watched()
    for name in WATCHED:
        found = build(ROOT, folder, ROOT / "scripts" / "zoo" / f"{name}.py")
        print(f"  {name}: {found.silence_s:.1f} s after {found.silent_after!r}", file=sys.stderr)
        worst = max(worst, found, key=lambda watched: watched.silence_s)
    title = f"longest silence on {len(WATCHED)} models"
    fact(title, "<= 10 s", f"{worst.silence_s:.1f} s", worst.silence_s <= 10.1)


def waiting(_: Path, __: Path) -> None:
    """An image of MobileNetV2 in torch, default threads, alone and beside a busy process."""
    for surroundings, others in (("alone", 0), ("beside one busy process", 1)):
        busy = [subprocess.Popen([PYTHON, "-c", SPIN]) for _ in range(others)]
        try:

            def of(how: str) -> Callable[[], float]:
                return lambda: float(
                    output_of(ROOT, INFER, str(Path(__file__).parent), how, bare=True)
                )

            ratio = interleaved(of("active"), of("passive"), ROUNDS)
        finally:
            for process in busy:
                process.kill()
        title = f"MobileNetV2 image in torch, {surroundings}: default / passive waiting"
        row(title, ">= 1", ratio, ratio[2] >= 1)


def build(
    tree: Path, folder: Path, recipe: Path, *options: str, target: str = "x86", keep: bool = False
) -> Watched:
    """Build ``recipe`` by the edgekit of ``tree``; its cache is empty unless ``keep``."""
    cache = folder / f"cache-{tree.name}"
    if not keep:
        shutil.rmtree(cache, ignore_errors=True)
        (cache / "edgekit").mkdir(parents=True)
        for name in ("runners", "zig"):
            kept_by_both = cache_folder() / name
            kept_by_both.mkdir(parents=True, exist_ok=True)
            (cache / "edgekit" / name).symlink_to(kept_by_both.resolve())
    output = ["--output", str(folder / f"bundle-{tree.name}")]
    command = [PYTHON, "-m", "edgekit", "build", str(recipe), "--target", target, *options, *output]
    return watch(command, environment(tree) | {"XDG_CACHE_HOME": str(cache)})


def watch(command: list[str], surroundings: dict[str, str]) -> Watched:
    found, start, used = Watched(), time.perf_counter(), _children_s()
    process = subprocess.Popen(
        command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    last, stage, since, line = start, "starting", 0.0, "the start"
    for text in process.stderr:
        now = time.perf_counter()
        if now - last > found.silence_s:
            found.silence_s, found.silent_after = now - last, line
        last, line = now, text.strip()
        if text.startswith("- "):
            spent = _own_s(process.pid)
            found.stages[stage] = found.stages.get(stage, 0.0) + spent - since
            stage, since = re.sub(r"\s+", " ", text[2:].strip()), spent
    if process.wait() not in (0, 3, 5):
        sys.exit(f"{' '.join(command)} failed: {line}")
    found.wall_s, found.cpu_s = time.perf_counter() - start, _children_s() - used
    found.stages[stage] = found.stages.get(stage, 0.0) + max(0.0, found.cpu_s - since)
    return found


def environment(tree: Path, bare: bool = False) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not bare or name[:4] != "OMP_"}
    # without the current folder, which -m and -c would put first
    return own | {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}


def output_of(tree: Path, code: str, *arguments: str, bare: bool = False) -> str:
    command = [PYTHON, "-c", code, *arguments]
    done = subprocess.run(
        command, env=environment(tree, bare), capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _own_s(pid: int) -> float:
    """CPU seconds of a running process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _said(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"


PARTS = {
    "judging": judging,
    "repair": repair,
    "mobilenet_v2": mobilenet_v2,
    "again": again,
    "silence": silence,
    "waiting": waiting,
}

if __name__ == "__main__":
    main()
