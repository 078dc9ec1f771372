"""The context that every stage of a build gets."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.measure.duel import Arena
from edgekit.pipeline.model.fingerprint import Fingerprint
from edgekit.progress import Progress
from edgekit.runner.files import RunnerFiles
from edgekit.runtimes.base import Pt2e, Runtime


@dataclass(frozen=True)
class Tools:
    """The runtime, its runner for this host, and other things that all stages share. ``arena``: of
    the named device, if any.
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
