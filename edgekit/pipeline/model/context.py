"""What every stage of a build is handed."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.measure.duel import Arena
from edgekit.pipeline.model.fingerprint import Fingerprint
from edgekit.progress import Progress
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.base import Pt2e, Runtime


@dataclass(frozen=True)
class Tools:
    """What every rung is built with: the runtime, its runner for this host, and the device that
    was named, where one was.
    """

    runtime: Runtime
    host_files: RunnerFiles
    seed: int
    progress: Progress
    fingerprint: Fingerprint
    arena: Arena | None = None

    @property
    def pt2e(self) -> Pt2e:
        """Only for runtimes that have the capability; plans.check_runtime refuses the others."""
        assert self.runtime.pt2e is not None
        return self.runtime.pt2e
