"""Answers to the questions of a search: from the store of points, else computed and stored.

What is missing is computed here or by workers, and each answer is stored as soon as it is there: an
interrupted search loses the questions in work, and no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter

from edgekit.cache import content_key
from edgekit.cost.prediction import prediction_facts
from edgekit.device.facts.probe import environment_of
from edgekit.fleet.workers import InProcess, Work, Workers
from edgekit.measure.paired_latency import MeasuringDevice
from edgekit.pipeline.fit.laboratory import (
    Answer,
    CostTrial,
    Laboratory,
    Loss,
    NoCost,
    Trial,
    one_thread,
)
from edgekit.pipeline.fit.material import LOAD, Material, pack
from edgekit.pipeline.fit.meter import Cost, Lowered, Meter
from edgekit.pipeline.model.cache_key import NoFingerprint
from edgekit.pipeline.model.predict import run_eager, to_bytes
from edgekit.pipeline.model.subject import Subject
from edgekit.plan import Plan
from edgekit.runtimes.base import Runtime
from edgekit.search.points import Points
from edgekit.target import Target

LOSS: TypeAdapter[Loss] = TypeAdapter(Loss)
COST: TypeAdapter[Cost | NoCost] = TypeAdapter(Cost | NoCost)
Value = TypeVar("Value")


@dataclass(frozen=True)
class PointKeys:
    """``losses``, ``costs``: the beginnings of the keys; None: the model cannot be read completely,
    and nothing is stored. ``search``: what measured costs belong to; None if they are predicted.
    """

    losses: str | None
    costs: str | None
    search: str | None


class Evaluator:
    """``subject``: the build's. ``meter``: of the build, whose stages are cached. Its device
    measures here, one artifact at a time, also if workers lower them.
    """

    def __init__(
        self, subject: Subject, meter: Meter, quantized: Plan, workers: Workers, points: Points
    ) -> None:
        self.subject, self.meter, self.quantized = subject, meter, quantized
        self._points, self._given, self._progress = points, workers, meter.context.progress
        self._predicts = meter.times and meter.device is None

    def base_cost(self) -> Cost:
        """The costs of the model that nothing was removed from, with the build's artifact."""
        key = self._key(self._keys.costs, "base", self.quantized.model_dump_json())
        stored = self._stored(key, COST)
        if isinstance(stored, Cost):
            cost = stored
        else:
            cost = self.meter.cost(self.subject, self.quantized)
            self._store(key, "base", COST, cost, self._keys.search)
        # calibrations are of this user and this host: workers do not have them
        self._predicts = self._predicts and cost.source != "calibrated"
        return cost

    def losses(self, title: str, trials: Sequence[Trial]) -> list[Loss]:
        """The answers to trials other than of costs. Raises EdgekitError."""

        def finish(answer: Answer) -> Loss:
            return cast("Loss", answer)

        return self._answers(title, trials, LOSS, self._keys.losses, finish)

    def costs(self, title: str, trials: Sequence[CostTrial]) -> list[Cost | NoCost]:
        """The costs of smaller models. Raises ExportError, RuntimeFailure, RunnerError,
        DeviceError.
        """

        def finish(answer: Answer) -> Cost | NoCost:
            found = self.meter.time(answer) if isinstance(answer, Lowered) else answer
            return cast("Cost | NoCost", found)

        asked = [trial.replaced(timed=self._predicts) for trial in trials]
        return self._answers(title, asked, COST, self._keys.costs, finish, self._keys.search)

    def recovered(self, plan: Plan) -> float | None:
        """The stored loss after the plan's recovery."""
        stored = self._stored(self._recovery_key(plan), LOSS)
        return stored.loss if stored is not None else None

    def keep_recovered(self, plan: Plan, loss: float) -> None:
        self._store(self._recovery_key(plan), "recovered", LOSS, Loss(loss=loss), None)

    def _recovery_key(self, plan: Plan) -> str | None:
        """Depends on the training data and the teacher too."""
        context = self.meter.context
        trained = context.fingerprint.key(context.runtime, plan)
        return self._key(self._keys.losses, "recovered", trained) if trained is not None else None

    def forget_measured(self) -> None:
        """Forget what was measured on a device: the search is finished."""
        if self.meter.device is not None and self._keys.search is not None:
            self._points.forget(self._keys.search)

    @cached_property
    def _profiled(self) -> Subject:
        """The subject with the profile of its outputs by one thread, which any process has."""
        outputs = self.subject.outputs_of_float.on(self.subject.example, self.subject.calibration)
        with one_thread():
            _ = outputs.fidelity
        return replace(self.subject, outputs_of_float=outputs)

    @cached_property
    def _keys(self) -> PointKeys:
        return _keys(self.subject, self.meter, self.quantized)

    def _answers(
        self,
        title: str,
        trials: Sequence[Trial],
        adapter: TypeAdapter[Value],
        of: str | None,
        finish: Callable[[Answer], Value],
        search: str | None = None,
    ) -> list[Value]:
        texts = [trial.model_dump_json() for trial in trials]
        keys = [self._key(of, text) for text in texts]
        values = [self._stored(key, adapter) for key in keys]
        missing = [index for index, value in enumerate(values) if value is None]
        if not missing:
            return cast("list[Value]", values)
        with self._progress.stage(title) as stage:
            ready = len(values) - len(missing)

            def done(index: int, answer: Any) -> None:
                nonlocal ready
                place = missing[index]
                values[place] = finish(answer)
                self._store(keys[place], trials[place].kind, adapter, values[place], search)
                ready += 1
                stage.advance(ready, len(values))

            workers, work = self._where
            workers.run(work, [texts[index] for index in missing], done)
        return cast("list[Value]", values)

    @cached_property
    def _where(self) -> tuple[Workers, Work]:
        """The workers, if the model can be sent to them; else this process."""
        target, context, subject = self.meter.target, self.meter.context, self._profiled
        inner = replace(context, fingerprint=NoFingerprint(), device=None)
        laboratory = Laboratory(subject, Meter(target, inner, None), self.quantized)
        here = Work(laboratory.answer, (), LOAD)
        if isinstance(self._given, InProcess):
            return self._given, here
        material = Material.of(subject, self.quantized, target, context.runtime, context.seed)
        try:
            parts = pack(material, subject)
        except Exception as error:  # of the user's classes: anything
            self._progress.note(f"this process does all work: the model cannot be sent: {error}")
            return InProcess(), here
        return self._given, replace(here, parts=parts)

    def _key(self, of: str | None, *parts: str) -> str | None:
        return None if of is None else content_key(part.encode() for part in (of, *parts))

    def _stored(self, key: str | None, adapter: TypeAdapter[Value]) -> Value | None:
        text = self._points.get(key) if key is not None else None
        try:
            return adapter.validate_json(text) if text is not None else None
        except ValueError:
            return None

    def _store(
        self,
        key: str | None,
        name: str,
        adapter: TypeAdapter[Value],
        value: Any,
        search: str | None,
    ) -> None:
        if key is not None:
            self._points.put(key, name, adapter.dump_json(value).decode(), search)


