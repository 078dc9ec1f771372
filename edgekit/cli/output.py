"""The process's output: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TextIO


@dataclass
class Output:
    """The global flags ``--json``, ``--quiet`` and ``-v``, and the stream of results."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    interrupted: bool = False
    _result: TextIO | None = None

    def protect_stdout(self, wants_json: bool) -> None:
        """With --json, reserve stdout for one document.

        Output of a recipe or a library, even from C, is redirected to stderr.
        """
        self.json = wants_json
        if wants_json:
            self._result = os.fdopen(os.dup(1), "w", encoding="utf-8")
            os.dup2(2, 1)

    def emit(self, text: str) -> None:
        """Print a result."""
        stream = self._result or sys.stdout
        stream.write(text if text.endswith("\n") else text + "\n")
        stream.flush()

    def check_interrupted(self) -> None:
        """Raise a lost KeyboardInterrupt again. Python drops it inside a finalizer, of which torch
        has many.
        """
        if self.interrupted:
            raise KeyboardInterrupt

    def say_error(self, message: str, hint: str | None) -> None:
        print(f"error: {message}", file=sys.stderr)
        if hint:
            print(f"  hint: {hint}", file=sys.stderr)


output = Output()
