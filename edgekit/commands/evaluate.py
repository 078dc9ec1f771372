"""eval: the recipe's metric, with ``predict`` running on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.bundle.manifest import Manifest
from edgekit.bundle.read import open_bundle
from edgekit.bundle.verdict import Record, peak_of
from edgekit.device.connect import connection
from edgekit.documents.device import EvalDocument
from edgekit.errors import RecipeError
from edgekit.host.packages import require_torch
from edgekit.process.interrupt import uninterruptible
from edgekit.process.waiting import wait_passively
from edgekit.progress import Progress, Silent
from edgekit.runner.client import Serving
from edgekit.store.store import installed_on

if TYPE_CHECKING:
    from edgekit.pipeline.model.subject import Subject
    from edgekit.recipe.recipe import Recipe

CHANGED = "the recipe has changed since the build, so the host's accuracy is not comparable"


def evaluate(
    bundle: str | Path,
    device: str,
    *,
    recipe: str | Path | None = None,
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> EvalDocument:
    """Evaluate a bundle on a device by the ``evaluate`` of the recipe that it was built from.

    One serving process on the device answers all calls of ``predict``. ``recipe``: another file; if
    its content is not that of the build, ``host_accuracy`` is None.
    Raises RecipeError, MissingExtraError, and all errors of bench but ParityError.
    """
    wait_passively()
    progress = progress or Silent()
    folder = Path(bundle).resolve()
    manifest, record = open_bundle(folder)
    require_torch("evaluation by a recipe's metric")
    with progress.stage("starting PyTorch"), uninterruptible():
        from edgekit.pipeline.model.predict import CountedRun, run_serving
        from edgekit.pipeline.model.source import open_source
        from edgekit.pipeline.model.subject import read_subject
        from edgekit.pipeline.shrink.input_size import resized
    path = Path(recipe or record.recipe)
    with (
        open_source(path, manifest.plan.seed) as opened,
        connection(device, accept_new_host_key, progress) as transport,
    ):
        if not opened.has("evaluate"):
            raise RecipeError(
                f"{path} has no evaluate(), so there is no metric for the device",
                "add evaluate(predict) to it, or give another recipe with --recipe",
            )
        subject = read_subject(opened, False, progress)
        if manifest.plan.resize is not None:
            subject = resized(subject, manifest.plan.resize.size)
        _check_same_model(subject, manifest, path)
        installed = installed_on(transport, folder, manifest, peak_of(record), progress)
        with (
            progress.stage(f"evaluating on {device}") as stage,
            Serving(installed, manifest.threads) as serving,
        ):
            counted = CountedRun(run_serving(serving), stage, record.inferences)
            accuracy = subject.evaluate(counted)
    return _document(folder, device, opened, record, accuracy, counted.count)


def _document(
    folder: Path, device: str, opened: Recipe, record: Record, accuracy: float | None, count: int
) -> EvalDocument:
    assert accuracy is not None  # has("evaluate") was checked
    same = opened.digest == record.recipe_sha256
    return EvalDocument(
        schema_="edgekit.eval/1",
        bundle=str(folder),
        device=device,
        accuracy=accuracy,
        host_accuracy=record.accuracy.artifact if same else None,
        inferences=count,
        note=None if same else CHANGED,
    )


def _check_same_model(subject: Subject, manifest: Manifest, path: Path) -> None:
    """Require that the recipe's model has the bundle's inputs and outputs."""
    from edgekit.recipe.tensors import dtype_name

    pairs = (
        ("input", subject.example, manifest.program.inputs),
        ("output", subject.example_outputs, manifest.program.outputs),
    )
    for word, tensors, specs in pairs:
        actual = [(dtype_name(tensor), tuple(tensor.shape)) for tensor in tensors]
        expected = [(spec.dtype, spec.shape) for spec in specs]
        if actual != expected:
            raise RecipeError(
                f"{path} is not this bundle's recipe: its model's {word}s are {_list(actual)}, the "
                f"bundle's are {_list(expected)}",
                "give the recipe that the bundle was built from with --recipe",
            )


def _list(tensors: list[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{dtype} {list(shape)}" for dtype, shape in tensors)