def _keys(subject: Subject, meter: Meter, quantized: Plan) -> PointKeys:
    """Keys of all that points depend on.

    A fingerprint covers what is known of a model without running it. Other things that its forward
    reads, and the CPU, show only in its outputs.
    """
    context = meter.context
    known = context.fingerprint.key(context.runtime, quantized)
    if known is None:
        return PointKeys(None, None, None)
    with one_thread():
        run = run_eager(subject.model)
        floats = [tensor for inputs in subject.parity_inputs for tensor in run(inputs)]
    losses = content_key([known.encode(), *map(to_bytes, floats)])
    target = meter.target.model_dump_json(exclude={"budgets", "name", "description"})
    facts = [str(meter.times), *_cost_facts(meter.device, meter.target, context.runtime)]
    costs = content_key(part.encode() for part in (losses, target, *facts))
    return PointKeys(losses, costs, None if meter.device is None else costs)


def _cost_facts(device: MeasuringDevice | None, target: Target, runtime: Runtime) -> list[str]:
    """What a latency depends on: the device's identity, else the means of prediction."""
    if device is None:
        return prediction_facts(target, runtime.name)
    found = environment_of(device.transport)
    names = ("architecture", "model", "cpu", "cpu_features", "cores", "governor", "memory_mb")
    facts = {name: getattr(found, name) for name in (*names, "os", "kernel", "emulated")}
    return [device.transport.name, json.dumps(facts)]
