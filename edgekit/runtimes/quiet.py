"""Hides the libraries' known, harmless messages from the user, but not real warnings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from edgekit.process.interrupt import uninterruptible

NOISY_MODULES = (
    r"(torch|torchao|executorch|copyreg|importlib|contextlib|flatbuffers|coremltools"
    r"|litert_torch|ai_edge_litert|ai_edge_quantizer|jax|warnings)(\.|$)"
)
NOISY_MESSAGES = (r".*LeafSpec.*", r"The tensor attributes? .* assigned during export")
NOISY_LOGGERS = ("torchao", "torch", "torch.export", "executorch", "root")


def first_line(error: BaseException) -> str:
    """The error's class and the first line of its message: torch's messages fill pages."""
    lines = (line.strip() for line in str(error).splitlines())
    first = next((line for line in lines if line), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings raised inside the libraries, but not the recipe's own. An interruption does
    not unwind the libraries' stack.
    """
    levels = {name: logging.getLogger(name).level for name in NOISY_LOGGERS}
    with uninterruptible(), warnings.catch_warnings():
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
