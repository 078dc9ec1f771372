"""What workers load in tests: answers in capitals, and a question that ends the worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

LOAD = "worker_double:load"


def load(parts: Sequence[bytes]) -> Callable[[str], str]:
    """``parts``: a folder, in which each load and each death leaves a file."""
    folder = Path(parts[0].decode())
    (folder / f"loaded by {os.getpid()}").touch()

    def answer(question: str) -> str:
        if question == "once" and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if question == "always":
            os.kill(os.getpid(), signal.SIGKILL)
        if question == "wrong":
            raise ValueError("no such question")
        return question.upper()

    return answer
