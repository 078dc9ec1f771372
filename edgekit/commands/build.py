"""build: recipe, target and budgets in, a bundle and its verdict out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.budget import (
    BudgetLimits,
    Limits,
    merge_limits,
)
from edgekit.bundle.manifest import check_name
from edgekit.bundle.write import check_output, explaining
from edgekit.device.base import Transport
from edgekit.device.connect import reaching
from edgekit.device.facts.probe import environment_of
from edgekit.documents.verdict import VerdictDocument
from edgekit.errors import SettingError, TargetError
from edgekit.interrupt import fragile
from edgekit.pipeline.bundle_build import BundleBuild, Clock
from edgekit.plan import Options, Plan, read_plan
from edgekit.progress import Progress, Silent
from edgekit.runtimes.registry import choose_runtime
from edgekit.target import Target, load_target
from edgekit.values import Effort, PrecisionChoice
from edgekit.waiting import wait_passively

if TYPE_CHECKING:
    pass

# Of a program that is lowered already (pipeline/finished_file.py, which imports torch).
FINISHED = ".pte"


def build(
    recipe: str | Path = "recipe.py",
    *,
    target: str | Target,
    runtime: str = "auto",
    precision: PrecisionChoice = "auto",
    latency_ms: float | None = None,
    memory_mb: float | None = None,
    size_mb: float | None = None,
    max_drop: float | None = None,
    effort: Effort = "normal",
    qat: bool = False,
    prune: float | None = None,
    sparsity: float | None = None,
    distill: bool = False,
    time_limit_s: float | None = None,
    plan: str | Path | Plan | None = None,
    calibration: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
    name: str | None = None,
    output: str | Path | None = None,
    limits: Limits | None = None,
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> VerdictDocument:
    """Build a bundle of the recipe's model for ``target`` and give its verdict.

    ``recipe`` may be a program that torch.export.save wrote (.pt2), or a finished .pte, which is
    packaged as it is. ``plan`` (a file, or what read_plan gave) is done as it stands, in the place
    of ``precision``. ``prune`` removes channels, this share of the multiply-accumulates;
    ``sparsity`` sets this share of the weights to zero; the model is trained after that.
    ``distill``: towards the outputs of the recipe's teacher(), or of its own model before, too.
    ``qat`` trains int8 by the recipe's training() and takes it where its artifact is better. All
    trainings together have ``time_limit_s``. ``calibration`` is a .npz file that stands in for the
    recipe's calibration(). ``limits`` are budgets with who asked for each; the four budget
    arguments are put before them, the target's own after. A missed budget is no error: the bundle
    is there, and the document says ``missed``. ``output`` defaults to ./build/NAME-TARGET.

    Raises RecipeError, ExportError, TrainingError, TargetError, RuntimeFailure, ParityError,
    OutputError, UsageError, MissingExtraError, and with ``device`` what bench raises; nothing is
    left half-written.
    """
    wait_passively()
    progress = progress or Silent()
    board = target if isinstance(target, Target) else load_target(target)
    flags = BudgetLimits(
        latency_ms=latency_ms, memory_mb=memory_mb, size_mb=size_mb, max_drop=max_drop
    )
    asked = merge_limits([("target", board.budgets)])
    asked = asked | (limits or {}) | merge_limits([("flag", flags)])
    path = Path(recipe)
    finished = path.suffix == FINISHED
    options = Options(seed, effort, qat, prune, sparsity, distill, time_limit_s)
    _check(options, precision, plan is not None)
    changing = qat or options.changes_the_model
    if finished and (precision != "auto" or calibration or plan is not None or changing):
        raise SettingError(
            f"{path} is finished and is packaged as it is: --precision, --plan, --prune, "
            "--sparsity, --distill, --qat and --calibration are for a recipe or an exported "
            "program (.pt2)"
        )
    wanted = plan if isinstance(plan, Plan) or plan is None else read_plan(Path(plan))
    engine = choose_runtime(runtime, board)
    bundle_name = check_name(name or default_name(path))
    folder = Path(output or Path("build") / f"{bundle_name}-{board.name}").absolute()
    check_output(folder)
    with _device(device, board, accept_new_host_key, progress) as transport:
        with progress.stage("starting PyTorch"), fragile():
            from edgekit.pipeline.model.source import open_source  # imports torch

        clock = Clock()
        if wanted is not None:
            options = replace(options, seed=wanted.seed)
        job = BundleBuild(engine, board, asked, transport, progress, clock, options)
        with explaining(folder), clock.timed("total"):
            if finished:
                return job.package_finished(path, bundle_name, folder)
            data = Path(calibration) if calibration is not None else None
            with open_source(path, options.seed) as opened:
                return job.run(opened, data, wanted or precision, bundle_name, folder)


def _check(options: Options, precision: PrecisionChoice, by_plan: bool) -> None:
    if by_plan and (options.qat or options.changes_the_model):
        raise SettingError(
            "--plan says by itself what is pruned and trained: leave --prune, --sparsity, "
            "--distill and --qat out"
        )
    if options.qat and precision == "fp32":
        raise SettingError("--qat trains int8, of which there is none with --precision fp32")
    shares = {"--prune": options.prune, "--sparsity": options.sparsity}
    whole = {"--prune": "multiply-accumulates", "--sparsity": "weights"}
    for flag, value in shares.items():
        if value is not None and not 0 < value < 1:
            raise SettingError(
                f"{flag} {value:g}: the share of the {whole[flag]} that goes is between 0 and 1"
            )


def default_name(recipe: Path) -> str:
    """The recipe's folder where the file is recipe.py, else the file's stem."""
    whole = recipe.resolve()
    return whole.parent.name or "model" if whole.name == "recipe.py" else whole.stem


@contextmanager
def _device(
    device: str | None, target: Target, accept_new_host_key: bool, progress: Progress
) -> Iterator[Transport | None]:
    """Connected before anything long runs; a device of another architecture is refused here."""
    if device is None:
        yield None
        return
    with reaching(device, accept_new_host_key, progress) as transport:
        found = environment_of(transport).architecture
        if found is not None and found != target.architecture:
            raise TargetError(
                f"the target '{target.name}' is {target.architecture}, but the device '{device}' "
                f"is {found}",
                "leave --device out, or build for the device's own target",
            )
        yield transport
