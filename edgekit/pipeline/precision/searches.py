"""The searches that bring int8 closer to the float model, on calibration data, with a cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from edgekit.compress.graph import within
from edgekit.compress.quantization.simulate import Outputs
from edgekit.documents.verdict import Blame
from edgekit.pipeline.model.context import BuildContext
from edgekit.pipeline.model.predict import run_eager
from edgekit.pipeline.model.stage_cache import cache_stage, load_cached_stage
from edgekit.pipeline.model.subject import Subject
from edgekit.pipeline.precision.quantize import Simulator
from edgekit.plan import Plan
from edgekit.search.blame import find_sensitive_layers
from edgekit.search.float_layers import FloatLayers, float_layers
from edgekit.search.float_operators import FloatOperators, float_operators
from edgekit.search.repairs import RepairSearchResult, find_repairs, float_outputs, split
from edgekit.search.work_limit import (
    BLAMING,
    BUYING,
    REPAIRING,
    TIMES_PLAIN,
    values_of,
    work_of_all,
    work_of_plain,
)
from edgekit.values import Effort

FILE = "found.json"

Result = TypeVar("Result")


class CachedSearches:
    """The searches for one subject. Each runs on first use, and only once."""

    def __init__(
        self,
        subject: Subject,
        context: BuildContext,
        plain: Plan,
        effort: Effort = "normal",
        build_s: float | None = None,
    ) -> None:
        """``build_s``: the build time of plain int8 in seconds, if known."""
        self._subject, self._context, self._plain = subject, context, plain
        self._effort, self._build_s = effort, build_s
        self._split = split(subject.calibration)
        self._simulate = Simulator(subject.float_model, context.pt2e, self._split.fitted)

    @cached_property
    def repairs(self) -> RepairSearchResult:
        """The best plan with the same layers in int8."""
        return self._once("repairs", TypeAdapter(RepairSearchResult), self._find_repairs)

    @cached_property
    def blame(self) -> tuple[Blame, ...]:
        """The sensitive layers of plain int8, each with its fix."""
        return self._once("blame", TypeAdapter(tuple[Blame, ...]), self._blame)

    @cached_property
    def float_layers(self) -> FloatLayers:
        """Layers to keep float in addition to the repairs, most valuable first."""
        return self._once("purchases", TypeAdapter(FloatLayers), self._float_layers)

    @cached_property
    def float_operators(self) -> FloatOperators:
        """Operators without weights to keep float, chosen before repairs."""
        return self._once("operators", TypeAdapter(FloatOperators), self._float_operators)

    def _once(
        self, kind: str, adapter: TypeAdapter[Result], search: Callable[[], Result]
    ) -> Result:
        """The result of a search, from the cache if the same model was searched before."""
        key = self._context.fingerprint.key(self._context.runtime, self._plain)
        kind = kind if self._effort == "normal" else f"{kind}-{self._effort}"

        def read(folder: Path) -> Result:
            return adapter.validate_json((folder / FILE).read_bytes())

        cached = load_cached_stage(kind, key, self._parity_floats, read)
        if cached is not None:
            return cached
        found = search()

        def write(draft: Path) -> None:
            (draft / FILE).write_bytes(adapter.dump_json(found))

        cache_stage(self._context, kind, key, self._parity_floats, write)
        return found

    @cached_property
    def _parity_floats(self) -> list[Outputs]:
        eager = run_eager(self._subject.model)
        return [eager(inputs) for inputs in self._subject.parity_inputs]

    def _float_operators(self) -> FloatOperators:
        return float_operators(
            self._plain,
            self._simulate,
            self._split.fitted,
            self._split.judged,
            self._floats,
            self._subject.fidelity,
            self._context.progress,
        )

    def _float_layers(self) -> FloatLayers:
        model_mb = sum(p.numel() for p in self._subject.model.parameters()) / 1e6
        # corrections depend on which layers are int8: they are computed again for the chosen layers
        bare = {"correct": False, "round": False}
        plan = self.repairs.plan.replaced(**bare)
        with self._context.progress.stage("choosing ranges"):
            simulation = self._simulate(plan)
        # choosing layers fits nothing to the inputs, so all of them may judge
        judged = [*self._split.fitted, *self._split.judged]
        return float_layers(
            simulation,
            judged,
            float_outputs(self._simulate(self._plain), judged),
            self._subject.fidelity,
            model_mb,
            BUYING * self._work,
            self._context.progress,
        )

    def _find_repairs(self) -> RepairSearchResult:
        progress = self._context.progress
        progress.note(f"repairing int8 takes at most {self._limit_text()}")
        return find_repairs(
            self._plain,
            self._simulate,
            self._split,
            self._floats,
            self._subject.fidelity,
            REPAIRING * self._work,
            progress,
        )

    def _blame(self) -> tuple[Blame, ...]:
        with self._context.progress.stage("finding the sensitive layers") as stage:
            ranges = self._plain.replaced(observer="mse_after_activation")
            equalized = ranges.replaced(equalize=0.5)
            fixes = [("range", ranges), ("equalization", equalized)]
            return find_sensitive_layers(
                self._simulate(self._plain),
                [(name, self._simulate(plan)) for name, plan in fixes],
                self._split.judged,
                self._floats,
                self._subject.fidelity,
                BLAMING * self._work,
                stage,
            )

    @cached_property
    def _work(self) -> float:
        """The work limit of all searches together, in rounded values (search/work_limit.py)."""
        own = work_of_plain(self._simulate(self._plain), len(self._subject.calibration))
        return TIMES_PLAIN[self._effort] * own

    def _limit_text(self) -> str:
        """The limit of the searches, with their seconds, estimated from the float model's time."""
        self._floats  # noqa: B018 - timed
        simulation = self._simulate(self._plain)
        rounded = values_of(simulation) * len(self._split.judged)
        fitted, judged = len(self._split.fitted), len(self._split.judged)
        whole = work_of_all(len(simulation.points), fitted, judged) * values_of(simulation)
        seconds = min(self._work, whole) * self._floats_s / max(1, rounded)
        text = f"{TIMES_PLAIN[self._effort]:g} times the work of plain int8, about {seconds:.0f} s"
        if self._build_s is None:
            return text
        return f"{text}, and {self._build_s:.0f} s for each precision that is built"

    @cached_property
    def _floats(self) -> list[Outputs]:
        with self._context.progress.stage("observing the model"):
            simulation = self._simulate(self._plain)
            start = time.perf_counter()
            outputs = float_outputs(simulation, self._split.judged)
            self._floats_s = time.perf_counter() - start
        return outputs


def applied(rows: tuple[Blame, ...], plan: Plan) -> tuple[Blame, ...]:
    """The rows, each marked with whether its fix is in ``plan``."""

    def is_applied(row: Blame) -> bool:
        if row.fix == "range":
            return plan.observer != "histogram"
        if row.fix == "equalization":
            return plan.equalize is not None
        return any(within(row.layer, name) for name in plan.float_layers)

    return tuple(row.replaced(applied=is_applied(row)) for row in rows)
