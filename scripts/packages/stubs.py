"""What lets the packages import beside a CPU build of torch, without parts that no export uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

# torchvision's library is of another build; at import it describes these two of its operators.
OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_LIBRARY: list[torch.library.Library] = []  # it must live as long as its operators


def describe_torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(name + SCHEMA)
        _LIBRARY.append(library)


@contextmanager
def empty_modules(*names: str) -> Iterator[None]:
    """Modules without content, for a package that imports them and does not need them."""
    added = [name for name in names if name not in sys.modules]
    sys.modules.update({name: ModuleType(name) for name in added})
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
