"""``--runtime auto``: the bundle is built for each runtime that can run on the target, and the best
one is kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.bundle.verdict import amend_record
from edgekit.bundle.write import publish
from edgekit.device.facts.hardware import hardware_of
from edgekit.documents.runtimes import RuntimeCandidate
from edgekit.documents.verdict import VerdictDocument
from edgekit.errors import (
    EdgekitError,
    MissingExtraError,
    PreflightError,
    RuntimeFailure,
    SettingError,
    StoreError,
    TrainingError,
    WorkerError,
)
from edgekit.pipeline.bundle_build import Built, BundleBuild
from edgekit.pipeline.contest import Contest, Ratio, Rival, contest
from edgekit.pipeline.fit.outcome import value_of
from edgekit.pipeline.package import needed_version
from edgekit.pipeline.searched import searched, wants_search
from edgekit.pipeline.tried import without_losers
from edgekit.runtimes.base import Runtime
from edgekit.runtimes.registry import RUNTIMES, choose_runtime, runtimes_of
from edgekit.values import version_numbers

# Builds the bundle for a runtime in a folder, with a limit in seconds for all its trainings.
BuildFor = Callable[[Runtime, Path, float | None], Built]


@dataclass(frozen=True)
class _Winner:
    """The best of some bundles, and what each other one lost by."""

    best: Rival
    contests: tuple[Contest, ...]


def build_best(job: BundleBuild, build: BuildFor, folder: Path) -> VerdictDocument:
    """Build for all runtimes of the target, and keep the best bundle in ``folder``.

    A runtime that is not installed, or cannot run there, is left out; so is one whose build fails
    while another's succeeds. The best bundle is in ``folder`` before a search starts: if it does
    not meet the budgets, each runtime gets its own search. A device keeps only the best bundle's
    release, and those that it had before.
    Raises what building for the only runtime raises; if all fail, the first one's error.
    """
    able, refused = _candidates(job)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        without_losers(job, folder),
        tempfile.TemporaryDirectory(
            dir=folder.parent, prefix=".edgekit-runtimes-", ignore_cleanup_errors=True
        ) as place,
    ):
        rivals, failed = _build_all(job, build, able, Path(place))
        others = (*refused, *failed)
        winner = _best(job, rivals)
        document = _published(winner, others, folder)
        if wants_search(job, document):
            kept = Rival(winner.best.built, document)
            rivals = [kept if one is winner.best else one for one in rivals]
            shares = _TimeShares(job.options.time_limit_s, len(rivals))
            rivals = [_searched(one, shares) for one in rivals]
            winner = _best(job, rivals)
            document = _published(winner, others, folder)
    return winner.best.built.advised(document)


def _searched(rival: Rival, shares: _TimeShares) -> Rival:
    """The rival after its own search; as it is if that fails."""
    built = replace(rival.built, document=rival.document)
    try:
        with shares.next() as limit_s:
            return Rival(built, searched(built.within(limit_s)))
    except (RuntimeFailure, TrainingError, WorkerError, StoreError) as error:
        name = rival.document.runtime
        built.job.progress.note(f"the search for {name} failed: {error.message}")
        return rival


def _candidates(job: BundleBuild) -> tuple[list[Runtime], list[RuntimeCandidate]]:
    """The runtimes to build for, and those that cannot be, with the reason.

    Raises TargetError, MissingExtraError, RuntimeFailure: there is none, for the first one's
    reason.
    """
    able: list[Runtime] = []
    refused = []
    glibc = hardware_of(job.transport).glibc if job.transport is not None else None
    for name, found in runtimes_of(job.target).items():
        if isinstance(found, EdgekitError):
            why: str | None = found.message
        else:
            why = _why_not(job, found, glibc or job.target.glibc)
            able += [found] if why is None else []
        if why is not None:
            refused.append(RuntimeCandidate(runtime=name, kept=False, reason=why))
    if not able:
        first = choose_runtime(None, job.target)  # what is wrong with it is an error or a budget
        return [first], [one for one in refused if one.runtime != first.name]
    return able, refused


def _why_not(job: BundleBuild, runtime: Runtime, glibc: str) -> str | None:
    """Why no bundle of this runtime can do, whatever the model; None if one may. ``glibc``: of the
    device, or the target.
    """
    if job.options.qat and runtime.pt2e is None:
        return "it cannot train in int8 (--qat)"
    if not runtime.runs_here and job.transport is None and job.target.runtimes[0] != runtime.name:
        return "without --device its latency and memory are unknown"
    try:
        files = runtime.device_files(job.target, job.progress)
    except (RuntimeFailure, MissingExtraError) as error:
        return error.message
    always = RUNTIMES[runtime.name].host.libraries
    binaries = [files.runner, *files.needed(always).values()]
    needed = needed_version(binaries, b"GLIBC")
    if version_numbers(glibc) < version_numbers(needed):
        where = job.transport.name if job.transport is not None else f"target {job.target.name}"
        return f"it needs glibc {needed}, the {where} has {glibc}"
    size_mb = sum(path.stat().st_size for path in binaries) / 1e6
    limit = job.limits.get("size_mb")
    if limit is not None and size_mb > limit.value:
        return f"it has {size_mb:.1f} MB without a model, size_mb is {limit.value:g}"
    return None


class _TimeShares:
    """The time limit of all trainings, divided among builds. A build leaves what it does not use
    to the next ones.
    """

    def __init__(self, limit_s: float | None, builds: int) -> None:
        self._left_s, self._builds = limit_s, builds

    @contextmanager
    def next(self) -> Iterator[float | None]:
        """An equal share of what is left, while a build runs; None without a limit."""
        if self._left_s is None:
            yield None
            return
        share_s = self._left_s / self._builds
        start_s = time.monotonic()
        try:
            yield share_s
        finally:  # a build may fail before it trains
            self._builds -= 1
            self._left_s -= min(share_s, time.monotonic() - start_s)


def _build_all(
    job: BundleBuild, build: BuildFor, runtimes: Sequence[Runtime], place: Path
) -> tuple[list[Rival], list[RuntimeCandidate]]:
    """Raises the first error if no build succeeds, others than a runtime's own at once."""
    built: list[Rival] = []
    failed: list[RuntimeCandidate] = []
    errors: list[EdgekitError] = []
    shares = _TimeShares(job.options.time_limit_s, len(runtimes))
    for runtime in runtimes:
        job.progress.note(f"building for {runtime.name}")
        try:
            with shares.next() as limit_s:
                one = build(runtime, place / runtime.name / "bundle", limit_s)
            built.append(Rival(one, one.document))
        except (RuntimeFailure, PreflightError, SettingError, MissingExtraError) as error:
            job.progress.note(f"{runtime.name}: {error.message}")
            errors.append(error)
            why = f"not built: {error.message}"
            failed.append(RuntimeCandidate(runtime=runtime.name, kept=False, reason=why))
    if not built:
        raise errors[0]
    return built, failed


