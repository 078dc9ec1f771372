"""Runs Python with a terminal of its own, and types into it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time

TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
)
LIMIT_S = 60.0


def at_terminal(code: str, *answers: str) -> tuple[str, str]:
    """Run ``code``, answering each question that ends with a colon. Gives its stdout, and what
    the terminal showed.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE_TERMINAL, code],
        stdin=theirs, stderr=theirs, stdout=subprocess.PIPE,
    )  # fmt: skip
    os.close(theirs)
    shown, waiting, end = "", list(answers), time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.05)[0]:
            try:
                shown += os.read(ours, 4096).decode(errors="replace")
            except OSError:  # the other side is closed
                break
            if waiting and shown.rstrip().endswith(":"):
                time.sleep(0.1)  # getpass drops what was typed before it listens
                os.write(ours, waiting.pop(0).encode() + b"\n")
        elif process.poll() is not None:
            break
    process.kill()
    output = process.communicate()[0].decode()
    os.close(ours)
    return output, shown
