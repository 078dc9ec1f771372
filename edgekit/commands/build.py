"""build: recipe, target and budgets in, a bundle and its verdict out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar, get_type_hints

from edgekit.budget import BudgetLimits, Limits, merge_limits
from edgekit.build_options import BUDGETS, BuildOptions, refuse_unknown_keywords
from edgekit.bundle.manifest import check_name
from edgekit.bundle.write import check_output, output_errors
from edgekit.device.base import Transport
from edgekit.device.connect import connection
from edgekit.device.facts.probe import environment_of
from edgekit.documents.verdict import VerdictDocument
from edgekit.errors import SettingError, TargetError
from edgekit.fleet.workers import open_workers
from edgekit.pipeline.bundle_build import Built, BundleBuild, Clock
from edgekit.plan import Plan, read_plan
from edgekit.process.interrupt import uninterruptible
from edgekit.process.waiting import wait_passively
from edgekit.progress import Progress, Silent
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.registry import choose_runtime, runtime_of_file
from edgekit.search.constraints import Constraints
from edgekit.target import MACHINES, Target, load_target
from edgekit.values import RuntimeName, thread_count

Keywords = ParamSpec("Keywords")
Options = TypeVar("Options")
Result = TypeVar("Result")


def with_keywords_of(
    options: Callable[Keywords, Options],
) -> Callable[[Callable[[Options], Result]], Callable[Keywords, Result]]:
    """Let callers of a function of ``options`` pass the arguments of the options' class instead.

    Type checkers and inspect.signature see every option with its type and default.
    """

    def decorate(command: Callable[[Options], Result]) -> Callable[Keywords, Result]:
        @wraps(command)
        def call(*arguments: Keywords.args, **keywords: Keywords.kwargs) -> Result:
            refuse_unknown_keywords(keywords)
            return command(options(*arguments, **keywords))

        call.__signature__ = _signature(options)  # type: ignore[attr-defined]
        return call

    return decorate


# The types that BuildOptions has in quotes.
_QUOTED = {"Constraints": Constraints, "Limits": Limits, "Plan": Plan, "Target": Target}


def _signature(options: Callable[..., object]) -> inspect.Signature:
    """The signature with plain types: annotations make help(edgekit.build) unreadable."""
    signature, hints = inspect.signature(options), get_type_hints(options, localns=_QUOTED)
    plain = [one.replace(annotation=hints[name]) for name, one in signature.parameters.items()]
    return signature.replace(parameters=plain, return_annotation=VerdictDocument)


@with_keywords_of(BuildOptions)
def build(options: BuildOptions) -> VerdictDocument:
    """Build a bundle of the recipe's model for ``target`` and return its verdict.

    The arguments are the fields of BuildOptions (edgekit/build_options.py), each with a line of
    help; docs/cli.md has the details. ``recipe`` may be a program that torch.export.save wrote
    (.pt2), or a finished .pte or .tflite, which is packaged as it is. A missed budget is not an
    error: the bundle is written, and the document says ``missed``.

    Raises SettingError for options; RecipeError, ExportError, TrainingError, TargetError,
    RuntimeFailure, ParityError, OutputError, UsageError, MissingExtraError, WorkerError; with
    ``device`` also what bench raises. After an error no incomplete bundle remains.
    """
    wait_passively()
    progress = options.progress or Silent()
    target = _with_threads(_target(options.target), options)
    wanted = _plan(options.plan)
    engine = choose_runtime(_runtime(options, target), target)
    name = check_name(options.name or default_name(Path(options.recipe)))
    folder = Path(options.output or Path("build") / f"{name}-{target.name}").absolute()
    check_output(folder)
    if wanted is not None:
        options = replace(options, seed=wanted.seed)
    with (
        open_workers(options.workers, progress) as workers,
        _device(options, target, progress) as transport,
    ):
        clock, limits = Clock(), _limits(options, target)
        job = BundleBuild(engine, target, limits, transport, progress, clock, options, workers)
        return _run(job, wanted, name, folder)


def _runtime(options: BuildOptions, target: Target) -> RuntimeName | None:
    """The runtime that was asked for, if it is one; else that of a finished file, if it is one."""
    if options.runtime is None or options.runtime == "auto":
        return runtime_of_file(Path(options.recipe), target.runtimes)
    return options.runtime


def _run(job: BundleBuild, plan: Plan | None, name: str, folder: Path) -> VerdictDocument:
    with job.progress.stage("starting PyTorch"), uninterruptible():  # which these import
        from edgekit.pipeline.choose_runtime import build_best
        from edgekit.pipeline.model.source import open_source
        from edgekit.pipeline.searched import searched

    options, source = job.options, Path(job.options.recipe)
    with output_errors(folder), job.clock.timed("total"):
        if options.is_finished:
            return job.package_finished(source, name, folder)
        calibration = Path(options.calibration) if options.calibration is not None else None
        wanted = plan or options.precision
        with open_source(source, options.seed) as recipe:
            subject = job.read(recipe, calibration, wanted)

            def build_for(runtime: Runtime, place: Path, limit_s: float | None) -> Built:
                own = replace(options, time_limit_s=limit_s)
                one = replace(job, engine=runtime, clock=job.clock.copy(), options=own)
                return one.run(subject, wanted, name, place)

            if options.runtime == "auto":
                return build_best(job, build_for, folder)
            built = build_for(job.engine, folder, options.time_limit_s)
            return built.advised(searched(built))


def default_name(recipe: Path) -> str:
    """The name of the recipe's folder if the file is recipe.py, else the file's stem."""
    whole = recipe.resolve()
    return whole.parent.name or "model" if whole.name == "recipe.py" else whole.stem


def _target(target: str | Target) -> Target:
    return target if isinstance(target, Target) else load_target(target)


def _with_threads(target: Target, options: BuildOptions) -> Target:
    """The target with --threads; as it is for ``auto``, which is decided later."""
    count = thread_count(options.threads) if options.threads is not None else None
    if count is None:
        return target
    if count > target.cores:
        raise SettingError(
            f"threads {count}: {target.name} has {target.cores} cores",
            f"give at most {target.cores}, or auto",
        )
    return target.replaced(threads=count)


def _plan(plan: str | Path | Plan | None) -> Plan | None:
    return plan if isinstance(plan, Plan) or plan is None else read_plan(Path(plan))


def _limits(options: BuildOptions, target: Target) -> Limits:
    """All budgets with their origins: the options override ``options.limits``, those the target."""
    own = BudgetLimits(**{name: getattr(options, name) for name in BUDGETS})
    weaker = merge_limits([("target", target.budgets)]) | (options.limits or {})
    return weaker | merge_limits([("flag", own)])


@contextmanager
def _device(
    options: BuildOptions, target: Target, progress: Progress
) -> Iterator[Transport | None]:
    """The device, connected before any slow step. Another architecture is refused."""
    device = options.device
    if device is None:
        yield None
        return
    with connection(device, options.accept_new_host_key, progress) as transport:
        found = environment_of(transport).architecture
        if found is not None and found not in MACHINES[target.architecture]:
            raise TargetError(
                f"the target '{target.name}' is {target.architecture}, but the device '{device}' "
                f"is {found}",
                "omit --device, or build for the device's own target",
            )
        yield transport
