"""Keeps the libraries' known, harmless chatter from the user, and lets real warnings through."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.process.interrupt import fragile

NOISY_MODULES = (
    r"(torch|torchao|executorch|copyreg|importlib|contextlib|flatbuffers|coremltools)(\.|$)"
)
NOISY_MESSAGES = (r".*LeafSpec.*", r"The tensor attributes? .* assigned during export")
NOISY_LOGGERS = ("torchao", "torch", "torch.export", "executorch", "root")


def first_line(error: BaseException) -> str:
    """The error's kind and the first thing that it says: torch's own run over pages."""
    lines = (line.strip() for line in str(error).splitlines())
    said = next((line for line in lines if line), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings raised inside the libraries; the recipe's own still appear. An interruption
    does not unwind through them.
    """
    levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
    with fragile(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=NOISY_MODULES)
        for message in NOISY_MESSAGES:
            warnings.filterwarnings("ignore", message=message)
        for name in NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
