"""The search for a smaller model, after a build that does not meet its budgets."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from edgekit.bundle.manifest import read_manifest
from edgekit.documents.verdict import VerdictDocument
from edgekit.errors import EdgekitError
from edgekit.pipeline.bundle_build import Built, BundleBuild
from edgekit.pipeline.fit.evaluator import Evaluator
from edgekit.pipeline.fit.fit import FitResult, fit, may_fit, precision_of
from edgekit.pipeline.fit.goals import open_budgets
from edgekit.pipeline.fit.meter import Meter
from edgekit.pipeline.fit.outcome import outcome, with_search
from edgekit.search.points import Points


def wants_search(job: BundleBuild, document: VerdictDocument) -> bool:
    return may_fit(job.options) and bool(open_budgets(document))


def searched(built: Built) -> VerdictDocument:
    """The document of the bundle, or of a better one that a search finds and puts in its place.

    Raises RecipeError, ExportError, WorkerError.
    """
    job, document = built.job, built.document
    if not wants_search(job, document):
        return document
    with job.clock.timed("search"), closing(Points(job.progress.note)) as points:
        return _fitted(built, points)


def _fitted(built: Built, points: Points) -> VerdictDocument:
    job, context = built.job, built.context
    meter = Meter(job.target, context, context.device, times="latency_ms" in job.limits)
    precision = precision_of(built.document.plan)
    evaluator = Evaluator(built.subject, meter, precision, job.workers, points)
    found = fit(evaluator, job.options, built.constraints, built.document, built.result.artifact)
    document, is_complete = _best_of(built, found)
    if found.is_complete and is_complete:
        evaluator.forget_measured()  # only now: what was interrupted goes on with the same plan
    return document


def _best_of(built: Built, found: FitResult) -> tuple[VerdictDocument, bool]:
    """The better one of the bundle in the folder, and that of the plan that was found; and whether
    the latter was built.
    """
    job, document = built.job, built.document
    folder = Path(document.bundle)
    if found.plan is None:
        job.progress.note(f"the search ends: {found.report.end}")
        return with_search(folder, document, found.report, found.relaxations), True
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".edgekit-fit-") as place:
        draft = Path(place) / folder.name
        try:
            rival = _build_smaller(built, found, draft)
        except EdgekitError as error:  # the first bundle is there all the same
            job.progress.note(f"the smaller model failed: {error.message}")
            report = found.report.replaced(end=f"the smaller model failed: {error.message}")
            return with_search(folder, document, report, ()), False
        return outcome(folder, document, draft, rival, found.report), True


def _build_smaller(built: Built, found: FitResult, draft: Path) -> VerdictDocument:
    assert found.plan is not None
    job = replace(built.job, options=replace(built.job.options, time_limit_s=found.limit_s))
    result = job.build_model(built.subject, built.context, found.plan, "auto", built.training)
    name = read_manifest(Path(built.document.bundle)).name
    return job.write_bundle(result, built.context.host_files, name, draft)
