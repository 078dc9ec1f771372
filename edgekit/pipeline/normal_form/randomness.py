"""Random numbers in a model's forward: where they are drawn, and whether outputs differ."""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import FrameSummary
from types import FrameType
from typing import Any

import numpy as np
import torch

from edgekit.pipeline.normal_form.control_flow import refuse_control_flow
from edgekit.pipeline.normal_form.operator_mode import OperatorMode
from edgekit.recipe.user_code import line_of_user
from edgekit.runtimes.cause import first_line


class Draws(OperatorMode):
    """Records the first operator that draws random numbers, and where. Every draw of bits
    (dropout, drop path) gives ``bit`` throughout, so that two runs differ even where a draw
    rarely changes anything. Raises ExportError for control flow of torch's own.
    """

    # draws inside them are not recorded
    supports_higher_order_operators = True

    def __init__(self, model: torch.nn.Module, bit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._bit = model, bit
        self._depth = 0
        self.name: str | None = None
        self.line: str | None = None

    def __enter__(self) -> Draws:
        self._depth = len(traceback.extract_stack())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if draws(func, args, kwargs or {}):
            name = func.name().removeprefix("aten::").partition(".")[0].rstrip("_")
            if self.name is None:
                self.name = name
                self.line = self.running(lambda node: draws(node.target, node.args, node.kwargs))
            if name == "bernoulli":
                result.fill_(self._bit)
        return result

    def running(self, is_meant: Callable[[torch.fx.Node], bool]) -> str | None:
        """The user's line that is running; in a traced graph, that of the first such node."""
        frames = traceback.extract_stack()[self._depth :]
        return line_of_user(frames) or first_line(self._model, is_meant)


refuse_control_flow(Draws)


class Lines:
    """Finds the first line of the user's that draws from numpy's or Python's random numbers."""

    def __init__(self) -> None:
        self.line: str | None = None
        self._last: FrameSummary | None = None
        self._state = _random_state()

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _see(self, frame: FrameType, _event: str, _: object) -> Any:
        line = FrameSummary(frame.f_code.co_filename, frame.f_lineno, "", lookup_line=False)
        if line_of_user([line]) is None:
            return None
        state = _random_state()
        if state != self._state and self.line is None and self._last is not None:
            self.line = line_of_user([self._last])
        self._state, self._last = state, line
        return self._see


def _random_state() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()
    return random.getstate(), name, np.asarray(keys).tobytes(), *rest


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Restore the random states of torch, Python and numpy afterwards."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


def draw_some() -> None:
    torch.rand(())
    np.random.random()
    random.random()


def draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call of an operator draws random numbers. Attention, whose tag says so, does
    not if its dropout is 0.
    """
    if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
        return False
    names = [argument.name for argument in func._schema.arguments]
    arguments = dict(zip(names, args, strict=False)) | kwargs
    if "dropout_p" in names:
        return bool(arguments.get("dropout_p", 0.0))
    always = func.name().startswith("aten::bernoulli") and arguments.get("p") in (0, 1)
    return arguments.get("train") is not False and not always
