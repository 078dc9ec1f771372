"""Questions to the user at the terminal, if there is one."""

from __future__ import annotations

import getpass
import sys

from edgekit.device.ssh.keys import Ask
from edgekit.device.ssh.options import HostOptions


class Terminal:
    """Asks each question once, even if several hosts cause it."""

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}

    def for_host(self, options: HostOptions) -> Ask | None:
        """The function that asks; None if there is no terminal, or with BatchMode."""
        streams = (sys.stdin, sys.stderr)
        is_there = all(stream is not None and stream.isatty() for stream in streams)
        return self._ask if is_there and not options.batch_mode else None

    def _ask(self, question: str) -> str | None:
        if question not in self._answers:
            try:
                self._answers[question] = getpass.getpass(question)
            except EOFError:
                return None
        return self._answers[question]
