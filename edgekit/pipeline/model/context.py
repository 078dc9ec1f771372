"""The context that every stage of a build gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.measure.paired_latency import MeasuringDevice
from edgekit.pipeline.model.cache_key import Fingerprint
from edgekit.pipeline.model.subject import Subject
from edgekit.progress import Progress
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.base import Pt2e, Runtime


@dataclass(frozen=True)
class BuildContext:
    """The runtime, its runner for this host, and other things that all stages share. ``device``: of
    the named device, if any.
    """

    runtime: Runtime
    host_files: RunnerFiles
    seed: int
    progress: Progress
    fingerprint: Fingerprint
    device: MeasuringDevice | None = None

    def of(self, subject: Subject) -> BuildContext:
        """The context for another subject: its results have keys of their own."""
        return replace(self, fingerprint=self.fingerprint.of(subject))

    def with_threads(self, threads: int) -> BuildContext:
        """The context whose device, if there is one, measures with so many threads."""
        device = replace(self.device, threads=threads) if self.device is not None else None
        return replace(self, device=device)

    @property
    def pt2e(self) -> Pt2e:
        """Only for runtimes that have the capability; plans.check_runtime refuses the others."""
        assert self.runtime.pt2e is not None
        return self.runtime.pt2e
