"""torch's own control flow (torch.cond and others), which devices do not run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch._higher_order_ops.map
from torch._compile import _disable_dynamo

from edgekit.errors import ExportError
from edgekit.runtimes.cause import location_text

BRANCH = (
    "compute both results and choose with torch.where(condition, a, b), or build each branch as a "
    "model of its own and choose in the program that calls them: a device runs one fixed graph"
)
LOOP = (
    "a Python loop with a fixed number of steps, and torch.where(done, x, next) in each; or build "
    "one step as the model, and repeat it in the program that calls it: a device runs one fixed "
    "graph"
)
STEPS = (
    "a Python loop over x.unbind(0) and torch.stack of its results, which is unrolled; where no "
    "step needs the last one, a batch does without a loop"
)
# By the operator's name: how a message calls it, and what to write instead.
INSTEAD = {
    "cond": ("torch.cond", BRANCH),
    "while_loop": ("torch.while_loop", LOOP),
    "scan": ("scan", STEPS),
    "associative_scan": ("associative_scan", STEPS),
    "map_impl": ("map", STEPS),
}


class Watching(Protocol):
    """A mode that knows the user's line that is running."""

    def running(self, is_meant: Callable[[torch.fx.Node], bool]) -> str | None: ...


def refuse_control_flow(mode: type[Watching]) -> None:
    """Let the operators raise ExportError while ``mode`` is entered.

    torch compiles what surrounds these operators, and with it everything that ``mode`` does; not
    what is registered for one operator and kept from the compiler.
    """
    for name in INSTEAD:
        operator = getattr(torch.ops.higher_order, name)
        operator.py_impl(mode)(_disable_dynamo(_refusal(name)))


def _refusal(operator: str) -> Callable[..., Any]:
    def refuse(mode: Watching, /, *_: Any, **__: Any) -> None:
        name, instead = INSTEAD[operator]
        line = mode.running(lambda node: node.target is getattr(torch.ops.higher_order, operator))
        raise ExportError(
            "a device cannot run the model's control flow" + location_text(name, None, line),
            instead,
        )

    return refuse