def _best(job: BundleBuild, rivals: Sequence[Rival]) -> _Winner:
    best, contests = rivals[0], []
    for rival in rivals[1:]:
        found = contest(job, best, rival)
        best = best if found.winner is best.document else rival
        contests.append(found)
    return _Winner(best, tuple(contests))


def _published(
    winner: _Winner, others: Sequence[RuntimeCandidate], folder: Path
) -> VerdictDocument:
    """Put the winner's bundle in ``folder``, with all candidates in its verdict.json."""
    document = winner.best.document
    losers = [_candidate(one.loser, one.reason, one.ratio) for one in winner.contests]
    why = f"it {winner.contests[-1].what}" if winner.contests else "the only one that was built"
    candidates = (_candidate(document, why, kept=True), *losers, *others)
    bundle = Path(document.bundle)
    amend_record(bundle, runtimes=candidates)
    if bundle != folder:
        publish(bundle, folder)
    return document.replaced(runtimes=candidates, bundle=str(folder))


def _candidate(
    document: VerdictDocument, reason: str, ratio: Ratio | None = None, kept: bool = False
) -> RuntimeCandidate:
    return RuntimeCandidate(
        runtime=document.runtime,
        kept=kept,
        reason=reason,
        verdict=document.verdict,
        precision=document.plan.precision,
        latency_ms=value_of(document, "latency_ms"),
        peak_memory_mb=value_of(document, "peak_memory_mb"),
        size_mb=value_of(document, "size_mb"),
        accuracy_drop=value_of(document, "accuracy_drop"),
        latency_ratio=(ratio.middle, ratio.low, ratio.high) if ratio is not None else None,
        latency_source=ratio.source if ratio is not None else None,
    )
